"""Chat lines, ready for the text encoder and for the hashed n-grams beside it."""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as _HfTokenizer

from counterpoint.engine.preprocess.spec import ChatSpec

Int64Array = npt.NDArray[np.int64]

BEFORE = 2
"""In an attention mask: a token of a line before. It is read, but it is not what is encoded."""

# Escapes that some collections of tweets carry in place of the characters (SemEval: ``\u2019``,
# ``\""``); both halves of a surrogate pair are joined.
_UNICODE_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_QUOTE_ESCAPE = re.compile(r'\\"+')
_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "`": "'", "´": "'"})
_URL = re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE)
_HANDLE = re.compile(r"(?<![\w@.])@\w+")
_REPEATED = re.compile(r"([^\d\s])\1{3,}")
_SPACE = re.compile(r"\s+")
# Invisible characters that would split words; the joiner (200D) and the variation selectors stay,
# as emoji are made of them.
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200c\u2060\ufeff\ud800-\udfff]")

_EMOJI = (
    r"[\U0001F1E6-\U0001F1FF]{2}"  # flags
    r"|[\U0001F300-\U0001FAFF\u2600-\u27BF\u2B00-\u2BFF\u2190-\u21FF\u2300-\u23FF]"
    r"[\uFE0F\U0001F3FB-\U0001F3FF]*"
    r"(?:\u200D[\U0001F300-\U0001FAFF\u2600-\u27BF][\uFE0F\U0001F3FB-\U0001F3FF]*)*"
)
_EMOTICON = (
    r"</?3+(?!\w)"  # hearts
    r"|[<>]?[:;=][-o*'^]*(?:[)(\[\]}{|\\/@$*]+|[dpsxoc3]+(?!\w))"
    r"|[)(\[\]]+[-o*'^]?[:;=](?!\w)"
    r"|(?<!\w)x[-']?[)(]+"
    r"|\^[_.-]*\^|-_+-|(?<!\w)[ot]_+[ot](?!\w)|>_+<"
)
_TOKEN = re.compile(
    rf"(?P<emoji>{_EMOJI})|(?P<emoticon>{_EMOTICON})"
    r"|(?P<word>[@#]?\w+(?:'\w+)*)|(?P<mark>([^\w\s])(?:\5)*)"
)

_STOP_WORDS = """
a about after again all am an and any are as at be because been before being between both by
can could did do does doing down during each few for from further had has have having he her
here hers him his how i if in into is it its itself just me more most my myself of off on
once only or other our ours out over own same she should so some such than that the their
theirs them then there these they this those through to too under until up very was we were
what when where which while who whom why will with would you your yours
"""
ENGLISH_STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Function words of English. Negations are not among them: they turn a sentiment round."""


def normalise(text: str) -> str:
    """One line in the form that all text inputs are made of.

    In this order: ``\\uXXXX`` and ``\\"`` escapes and HTML entities become their characters;
    Unicode NFKC; curly quotes become straight; invisible characters go; a character repeated more
    than three times stays three times (digits as they are); URLs become ``http`` and handles
    ``@user``, as TweetEval writes them; white space becomes one space. Case stays.
    """
    text = _UNICODE_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    text = html.unescape(_QUOTE_ESCAPE.sub('"', text))
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    text = _INVISIBLE.sub("", text)
    text = _REPEATED.sub(r"\1\1\1", text)
    text = _HANDLE.sub("@user", _URL.sub("http", text))
    return _SPACE.sub(" ", text).strip()


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a line: case-folded text, and whether it is a word with letters or digits."""

    text: str
    is_word: bool


def tokens(text: str, *, stop_words: frozenset[str] = frozenset()) -> list[Token]:
    """Split a normalised line into words (with ``#``, ``@`` and inner apostrophes), emoji,
    emoticons and runs of one punctuation mark, case-folded, without ``stop_words``."""
    return [
        Token(match[0], match.lastgroup == "word")
        for match in _TOKEN.finditer(text.casefold())
        if match[0] not in stop_words
    ]


