"""Temperature scaling (Guo et al. 2017, arXiv:1706.04599), one temperature a mask, bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import GroupKFold
from torch import Tensor

LOWEST, HIGHEST = 0.5, 5.0
"""Outside, a temperature says more about too few samples than about the model."""
MOST_FOLDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """What a head says with one set of modalities heard.

    Fields:
        logits: (N, C), not scaled.
        target: (N, C), rows sum to 1; hard labels are one-hot rows.
        weight: (N,) how much each counts, all positive; None for all alike.
        speakers: N names, for the figures on speakers that were left out; None where unknown.
    """

    logits: Tensor
    target: Tensor
    weight: Tensor | None = None
    speakers: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A temperature and what it does to the cross-entropy (nats).

    Fields:
        temperature: in [`LOWEST`, `HIGHEST`].
        plain: with the temperature 1.
        scaled: with the temperature, on the samples that it was fitted on; never above ``plain``.
        left_out: with temperatures fitted on other speakers than those it is measured on; None
            where there are fewer than two.
    """

    temperature: float
    plain: float
    scaled: float
    left_out: float | None


def fit_masks(samples: Mapping[str, Samples]) -> dict[str, Fitted]:
    """One temperature for each mask, in the order given. The samples must be of held-out speakers.

    Raises:
        ValueError: no sample, or logits that are not finite; the message names the mask.
    """
    found = {}
    for mask, given in samples.items():
        if not len(given.logits):
            raise ValueError(f"mask {mask}: nothing to fit a temperature on")
        if not torch.isfinite(given.logits).all():
            raise ValueError(f"mask {mask}: logits are not finite")
        temperature = fit_temperature(given.logits, given.target, given.weight)
        found[mask] = Fitted(
            temperature=temperature,
            plain=cross_entropy(given, 1.0),
            scaled=cross_entropy(given, temperature),
            left_out=_left_out(given),
        )
    return found


def mean_shares(logits: Tensor, temperature: float, weight: Tensor | None = None) -> list[float]:
    """(C,) mean of ``softmax(logits / temperature)`` over N rows, to five digits.

    Args:
        logits: (N, C).
        weight: (N,) how much each counts; None for all alike.
    """
    found = softmax(logits.numpy(), temperature)
    mean = np.average(found, axis=0, weights=None if weight is None else weight.numpy())
    return [round(value, 5) for value in mean.tolist()]


def cross_entropy(samples: Samples, temperature: float) -> float:
    """Weighted mean of the cross-entropy of ``softmax(logits / temperature)``."""
    return _loss(samples.logits, samples.target, samples.weight, 1 / temperature)


def fit_temperature(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> float:
    """The temperature in [0.5, 5] with the least cross-entropy of ``softmax(logits / T)``.

    The loss is convex in 1 / T, so a golden-section search finds it. What it finds is never worse
    than the temperature 1.

    Args:
        logits: (N, C).
        target: (N, C) rows that sum to 1; hard labels are one-hot rows.
        weight: (N,) positive; None for all alike.
    """

    def loss(inverse: float) -> float:
        return _loss(logits, target, weight, inverse)

    low, high = 1 / HIGHEST, 1 / LOWEST
    ratio = (np.sqrt(5.0) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    loss_a, loss_b = loss(a), loss(b)
    while high - low > 1e-4:
        if loss_a < loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - ratio * (high - low)
            loss_a = loss(a)
        else:
            low, a, loss_a = a, b, loss_b
            b = low + ratio * (high - low)
            loss_b = loss(b)
    # The plain temperature first: it stays where nothing is better.
    best = min((1.0, low, (low + high) / 2, high, 1 / HIGHEST, 1 / LOWEST), key=loss)
    return float(1 / best)


def _loss(logits: Tensor, target: Tensor, weight: Tensor | None, inverse: float) -> float:
    # In double precision: near the optimum losses differ by less than single precision can tell.
    each = F.cross_entropy(logits.double() * inverse, target.double(), reduction="none")
    if weight is None:
        return float(each.mean())
    share = weight.double()
    return float((each * share).sum() / share.sum())


def _left_out(samples: Samples) -> float | None:
    names = samples.speakers
    if names is None or len(set(names)) < 2:
        return None
    folds = GroupKFold(min(MOST_FOLDS, len(set(names))))
    total, mass = 0.0, 0.0
    for fitted_on, measured_on in folds.split(samples.logits, groups=list(names)):
        inside, outside = _rows(samples, fitted_on), _rows(samples, measured_on)
        temperature = fit_temperature(inside.logits, inside.target, inside.weight)
        share = len(measured_on) if outside.weight is None else float(outside.weight.sum())
        total += share * cross_entropy(outside, temperature)
        mass += share
    return total / mass


def _rows(samples: Samples, chosen: np.ndarray) -> Samples:
    rows = torch.from_numpy(chosen)
    return Samples(
        logits=samples.logits[rows],
        target=samples.target[rows],
        weight=None if samples.weight is None else samples.weight[rows],
    )


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N, C) float64 probabilities."""
    with torch.inference_mode():
        scaled = torch.from_numpy(np.asarray(logits, np.float64)) / temperature
        probabilities: np.ndarray = torch.softmax(scaled, dim=1).numpy()
    return probabilities
