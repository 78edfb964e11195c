"""Heads by style, which lines are drawn, what they teach, and going on after an interruption."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from counterpoint.engine.preprocess.text import BEFORE, Int64Array
from counterpoint.trainer.affect.heads import STYLES, Answers, StyleHeads, mix
from counterpoint.trainer.affect.text_fit import (
    Lines,
    Targets,
    TextModel,
    fit_text,
    line_loss,
    line_weights,
    optimiser_of,
    rate_factor,
)
from counterpoint.trainer.affect.text_tokens import Tokens, batches_of_like_length
from counterpoint.trainer.config import TextConfig
from counterpoint.trainer.data.text import BEFORE_LINES, TextLine
from counterpoint.trainer.labels import EMOTION
from counterpoint.trainer.models import MINILM_DIM, TEXT_DIM
from counterpoint.trainer.sentence import SentenceEncoder

pytestmark = pytest.mark.trainer

HAPPY, SAD, ANGRY, NEUTRAL = (EMOTION.index(name) for name in ("happy", "sad", "angry", "neutral"))
SHORT = TextConfig(
    epochs=4, falling_epochs=2, lines_per_epoch=20, batch_size=8, tuned_layers=1,
    shares={"meld": 0.5, "semeval": 0.25, "tweeteval_emotion": 0.25},
    balance={"meld": 0.0, "semeval": 0.0, "tweeteval_emotion": 0.0},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def line(source: str, text: str = "a line", **labels: Any) -> TextLine:
    return dataclasses.replace(
        TextLine(source=source, text=text, emotion=(HAPPY,), group=text), **labels
    )


def answers_for(style: list[float], emotion: Tensor | None = None) -> Answers:
    return Answers(
        hidden=torch.zeros(1, StyleHeads.HIDDEN),
        style=torch.tensor([style]),
        sentiment=torch.randn(1, 2, 3),
        emotion=torch.randn(1, 2, 7) if emotion is None else emotion,
    )


def test_a_line_of_a_sure_style_gets_the_answer_of_that_style() -> None:
    answers = answers_for([-40.0, 40.0, -40.0])
    sentiment, emotion = mix(answers)
    torch.testing.assert_close(emotion, torch.log_softmax(answers.emotion[:, 1], dim=1))
    torch.testing.assert_close(sentiment, torch.log_softmax(answers.sentiment[:, 0], dim=1))


def test_a_doubtful_line_gets_the_mean_of_the_styles_that_know_the_label() -> None:
    # Tweets have no emotions of all seven: how much it looks like one does not matter there.
    answers = answers_for([1.0, 1.0, 5.0])
    _, emotion = mix(answers)
    mean = torch.softmax(answers.emotion, dim=2).mean(dim=1)
    torch.testing.assert_close(emotion.exp(), mean)
    torch.testing.assert_close(emotion.exp().sum(), torch.tensor(1.0))


@torch.inference_mode()
def test_cooling_changes_one_style_of_one_head() -> None:
    heads = StyleHeads().eval()
    embedding = torch.randn(5, TEXT_DIM)
    before = heads.answers(embedding)
    heads.cool("emotion", "dialogue", 2.0)
    after = heads.answers(embedding)
    torch.testing.assert_close(after.emotion[:, 1], before.emotion[:, 1] / 2)
    torch.testing.assert_close(after.emotion[:, 0], before.emotion[:, 0])
    torch.testing.assert_close(after.sentiment, before.sentiment)


def gradients(style: str, **labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the loss of one line, style loss aside: by emotion (2, 7), sentiment (2, 3), tweets."""
    answers = answers_for([0.3, -0.2, 0.1])
    for tensor in (answers.emotion, answers.sentiment):
        tensor.requires_grad_()
    tweets = torch.randn(1, 4, requires_grad=True)
    targets = Targets(
        style=torch.tensor([STYLES.index(style)]),
        emotion=labels.get("emotion", torch.zeros(1, 7)),
        sentiment=labels.get("sentiment", torch.tensor([-1])),
        tweet=labels.get("tweet", torch.tensor([-1])),
    )
    loss = line_loss(answers, tweets, targets, 0.0)
    torch.autograd.backward(loss)
    found = [tensor.grad for tensor in (answers.emotion, answers.sentiment, tweets)]
    emotion, sentiment, four = (
        torch.zeros_like(tensor) if grad is None else grad
        for tensor, grad in zip((answers.emotion, answers.sentiment, tweets), found, strict=True)
    )
    return emotion[0], sentiment[0], four[0]


def one(position: int, classes: int = 7) -> Tensor:
    return nn.functional.one_hot(torch.tensor([position]), classes).float()


