"""One normal form, stable n-gram ids, and the encoder's tokeniser."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from counterpoint.engine.preprocess.spec import ChatSpec
from counterpoint.engine.preprocess.text import (
    BEFORE,
    ENGLISH_STOP_WORDS,
    Tokenizer,
    hashed_ngrams,
    normalise,
    pad_ids,
    read_with,
    tokens,
)

SPEC = ChatSpec()


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("  two\t lines\r\nof  text ", "two lines of text"),
        ("see https://t.co/x?y=1 and www.example.org", "see http and http"),
        ("@Bob_1 hi @bob!", "@user hi @user!"),
        ("mail me@example.org", "mail me@example.org"),
        ("soooooo gooood!!!!!!", "sooo goood!!!"),
        ("1000000 times", "1000000 times"),
        ("Tom &amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("&#128512; &quot;hi&quot;", '😀 "hi"'),
        (r"I\u2019m here\u002c now", "I'm here, now"),
        (r'\ud83d\ude00 \""hi\""', '😀 "hi"'),
        ("\ud83d alone", "alone"),
        ("ｆｕｌｌ ﬁt …", "full fit ..."),
        ("“curly” ‘quotes’", "\"curly\" 'quotes'"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen", "zerowidth softhyphen"),
        ("👨\u200d👩\u200d👧 ❤️", "👨\u200d👩\u200d👧 ❤️"),
        ("Case STAYS", "Case STAYS"),
        ("", ""),
    ],
)
def test_normal_form(raw: str, normal: str) -> None:
    assert normalise(raw) == normal


@given(st.text(max_size=200))
@example(r"\ud83d\ude00\udead")
@example("&amp;amp;amp;")
def test_a_normal_form_is_clean_and_can_be_encoded(text: str) -> None:
    normal = normalise(text)
    assert normal.encode("utf-8").decode("utf-8") == normal
    assert "  " not in normal
    assert normal == normal.strip()
    assert all(
        not (a == b == c == d) or a.isdigit()
        for a, b, c, d in zip(normal, normal[1:], normal[2:], normal[3:], strict=False)
    )


def words(text: str) -> list[str]:
    return [token.text for token in tokens(normalise(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I can't, won't!!!", ["i", "can't", ",", "won't", "!!!"]),
        ("#Happy @bob http://x.y", ["#happy", "@user", "http"]),
        ("fun :) :-D ;P :'( <3 xD", ["fun", ":)", ":-d", ";p", ":'(", "<3", "xd"]),
        ("^_^ T_T (: x)", ["^_^", "t_t", "(:", "x)"]),
        ("nice👍🏽👍🏽 🇵🇱", ["nice", "👍🏽", "👍🏽", "🇵🇱"]),
        ("👨\u200d👩\u200d👧❤️", ["👨\u200d👩\u200d👧", "❤️"]),
        ("what?! no...", ["what", "?", "!", "no", "..."]),
        ("at 10:30 he said: no", ["at", "10", ":", "30", "he", "said", ":", "no"]),
        ("Żółć straße", ["żółć", "strasse"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(max_size=200))
def test_no_letter_or_digit_is_lost_between_tokens(text: str) -> None:
    normal = normalise(text).casefold()
    kept = "".join(token.text for token in tokens(normalise(text)))
    assert [c for c in kept if c.isalnum()] == [c for c in normal if c.isalnum()]


def test_stop_words_go_and_negations_stay() -> None:
    left = tokens(normalise("I am not the one, nor is she"), stop_words=ENGLISH_STOP_WORDS)
    assert [token.text for token in left] == ["not", "one", ",", "nor"]


def test_ngrams_are_words_pairs_and_characters_between_borders() -> None:
    ngrams = ["1so", "1abc", "1!", "2so abc", "2abc !"]
    ngrams += ["c so", "cso ", "c so "]
    ngrams += ["c ab", "cabc", "cbc ", "c abc", "cabc ", "c abc "]  # none of the mark
    expected = [1 + zlib.crc32(ngram.encode()) % 32_768 for ngram in ngrams]
    assert hashed_ngrams("So abc!", SPEC).tolist() == expected
    # Once each, however often they are said.
    assert set(hashed_ngrams("So abc! So abc! So abc!", SPEC)) >= set(expected)
    assert len(hashed_ngrams("so so so so", SPEC)) == len(hashed_ngrams("so so", SPEC))


def test_ids_are_the_same_in_every_version() -> None:
    # CRC-32 of "1ok", "c ok", "cok ", "c ok " by zlib, as a bundle's weights expect them.
    assert hashed_ngrams("ok", SPEC).tolist() == [6414, 3754, 6473, 19208]


def test_ids_are_the_same_in_every_process() -> None:
    code = (
        "from counterpoint.engine.preprocess.spec import ChatSpec\n"
        "from counterpoint.engine.preprocess.text import hashed_ngrams\n"
        "print(*hashed_ngrams('so good 👍 :)', ChatSpec()))"
    )
    for seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert run.stdout.split() == [str(i) for i in hashed_ngrams("so good 👍 :)", SPEC)]


@given(st.text(max_size=300), st.integers(1, 600), st.integers(1, 100_000))
def test_ids_lie_in_the_table_each_once_and_are_cut_at_the_end(
    text: str, max_ngrams: int, buckets: int
) -> None:
    normal = normalise(text)
    spec = ChatSpec(max_ngrams=max_ngrams, ngram_buckets=buckets)
    ids = hashed_ngrams(normal, spec)
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert len(ids) <= max_ngrams
    assert len(set(ids.tolist())) == len(ids)
    assert ((ids >= 1) & (ids <= buckets)).all()
    longer = hashed_ngrams(normal, ChatSpec(max_ngrams=max_ngrams + 7, ngram_buckets=buckets))
    assert np.array_equal(ids, longer[: len(ids)])


def test_ids_spread_evenly() -> None:
    text = " ".join(f"word{number}" for number in range(3_000))
    ids = hashed_ngrams(text, ChatSpec(ngram_buckets=1024, max_ngrams=10**9))
    few = ChatSpec(ngram_buckets=2**20, max_ngrams=10**9)
    drawn = len(hashed_ngrams(text, few))
    # As many buckets taken as by so many draws at random, within 1 %.
    assert len(ids) == pytest.approx(1024 * (1 - (1 - 1 / 1024) ** drawn), rel=0.01)


def test_rows_are_padded_at_the_end() -> None:
    rows = [np.array([3, 1], np.int64), np.array([], np.int64), np.array([2], np.int64)]
    assert pad_ids(rows).tolist() == [[3, 1], [0, 0], [2, 0]]
    assert pad_ids(rows[:1], fill=9).tolist() == [[3, 1]]
    assert pad_ids([rows[1]]).shape == (1, 1)
    assert pad_ids([]).shape == (0, 1)


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer.json")


def write_tokenizer(path: Path) -> Path:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "so": 4, "good": 5}
    tokenizer = HfTokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # A file may ask for padding and a length of its own; the specification decides.
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(max_length=3)
    tokenizer.save(str(path))
    return path


def test_lines_are_tokenised_without_padding(tokenizer_file: Path) -> None:
    ids, mask = Tokenizer(tokenizer_file, SPEC).encode("So good 👍")
    assert ids.tolist() == [[2, 4, 5, 1, 3]]
    assert mask.tolist() == [[1, 1, 1, 1, 1]]
    assert ids.dtype == mask.dtype == np.int64


def test_long_lines_are_cut_and_keep_their_special_tokens(tokenizer_file: Path) -> None:
    ids, mask = Tokenizer(tokenizer_file, ChatSpec(max_tokens=6)).encode("so " * 2_000)
    assert ids.tolist() == [[2, 4, 4, 4, 4, 3]]
    assert mask.shape == (1, 6)


def test_an_empty_line_has_its_special_tokens(tokenizer_file: Path) -> None:
    assert Tokenizer(tokenizer_file, SPEC).encode("")[0].tolist() == [[2, 3]]


def test_lines_before_follow_the_line_without_their_beginning_and_the_newest_is_whole(
    tokenizer_file: Path,
) -> None:
    spec = ChatSpec(before_lines=2, before_tokens=5, max_tokens=6)
    tokenizer = Tokenizer(tokenizer_file, spec)
    assert tokenizer.marks == 1
    ids, mask = tokenizer.encode("good", ["good good", "so", "so good"])
    assert ids.tolist() == [[2, 5, 3, 4, 3, 4, 5, 3]]
    assert mask.tolist() == [[1, 1, 1] + [BEFORE] * 5]
    assert ids.dtype == mask.dtype == np.int64
    # The line itself is not cut for what was before it, and of that the oldest goes first.
    ids, mask = tokenizer.encode("so " * 20, ["good " * 20, "so"])
    assert ids.tolist() == [[2, 4, 4, 4, 4, 3, 5, 5, 3, 4, 3]]
    assert mask.sum() == 6 + 5 * BEFORE


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("before", [[], ["so"], ["so", "good"], ["so", "good", "so good", "so"]])
def test_only_as_many_lines_as_a_specification_asks_for_are_read(
    tokenizer_file: Path, count: int, before: list[str]
) -> None:
    tokenizer = Tokenizer(tokenizer_file, ChatSpec(before_lines=count))
    ids, mask = tokenizer.encode("good", before)
    kept = [tokenizer.ids(line)[1:] for line in before[len(before) - min(count, len(before)) :]]
    expected = read_with(tokenizer.ids("good"), kept, ChatSpec())
    assert ids.tolist() == [expected[0].tolist()]
    assert mask.tolist() == [expected[1].tolist()]
    assert ids.shape[1] == 3 + sum(map(len, kept))


def test_a_tokeniser_without_marks_loses_no_word_of_the_lines_before(tmp_path: Path) -> None:
    plain = HfTokenizer(models.WordLevel({"[UNK]": 0, "so": 1, "good": 2}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    plain.save(str(path))
    ids, _ = Tokenizer(path, ChatSpec(before_lines=1)).encode("so", ["good so"])
    assert ids.tolist() == [[1, 2, 1]]


def test_a_file_that_is_no_tokeniser_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer(path, SPEC)
    with pytest.raises(ValueError, match="nowhere"):
        Tokenizer(tmp_path / "nowhere", SPEC)