def _ngrams(found: Sequence[Token]) -> Iterator[str]:
    """Word 1-grams, word 2-grams, then character 3- to 5-grams of each word between its borders.

    The prefix keeps the three kinds apart in the hash table.
    """
    yield from (f"1{token.text}" for token in found)
    yield from (f"2{a.text} {b.text}" for a, b in itertools.pairwise(found))
    for token in found:
        if token.is_word:
            bordered = f" {token.text} "
            for size in (3, 4, 5):
                for start in range(len(bordered) - size + 1):
                    yield f"c{bordered[start : start + size]}"


def hashed_ngrams(
    text: str, spec: ChatSpec, *, stop_words: frozenset[str] = frozenset()
) -> Int64Array:
    """Bucket ids (B,) int64 of a normalised line's n-grams, 0 <= B <= max_ngrams.

    Ids are ``1 + CRC-32(n-gram in UTF-8) % ngram_buckets``, each once, in order of first sight:
    words before pairs of words before characters, so a cut-off line keeps its words. CRC-32 is
    the same in every process and on every machine; on short strings it spreads evenly.
    """
    seen: dict[int, None] = {}
    for ngram in _ngrams(tokens(text, stop_words=stop_words)):
        seen[1 + zlib.crc32(ngram.encode()) % spec.ngram_buckets] = None
        if len(seen) == spec.max_ngrams:
            break
    return np.fromiter(seen, np.int64, len(seen))


def pad_ids(lines: Iterable[Int64Array], *, fill: int = 0) -> Int64Array:
    """Rows of different lengths as (N, longest) int64, at least one column, filled at the end."""
    rows = list(lines)
    out = np.full((len(rows), max([1, *map(len, rows)])), fill, np.int64)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out


class Tokenizer:
    """The text encoder's own tokeniser, from the bundle's ``tokenizer.json``.

    Attributes:
        marks: special tokens that it puts at a line's beginning.
    """

    def __init__(self, path: Path, spec: ChatSpec) -> None:
        """
        Raises:
            ValueError: the file is no tokeniser.
        """
        try:
            # The library raises a bare Exception for whatever it cannot read.
            self._tokenizer = _HfTokenizer.from_file(str(path))
            marks = self._tokenizer.encode("a").special_tokens_mask
        except Exception as error:
            raise ValueError(f"{path}: not a tokeniser: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=spec.max_tokens)
        self._spec = spec
        self.marks = next((at for at, special in enumerate(marks) if not special), 0)

    def encode(self, text: str, before: Sequence[str] = ()) -> tuple[Int64Array, Int64Array]:
        """Token ids and attention mask, each (1, L) int64, of a normalised line.

        Special tokens are counted and kept when a line is cut. The tokens of the line come first,
        then those of the lines before it, from the oldest to the newest, without marks of a
        beginning. L <= max_tokens, and before_tokens more with lines before.

        Args:
            before: normalised, from the oldest to the newest; the newest before_lines count.

        Returns:
            The ids; and 1 for the tokens of the line, `BEFORE` for those of the lines before it.
        """
        kept = before[-self._spec.before_lines :] if self._spec.before_lines else ()
        earlier = [self.ids(line)[self.marks :] for line in kept]
        ids, mask = read_with(self.ids(text), earlier, self._spec)
        return ids[None], mask[None]

    def ids(self, text: str) -> Int64Array:
        """Token ids (L,) int64 of a normalised line by itself, L <= max_tokens."""
        return np.array(self._tokenizer.encode(text).ids, np.int64)


def read_with(
    own: Int64Array, before: Sequence[Int64Array], spec: ChatSpec
) -> tuple[Int64Array, Int64Array]:
    """Token ids and attention mask, each (L,) int64, of a line and the lines before it, as
    `Tokenizer.encode` puts them together.

    Args:
        before: ids of the lines before, without marks of a beginning, from the oldest on.
    """
    earlier = [token for ids in before for token in ids.tolist()][-spec.before_tokens :]
    return (
        np.concatenate([own, np.array(earlier, np.int64)]),
        np.concatenate([np.ones(len(own), np.int64), np.full(len(earlier), BEFORE, np.int64)]),
    )