def test_a_label_teaches_the_answer_of_its_own_style_and_no_other() -> None:
    emotion, sentiment, tweets = gradients(
        "dialogue", emotion=one(SAD), sentiment=torch.tensor([2])
    )
    assert emotion[1].abs().min() > 0
    assert emotion[0].abs().max() == 0
    assert sentiment.abs().sum(dim=1).bool().tolist() == [True, False]
    assert tweets.abs().max() == 0
    emotion, sentiment, _ = gradients("tweet", sentiment=torch.tensor([0]))
    assert sentiment.abs().sum(dim=1).bool().tolist() == [False, True]
    assert emotion.abs().max() == 0


def test_a_choice_of_three_says_nothing_of_the_other_four() -> None:
    answers = answers_for([40.0, 0.0, 0.0])
    targets = Targets(
        style=torch.tensor([STYLES.index("tweet")]),
        emotion=one(HAPPY),
        sentiment=torch.tensor([-1]),
        tweet=torch.tensor([2]),
    )
    tweets = torch.zeros(1, 4)
    before = line_loss(answers, tweets, targets, 0.0)
    answers.emotion[:, :, [NEUTRAL, EMOTION.index("fear")]] += 9
    torch.testing.assert_close(line_loss(answers, tweets, targets, 0.0), before)
    answers.emotion[:, :, ANGRY] += 9
    assert line_loss(answers, tweets, targets, 0.0) > before + 1
    emotion, sentiment, four = gradients("tweet", emotion=one(HAPPY), tweet=torch.tensor([2]))
    assert emotion.abs().max() > 0
    assert four.abs().min() > 0
    assert sentiment.abs().max() == 0


def test_sets_are_drawn_by_their_shares_and_classes_by_the_balance() -> None:
    lines = [
        *[line("meld", emotion=(NEUTRAL,))] * 8,
        *[line("meld", emotion=(SAD,))] * 2,
        *[line("semeval", emotion=(), sentiment=0)] * 5,
    ]
    even = dataclasses.replace(SHORT, shares={"meld": 0.75, "semeval": 0.25, "goemotions": 0.0})
    weights = line_weights(lines, dataclasses.replace(even, balance={"meld": 0, "semeval": 0}))
    assert weights[:10].tolist() == pytest.approx([0.075] * 10)
    assert weights[10:].tolist() == pytest.approx([0.05] * 5)
    weights = line_weights(lines, dataclasses.replace(even, balance={"meld": 1, "semeval": 0}))
    assert float(weights[:8].sum()) == pytest.approx(float(weights[8:10].sum()))
    assert float(weights[:10].sum()) == pytest.approx(0.75)


def test_labels_of_a_set_are_smoothed_and_those_of_others_and_missing_ones_are_not() -> None:
    lines = [
        line("meld", emotion=(SAD,)), line("goemotions", emotion=(SAD, ANGRY)),
        line("semeval", emotion=(), sentiment=1),
    ]  # fmt: skip
    sharp, smooth = (Lines.of(lines, part).emotion for part in ({}, {"meld": 0.14, "semeval": 0.5}))
    torch.testing.assert_close(smooth[0, SAD], torch.tensor(0.86 + 0.02))
    torch.testing.assert_close(smooth[0, HAPPY], torch.tensor(0.02))
    torch.testing.assert_close(smooth[1:], sharp[1:])
    assert sharp[2].sum() == 0


def test_rates_rise_stay_and_fall_to_zero() -> None:
    config = dataclasses.replace(SHORT, epochs=10, falling_epochs=4)
    found = [rate_factor(progress, config) for progress in (0.5, 1, 6, 8, 10)]
    assert found == pytest.approx([0.5, 1, 1, 0.5, 0])


