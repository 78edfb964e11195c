"""The study of dialogue, on lines made here."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer as Words
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from tests.trainer.support import need_trainer

need_trainer()

import torch
from transformers import BertConfig, BertModel

from counterpoint.engine.preprocess.text import Tokenizer
from counterpoint.trainer.affect.text_tokens import SPEC
from counterpoint.trainer.data.text import TextLine
from counterpoint.trainer.sentence import SentenceEncoder
from counterpoint.trainer.studies.meld_context import fit, with_context

pytestmark = pytest.mark.trainer


WORDS = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "0": 3, "1": 4, "5": 5, "[UNK]": 6}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """[1, word ids from 3 on, 2], as marks stand around a line."""
    words = Words(WordLevel(WORDS, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    words.save(str(path))
    return Tokenizer(path, SPEC)


def said(text: str, emotion: int, dialogue: int, *before: str) -> TextLine:
    group = f"dialogue {dialogue}"
    return TextLine(source="meld", text=text, emotion=(emotion,), group=group, before=before)


def dialogues(count: int, seed: int) -> list[TextLine]:
    """Two lines each; the second is always alike, and how it is meant the first one tells."""
    draw = random.Random(seed)
    lines = []
    for dialogue in range(count):
        first = draw.randrange(2)
        lines += [said(str(first), 0, dialogue), said("5", 1 + first, dialogue, str(first))]
    return lines


def tiny() -> SentenceEncoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    return SentenceEncoder(BertModel(config))


def test_as_many_lines_before_are_read_as_asked_for(tokenizer: Tokenizer) -> None:
    lines = [said("5", 0, 1, "0", "1"), said("5", 0, 1)]
    found = [
        [ids.tolist() for ids, _ in with_context(lines, tokenizer, before).read]
        for before in (0, 1, 3)
    ]
    alone = [1, 5, 2]
    assert found == [
        [alone, alone], [[*alone, 4, 2], alone], [[*alone, 3, 2, 4, 2], alone],
    ]  # fmt: skip


def test_only_with_the_line_before_it_is_known_how_a_line_is_meant(tokenizer: Tokenizer) -> None:
    figures = {}
    for before in (0, 1):
        training, held_out = (
            with_context(dialogues(count, seed), tokenizer, before)
            for count, seed in ((200, 0), (60, 1))
        )
        figures[before] = fit(
            tiny(), training, held_out, epochs=8, learning_rate=5e-3, seed=0, say=lambda _: None
        )[-1]["accuracy"]
    # Half of the lines are first ones, which tell nothing of what is to be told apart.
    assert figures[0] < 0.85
    assert figures[1] > 0.95
