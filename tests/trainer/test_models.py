"""Shapes, the audio encoder's promise to stream, and what masks and states may not do."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch
from torch import Tensor, nn

from counterpoint.trainer.affect.fusion import Lone, Pool, answers_of, draw_triples
from counterpoint.trainer.affect.heads import StyleHeads
from counterpoint.trainer.models import (
    AUDIO_DIM,
    TEXT_DIM,
    VISION_DIM,
    AudioEncoder,
    AudioSequence,
    Combine,
    LateFusion,
    NgramBag,
    VisionEncoder,
    masked_mean,
)

pytestmark = pytest.mark.trainer

FusionInputs = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_fusion() -> LateFusion:
    table = torch.softmax(torch.randn(7, 3), dim=1)
    fusion = LateFusion(
        nn.Linear(VISION_DIM, 7),
        AudioSequence(),
        nn.Linear(2 * AudioSequence.HIDDEN, 7),
        StyleHeads(),
        table,
    ).eval()
    for combine in (fusion.sentiment, fusion.emotion):
        nn.init.normal_(combine.prior)
        nn.init.normal_(combine.unheard)
    return fusion


def fusion_inputs(state: list[list[int]]) -> FusionInputs:
    count = len(state)
    return {
        "vision": torch.randn(count, 8, VISION_DIM),
        "vision_mask": torch.ones(count, 8),
        "audio": torch.randn(count, 60, AUDIO_DIM),
        "audio_mask": torch.ones(count, 60),
        "text": torch.randn(count, 8, TEXT_DIM),
        "text_mask": torch.ones(count, 8),
        "state": torch.tensor(state),
    }


def test_encoders_give_the_shapes_of_the_contract() -> None:
    assert VisionEncoder().eval()(torch.randn(3, 1, 48, 48)).shape == (3, 128)
    assert AudioEncoder().eval()(torch.randn(3, 39, 64)).shape == (3, 5, 96)
    assert NgramBag(100)(torch.randint(1, 101, (3, 9))).shape == (3, 32)


@torch.inference_mode()
def test_audio_hop_by_hop_equals_the_whole_clip() -> None:
    encoder = AudioEncoder().eval()
    clip = torch.randn(1, 14 + 8 * 25, 64)
    whole = encoder(clip)
    hops = torch.cat([clip[:, 25 * k : 25 * k + 39] for k in range(8)])
    assert whole.shape == (1, 40, 96)
    torch.testing.assert_close(encoder(hops).reshape(1, 40, 96), whole, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_mean_over_nothing_is_zero_and_padding_has_no_weight() -> None:
    bag = NgramBag(100)
    torch.testing.assert_close(bag(torch.tensor([[5, 9, 0, 0]])), bag(torch.tensor([[5, 9]])))
    assert bag(torch.zeros(2, 3, dtype=torch.int64)).abs().max() == 0
    values = torch.tensor([[[1.0], [float("nan")], [3.0]]])
    assert masked_mean(values, torch.tensor([[1.0, 0.0, 1.0]])).item() == 2
    assert masked_mean(values, torch.zeros(1, 3)).item() == 0


@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
@torch.inference_mode()
def test_what_stands_at_a_masked_position_cannot_change_the_output(modality: str) -> None:
    fusion = make_fusion()
    inputs = fusion_inputs([[1, 1, 1]] * 2)
    inputs[f"{modality}_mask"][:, [0, 3]] = 0
    before = fusion(**inputs)
    inputs[modality][:, [0, 3]] = 1e3
    for one, other in zip(before, fusion(**inputs), strict=True):
        assert torch.equal(one, other)
    inputs[modality][:, 4] += 1
    assert not torch.equal(before[2], fusion(**inputs)[2])


@pytest.mark.parametrize(("column", "modality"), list(enumerate(["vision", "audio", "text"])))
@pytest.mark.parametrize("state", [0, 2])
@torch.inference_mode()
def test_an_absent_modality_adds_nothing_whatever_its_tensor_holds(
    column: int, modality: str, state: int
) -> None:
    fusion = make_fusion()
    states = [[1, 1, 1]]
    states[0][column] = state
    inputs = fusion_inputs(states)
    before = fusion(**inputs)
    inputs[modality] += 7
    after = fusion(**inputs)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
    assert before[1][:, column].abs().max() == before[3][:, column].abs().max() == 0


@torch.inference_mode()
def test_contributions_and_bias_sum_to_the_logits() -> None:
    fusion = make_fusion()
    states = [[1, 1, 1], [1, 0, 2], [0, 0, 0], [0, 1, 0]]
    sentiment, sentiment_parts, emotion, emotion_parts = fusion(**fusion_inputs(states))
    assert sentiment_parts.shape == (4, 3, 3)
    assert emotion_parts.shape == (4, 3, 7)
    for parts, combine, logits in (
        (emotion_parts, fusion.emotion, emotion),
        (sentiment_parts, fusion.sentiment, sentiment),
    ):
        heard = [0, 1, 3]
        torch.testing.assert_close(parts.sum(dim=1)[heard] + combine.prior, logits[heard])
        torch.testing.assert_close(logits[2], combine.unheard)


@torch.inference_mode()
def test_one_modality_alone_keeps_its_own_answer() -> None:
    combine = Combine(7)
    nn.init.normal_(combine.prior)
    own = torch.randn(5, 3, 7)
    logits, _ = combine(own, torch.tensor([[0, 1, 0]] * 5))
    expected = torch.softmax(own[:, 1] * combine.weight[1], dim=1)
    torch.testing.assert_close(torch.softmax(logits, dim=1), expected)


@torch.inference_mode()
def test_sentiment_of_faces_follows_the_table() -> None:
    fusion = make_fusion()
    sure = torch.full((1, 7), -50.0)
    sure[0, 4] = 50
    torch.testing.assert_close(torch.exp(fusion.derive(sure))[0], fusion.table[4])


def make_pool(classes: list[int]) -> Pool:
    emotion = torch.tensor(classes)
    return Pool(
        emotion_logits=nn.functional.one_hot(emotion, 7).float(),
        sentiment_logits=torch.zeros(len(classes), 3),
        emotion=emotion,
        sentiment=torch.full((len(classes), 3), 1 / 3),
    )


def test_triples_are_matched_by_class_and_skip_classes_that_a_set_lacks() -> None:
    pools = [make_pool([0, 0, 1, 5]), make_pool([0, 1, 1]), make_pool([1, 0, 5])]
    generator = torch.Generator().manual_seed(0)
    triples = draw_triples(pools, "111", 200, generator)
    wanted = triples.emotion.argmax(dim=1)
    for column in range(3):
        assert torch.equal(triples.emotion_logits[:, column].argmax(dim=1), wanted)
    assert set(wanted.tolist()) == {0, 1}  # audio has no class 5
    alone = draw_triples(pools, "100", 400, generator)
    assert set(alone.emotion.argmax(dim=1).tolist()) == {0, 1, 5}
    assert alone.state.tolist() == [[1, 0, 0]] * 400


@torch.inference_mode()
def test_chat_alone_is_half_lines_of_the_set_that_has_only_this_label() -> None:
    pools = [make_pool([0, 1]), make_pool([0, 1]), make_pool([0, 1])]
    lone = Lone(tweets=make_pool([6, 6, 6]), comments=make_pool([4, 4]))
    generator = torch.Generator().manual_seed(0)
    fusion = make_fusion()
    triples = draw_triples(pools, "001", 50, generator)
    logits, target = answers_of(fusion, "emotion", triples, "001", lone, generator)
    assert target.argmax(dim=1).tolist() == [*triples.emotion.argmax(dim=1).tolist(), *[4] * 50]
    # With one modality heard the answer is its own, whatever was learned of several.
    assert torch.equal(logits.argmax(dim=1), target.argmax(dim=1))
    assert len(answers_of(fusion, "sentiment", triples, "001", lone, generator)[0]) == 100
    together = draw_triples(pools, "101", 50, generator)
    assert len(answers_of(fusion, "emotion", together, "101", lone, generator)[0]) == 50


def test_two_halves_make_the_whole() -> None:
    first, second = make_pool([0, 3]), make_pool([5])
    assert first.and_also(second).emotion.tolist() == [0, 3, 5]
    assert first.and_also(second).emotion_logits.argmax(dim=1).tolist() == [0, 3, 5]