def test_a_lower_layer_is_slower_and_those_below_are_frozen() -> None:
    encoder, model = tiny_encoder(layers=3), TextModel(SHORT)
    config = dataclasses.replace(SHORT, tuned_layers=2, layer_decay=0.5)
    optimiser = optimiser_of(encoder, model, config)
    rates = {
        id(parameter): group["full_rate"]
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    first, second, third = encoder.layers
    assert not any(parameter.requires_grad for parameter in first.parameters())
    top, below = (rates[id(next(layer.parameters()))] for layer in (third, second))
    assert (top, below) == (config.encoder_learning_rate, config.encoder_learning_rate / 2)


def test_batches_hold_each_row_once_and_little_padding() -> None:
    lengths = [3, 30] * 16
    batches = batches_of_like_length(lengths, 8, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(32))
    for batch in batches:
        assert len({lengths[place] for place in batch.tolist()}) == 1


@pytest.mark.parametrize(("rows", "most"), [(33, 9), (34, 8), (1, 1), (9, 9)])
def test_no_row_is_left_alone_in_a_batch(rows: int, most: int) -> None:
    batches = batches_of_like_length([3] * rows, 8, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(rows))
    assert max(len(batch) for batch in batches) == most
    assert rows == 1 or min(len(batch) for batch in batches) > 1


def tiny_encoder(layers: int = 2) -> SentenceEncoder:
    return SentenceEncoder(
        BertModel(
            BertConfig(
                vocab_size=30, hidden_size=MINILM_DIM, num_hidden_layers=layers,
                num_attention_heads=2, intermediate_size=16, max_position_embeddings=16,
            )
        )
    )  # fmt: skip


def tokens_of(lines: list[TextLine], own: list[list[int]]) -> Tokens:
    """Each line but the first of its set is said after the one above it."""
    ids = [torch.tensor(row).numpy() for row in own]
    before: list[tuple[Int64Array, ...]] = [
        (ids[row - 1][1:],) if row and lines[row - 1].source == line.source == "meld" else ()
        for row, line in enumerate(lines)
    ]
    return Tokens(own=ids, before=before, source=[line.source for line in lines])


def test_lines_of_a_dialogue_are_read_with_all_some_or_none_of_those_before_them() -> None:
    before = tuple(torch.tensor([word, 3]).numpy() for word in (11, 12, 13))
    tokens = Tokens(own=[torch.tensor([1, 5, 3]).numpy()], before=[before], source=["meld"])
    everything = [1, 5, 3, 11, 3, 12, 3, 13, 3]

    def read(whole: float) -> list[list[int]]:
        config = dataclasses.replace(SHORT, whole_context=whole, strange_context=1.0)
        rows = torch.zeros(200, dtype=torch.int64)
        found = tokens.drawn(rows, config, torch.Generator().manual_seed(0))
        for ids, mask in found:
            assert mask.tolist() == [1, 1, 1] + [BEFORE] * (len(ids) - 3)
        return [ids.tolist() for ids, _ in found]

    assert read(1.0) == [everything] * 200
    cut = [[1, 5, 3], [1, 5, 3, 13, 3], [1, 5, 3, 12, 3, 13, 3]]
    assert {*map(tuple, read(0.0))} == {*map(tuple, cut)}
    mixed = read(0.7)
    assert 110 < mixed.count(everything) < 170


def test_lines_of_other_sets_are_sometimes_read_with_lines_of_their_own_set() -> None:
    own = [torch.tensor([1, 5 + n, 3]).numpy() for n in range(20)]
    sources = ["semeval"] * 10 + ["goemotions"] * 10
    tokens = Tokens(own=own, before=[()] * 20, source=sources)
    rows = torch.arange(20).repeat(40)
    config = dataclasses.replace(SHORT, strange_context=0.25)
    found = tokens.drawn(rows, config, torch.Generator().manual_seed(0))
    strange = 0
    for row, (ids, _) in zip(rows.tolist(), found, strict=True):
        assert ids[:3].tolist() == own[row].tolist()
        words = [int(word) - 5 for word in ids[3:] if word > 3]
        assert len(words) <= BEFORE_LINES
        assert {sources[word] for word in words} <= {sources[row]}
        strange += bool(words)
    assert 0.18 < strange / len(found) < 0.32


@torch.inference_mode()
def test_lines_before_change_an_embedding_and_are_not_part_of_its_mean() -> None:
    encoder = tiny_encoder().eval()

    def embedding(ids: list[int], mask: list[int]) -> Tensor:
        found: Tensor = encoder(torch.tensor([ids]), torch.tensor([mask]))[0]
        return found

    alone = embedding([1, 5, 3], [1, 1, 1])
    after = [embedding([1, 5, 3, word, 3], [1, 1, 1, BEFORE, BEFORE]) for word in (7, 8)]
    assert not torch.allclose(after[0], after[1], atol=1e-5)
    assert not torch.allclose(after[0], alone, atol=1e-5)
    states = encoder.bert(
        input_ids=torch.tensor([[1, 5, 3, 7, 3]]),
        token_type_ids=torch.tensor([[0, 0, 0, 1, 1]]),
    ).last_hidden_state
    torch.testing.assert_close(after[0], nn.functional.normalize(states[0, :3].mean(dim=0), dim=0))
    padded = embedding([1, 5, 3, 7, 3, 0], [1, 1, 1, BEFORE, BEFORE, 0])
    torch.testing.assert_close(padded, after[0])


class Run:
    """A small fit that may be interrupted while the epoch ``stop`` ends."""

    def __init__(self, folder: Path, config: TextConfig, stop: int | None = None) -> None:
        torch.manual_seed(1)
        self.said: list[str] = []
        self.stop = stop
        self.encoder, self.model = tiny_encoder(), TextModel(config)
        lines = [
            *[line("meld", f"see {n}", emotion=(n % 7,), sentiment=n % 3) for n in range(20)],
            *[line("semeval", f"so {n}", emotion=(), sentiment=n % 3) for n in range(10)],
            *[line("tweeteval_emotion", f"oh {n}", tweet_emotion=1) for n in range(10)],
        ]
        tokens = tokens_of(lines, [[1, 2 + n % 20, 3] for n in range(len(lines))])
        generator = torch.Generator().manual_seed(1)
        fit_text(
            self.encoder, self.model, Lines.of(lines), tokens, config, 1, generator, folder,
            self._say,
        )  # fmt: skip

    def _say(self, text: str) -> None:
        self.said.append(text)
        if self.stop is not None and text.startswith(f"epoch {self.stop}/"):
            raise InterruptedError

    def weights(self) -> dict[str, Tensor]:
        return {**self.encoder.state_dict(), **self.model.state_dict()}


def assert_same(one_run: Run, other: Run) -> None:
    for name, tensor in one_run.weights().items():
        assert torch.equal(tensor, other.weights()[name]), name


def test_lines_read_without_their_n_grams_teach_them_nothing(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tiny_encoder()
    start = TextModel(SHORT).ngrams.table.weight
    for dropped, moved in ((1.0, False), (0.5, True)):
        config = dataclasses.replace(SHORT, bag_dropout=dropped, weight_decay=0.0)
        run = Run(tmp_path / str(dropped), config)
        assert torch.equal(run.model.ngrams.table.weight, start) is not moved


def test_an_interrupted_fit_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", SHORT)
    with pytest.raises(InterruptedError):
        Run(tmp_path / "parts", SHORT, stop=3)
    rest = Run(tmp_path / "parts", SHORT)
    assert rest.said[0] == "goes on after epoch 2"
    assert_same(whole, rest)


@pytest.mark.parametrize("other", [{"epochs": 6}, {"epochs": 3, "falling_epochs": 1}])
def test_before_the_fall_a_run_of_another_length_goes_on_and_after_it_starts_anew(
    tmp_path: Path, other: dict[str, int]
) -> None:
    changed: dict[str, Any] = {**other}
    longer = dataclasses.replace(SHORT, **changed)
    whole = Run(tmp_path / "whole", longer)
    with pytest.raises(InterruptedError):
        Run(tmp_path / "early", SHORT, stop=3)  # two epochs of four, level so far
    early = Run(tmp_path / "early", longer)
    assert early.said[0] == "goes on after epoch 2"
    assert_same(whole, early)
    with pytest.raises(InterruptedError):
        Run(tmp_path / "late", SHORT, stop=4)
    late = Run(tmp_path / "late", longer)
    assert late.said[0].startswith(f"epoch 1/{longer.epochs} ")
    assert_same(whole, late)


def test_other_settings_start_anew(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        Run(tmp_path, SHORT, stop=3)
    other = Run(tmp_path, dataclasses.replace(SHORT, dropout=0.1))
    assert other.said[0].startswith("epoch 1/4")


def test_a_fit_learns_and_sees_every_line_before_any_again(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    class Counting(Lines):
        def bags(self, rows: Tensor) -> Tensor:
            seen.update(self.lines[row].text for row in rows.tolist())
            return super().bags(rows)

    lines = [line("meld", f"see {n}", emotion=(n % 2,), sentiment=n % 2) for n in range(40)]
    made = Lines.of(lines)
    counting = Counting(lines=made.lines, buckets=made.buckets, targets=made.targets)
    tokens = tokens_of(lines, [[1, 2 + n % 2, 3] for n in range(40)])
    config = dataclasses.replace(
        SHORT, epochs=6, dropout=0.0, encoder_dropout=0.0, learning_rate=1e-2,
        shares={"meld": 1.0}, balance={"meld": 0.0},
    )  # fmt: skip
    losses: list[float] = []
    fit_text(
        tiny_encoder(), TextModel(config), counting, tokens, config, 0,
        torch.Generator().manual_seed(0), tmp_path,
        lambda text: losses.append(float(text.split("loss ")[1].split(",")[0])),
    )  # fmt: skip
    assert set(seen.values()) == {3}  # 6 epochs of 20 lines, 40 lines
    assert losses[-1] < losses[0] / 2
