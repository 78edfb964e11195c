"""The study of dialogue, on lines made here."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import random

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch
from transformers import BertConfig, BertModel

from counterpoint.engine.preprocess.text import Int64Array
from counterpoint.trainer.data.text import TextLine
from counterpoint.trainer.sentence import SentenceEncoder
from counterpoint.trainer.studies.meld_context import CONTEXT_TOKENS, fit, with_context

pytestmark = pytest.mark.trainer


def encode(text: str) -> Int64Array:
    """[1, word ids from 3 on, 2], as a tokenizer puts marks around a line."""
    return np.array([1, *(3 + int(word) for word in text.split()), 2], np.int64)


def said(text: str, emotion: int, dialogue: int) -> TextLine:
    return TextLine(source="meld", text=text, emotion=(emotion,), group=f"dialogue {dialogue}")


def dialogues(count: int, seed: int) -> list[TextLine]:
    """Two lines each; the second is always alike, and how it is meant the first one tells."""
    draw = random.Random(seed)
    lines = []
    for dialogue in range(count):
        first = draw.randrange(2)
        lines += [said(str(first), 0, dialogue), said("5", 1 + first, dialogue)]
    return lines


def tiny() -> SentenceEncoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    return SentenceEncoder(BertModel(config))


def test_lines_before_are_those_of_the_same_dialogue_the_newest_last() -> None:
    lines = [said("0", 0, 1), said("1", 0, 1), said("2", 0, 1), said("3", 0, 2)]
    ids = [found.tolist() for found in with_context(lines, encode, 2).ids]
    assert ids == [[1, 3, 2], [1, 4, 2, 3, 2], [1, 5, 2, 3, 2, 4, 2], [1, 6, 2]]
    alone = with_context(lines, encode, 0).ids
    assert [found.tolist() for found in alone] == [encode(line.text).tolist() for line in lines]
    long = " ".join("4" for _ in range(CONTEXT_TOKENS + 5))
    cut = with_context([said(long, 0, 1), said("1", 0, 1)], encode, 1).ids[1]
    assert len(cut) == 3 + CONTEXT_TOKENS
    assert cut[-1] == 2


def test_only_with_the_line_before_it_is_known_how_a_line_is_meant() -> None:
    figures = {}
    for before in (0, 1):
        training, held_out = (
            with_context(dialogues(count, seed), encode, before)
            for count, seed in ((200, 0), (60, 1))
        )
        figures[before] = fit(
            tiny(), training, held_out, epochs=8, learning_rate=5e-3, seed=0, say=lambda _: None
        )[-1]["accuracy"]
    # Half of the lines are first ones, which tell nothing of what is to be told apart.
    assert figures[0] < 0.85
    assert figures[1] > 0.95
