"""Temperatures: bounded, never worse than none, the same every time, and those of the masks."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.support import need_trainer

need_trainer()

import torch
from torch import Tensor
from torch.nn import functional

from counterpoint.trainer.calibrate import (
    HIGHEST,
    LOWEST,
    Samples,
    cross_entropy,
    fit_masks,
    fit_temperature,
    mean_shares,
)

pytestmark = pytest.mark.trainer


def samples(
    seed: int, rows: int, scale: float, *, soft: bool = False, weighted: bool = False
) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, 4, generator=generator)
    drawn = torch.softmax(torch.randn(rows, 4, generator=generator), dim=1)
    target = drawn if soft else functional.one_hot(drawn.argmax(dim=1), 4).float()
    weight = 0.1 + torch.rand(rows, generator=generator) if weighted else None
    return Samples(logits=logits, target=target, weight=weight)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 40),
    scale=st.floats(0.0, 1e4),
    soft=st.booleans(),
    weighted=st.booleans(),
)
@settings(max_examples=60)
def test_bounded_never_worse_than_none_and_the_same_every_time(
    seed: int, rows: int, scale: float, soft: bool, weighted: bool
) -> None:
    given_samples = samples(seed, rows, scale, soft=soft, weighted=weighted)
    temperature = fit_temperature(given_samples.logits, given_samples.target, given_samples.weight)
    assert LOWEST <= temperature <= HIGHEST
    plain = cross_entropy(given_samples, 1.0)
    assert cross_entropy(given_samples, temperature) <= plain * (1 + 1e-12)
    again = fit_temperature(given_samples.logits, given_samples.target, given_samples.weight)
    assert again == temperature


@given(seed=st.integers(0, 10_000), scale=st.floats(0.05, 20.0))
@settings(max_examples=30)
def test_no_other_temperature_within_the_bounds_is_better(seed: int, scale: float) -> None:
    given_samples = samples(seed, 25, scale)
    temperature = fit_temperature(given_samples.logits, given_samples.target)
    best = cross_entropy(given_samples, temperature)
    for other in np.geomspace(LOWEST, HIGHEST, 40):
        assert best <= cross_entropy(given_samples, float(other)) + 1e-6 * (1 + abs(best))


def test_mean_shares_are_those_of_scaled_and_weighted_rows() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0) * 2, 0.0]])
    assert mean_shares(logits, 2.0) == pytest.approx([(0.5 + 0.75) / 2, (0.5 + 0.25) / 2], abs=1e-5)
    weight = torch.tensor([3.0, 1.0]).double()
    assert mean_shares(logits, 2.0, weight)[0] == pytest.approx((3 * 0.5 + 0.75) / 4, abs=1e-5)


def test_a_weight_counts_as_that_many_samples() -> None:
    once = samples(3, 12, 2.0)
    counts = torch.tensor([1.0, 3.0] * 6)
    repeated = torch.repeat_interleave(torch.arange(12), counts.long())
    assert fit_temperature(once.logits, once.target, counts) == pytest.approx(
        fit_temperature(once.logits[repeated], once.target[repeated]), abs=1e-3
    )


def test_each_mask_gets_a_temperature_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    found = fit_masks({"100": _made(0.7, generator), "011": _made(2.5, generator)})
    assert list(found) == ["100", "011"]
    assert found["100"].temperature == pytest.approx(0.7, rel=0.1)
    assert found["011"].temperature == pytest.approx(2.5, rel=0.1)
    for fitted in found.values():
        assert fitted.scaled < fitted.plain
        assert fitted.left_out is None


def _made(temperature: float, generator: torch.Generator, rows: int = 4_000) -> Samples:
    """Labels drawn from ``softmax(logits / temperature)``."""
    logits = 2 * torch.randn(rows, 3, generator=generator)
    labels = torch.multinomial(torch.softmax(logits / temperature, dim=1), 1, generator=generator)
    return Samples(logits=logits, target=functional.one_hot(labels.squeeze(1), 3).float())


def test_speakers_left_out_show_what_their_own_samples_would_hide() -> None:
    # For one speaker the model is always right, for the other one always wrong: together a low
    # confidence is best, and a temperature fitted on one of them is bad for the other.
    logits = torch.tensor([[3.0, 0.0]] * 20)
    target = functional.one_hot(torch.tensor([0] * 10 + [1] * 10), 2).float()
    speakers = ["ann"] * 10 + ["bob"] * 10
    fitted = fit_masks({"100": Samples(logits=logits, target=target, speakers=speakers)})["100"]
    assert fitted.temperature == pytest.approx(HIGHEST)
    assert fitted.left_out is not None
    softplus = math.log1p(math.exp(3 / LOWEST))  # bob, with the temperature that suits ann
    mild = math.log1p(math.exp(-3 / HIGHEST))  # ann, with the one that suits bob
    assert fitted.left_out == pytest.approx((softplus + mild) / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "said"),
    [(torch.zeros(0, 3), "nothing to fit"), (torch.full((2, 3), torch.nan), "not finite")],
)
def test_what_cannot_be_fitted_names_its_mask(logits: Tensor, said: str) -> None:
    target = torch.full(logits.shape, 1 / 3)
    with pytest.raises(ValueError, match=f"mask 101: .*{said}"):
        fit_masks({"101": Samples(logits=logits, target=target)})
