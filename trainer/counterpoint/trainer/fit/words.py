"""Words as ids: a vocabulary counted in the training part, or a checkpoint's own tokeniser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer as Words
from tokenizers import normalizers, pre_tokenizers
from tokenizers.models import WordLevel

from counterpoint.engine.preprocess.text import ENGLISH_STOP_WORDS, normalise
from counterpoint.streams.errors import UsageError
from counterpoint.trainer.fit.config import TextConfig
from counterpoint.trainer.nets.texts import OWN_VOCABULARY

PAD, UNKNOWN = "[PAD]", "[UNK]"
_STOPPABLE: Final = (*OWN_VOCABULARY, "ngrams")


def write_tokenizer(path: Path, config: TextConfig, texts: Iterable[str]) -> None:
    """Write ``tokenizer.json`` for the run and, later, its bundle.

    Args:
        texts: of the training part only.

    Raises:
        UsageError: the checkpoint has none, stop words where they cannot be left out, or lines
            before where a line is read by itself.
    """
    if config.stop_words and config.encoder not in _STOPPABLE:
        raise UsageError(f"text.stop_words: only with {', '.join(_STOPPABLE)}")
    if config.before_lines and config.encoder in _STOPPABLE:
        raise UsageError(f"text.before_lines: {config.encoder} reads each line by itself")
    path.parent.mkdir(parents=True, exist_ok=True)
    if config.checkpoint:
        source = Path(config.checkpoint) / "tokenizer.json"
        if not source.is_file():
            raise UsageError(f"text.checkpoint: there is no {source}")
        path.write_bytes(source.read_bytes())
        return
    words = _splitter()
    counts: Counter[str] = Counter()
    for text in texts:
        for line in lines_of(text):
            # Both are untyped in the library.
            folded = str(words.normalizer.normalize_str(line))
            counts.update(word for word, _ in words.pre_tokenizer.pre_tokenize_str(folded))
    # By frequency, then by the alphabet: the same ids in every process.
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: config.vocabulary]
    ids = {word: number for number, word in enumerate([PAD, UNKNOWN, *frequent])}
    words.model = WordLevel(ids, unk_token=UNKNOWN)
    words.save(str(path))


def _splitter() -> Words:
    words = Words(WordLevel({PAD: 0, UNKNOWN: 1}, unk_token=UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return words


def vocabulary(path: Path) -> tuple[int, tuple[int, ...]]:
    """Number of words of a tokeniser, and the ids of English stop words and of padding."""
    words = Words.from_file(str(path))
    ids = words.get_vocab()
    stop = sorted(number for word, number in ids.items() if word in ENGLISH_STOP_WORDS)
    return words.get_vocab_size(), (0, *stop)


def lines_of(text: str) -> list[str]:
    """A text's lines, normalised, as lines of chat would come in."""
    return [line for line in map(normalise, text.splitlines()) if line]
