"""Figures of one head, with intervals by bootstrap over speakers.

Rows of one speaker resemble each other, so it is speakers that are drawn with replacement (a
cluster bootstrap; Efron & Tibshirani 1993, percentile intervals), each with all its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sklearn.calibration import calibration_curve

from counterpoint.trainer.metrics import (
    ECE_BINS,
    Floats,
    Labels,
    accuracy,
    confusion,
    expected_calibration_error,
    f1_scores,
    macro_f1,
    macro_recall,
    recalls,
    weighted_f1,
)

MODALITIES: Final = ("video", "audio", "chat")
"""In the order of a mask."""
NAMES: Final = ("accuracy", "macro_recall", "macro_f1", "weighted_f1", "ece")
RESAMPLES: Final = 1_000
LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A value and its 95 % interval; None where fewer than two speakers allow for none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PerClass:
    """One class: how many rows have it, how many of them are found, and its F1."""

    label: str
    rows: int
    recall: float
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """A bar of the reliability diagram: mean confidence, share that is right, how many rows."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Rows with a label of one head.

    Fields:
        truth: (N,) int64 class positions.
        probabilities: (N, C).
        speakers: N names.
    """

    truth: Labels
    probabilities: Floats
    speakers: Sequence[str]

    @property
    def predicted(self) -> Labels:
        found: Labels = self.probabilities.argmax(axis=1)
        return found

    def rows(self, chosen: Labels) -> Answers:
        return Answers(
            truth=self.truth[chosen],
            probabilities=self.probabilities[chosen],
            speakers=[self.speakers[row] for row in chosen.tolist()],
        )


def values(answers: Answers) -> dict[str, float]:
    """All of `NAMES`."""
    truth, predicted, classes = answers.truth, answers.predicted, answers.probabilities.shape[1]
    return {
        "accuracy": accuracy(truth, predicted),
        "macro_recall": macro_recall(truth, predicted, classes),
        "macro_f1": macro_f1(truth, predicted, classes),
        "weighted_f1": weighted_f1(truth, predicted, classes),
        "ece": expected_calibration_error(truth, answers.probabilities),
    }


def figures(answers: Answers, *, seed: int, resamples: int = RESAMPLES) -> dict[str, Figure]:
    """All of `NAMES` with their intervals; the same for the same seed."""
    return with_intervals(
        lambda rows: values(answers.rows(rows)), answers.speakers, seed=seed, resamples=resamples
    )


def with_intervals(
    measure: Callable[[Labels], Mapping[str, float]],
    speakers: Sequence[str],
    *,
    seed: int,
    resamples: int,
) -> dict[str, Figure]:
    """What ``measure`` finds of all rows, with intervals by drawing speakers.

    Args:
        measure: positions of rows -> figures by name. One that a draw has no value for (NaN) is
            left out of its interval.
        speakers: of each row.
    """
    found = measure(np.arange(len(speakers)))
    drawn = _drawn(measure, speakers, seed, resamples)
    edges = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    figures = {}
    for name, value in found.items():
        sample = [one[name] for one in drawn if not math.isnan(one[name])]
        low, high = np.quantile(sample, edges).tolist() if sample else (None, None)
        figures[name] = Figure(value=value, low=low, high=high)
    return figures


def _drawn(
    measure: Callable[[Labels], Mapping[str, float]],
    speakers: Sequence[str],
    seed: int,
    resamples: int,
) -> list[Mapping[str, float]]:
    names, owner = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    if len(names) < 2:
        return []
    rows_of = [np.flatnonzero(owner == position) for position in range(len(names))]
    random = np.random.default_rng(seed)
    # Of few speakers there are few different draws.
    known: dict[tuple[int, ...], Mapping[str, float]] = {}
    drawn = []
    for _ in range(resamples):
        draw = tuple(sorted(random.integers(0, len(names), len(names)).tolist()))
        if draw not in known:
            chosen = np.concatenate([rows_of[position] for position in draw])
            known[draw] = measure(chosen)
        drawn.append(known[draw])
    return drawn


def per_class(answers: Answers, labels: Sequence[str]) -> list[PerClass]:
    """A line for each class."""
    truth, predicted, classes = answers.truth, answers.predicted, len(labels)
    counts = np.bincount(truth, minlength=classes)
    recall, f1 = recalls(truth, predicted, classes), f1_scores(truth, predicted, classes)
    return [
        PerClass(
            label=label,
            rows=int(counts[place]),
            recall=float(recall[place]),
            f1=float(f1[place]),
        )
        for place, label in enumerate(labels)
    ]


def confusion_of(answers: Answers) -> Labels:
    """(C, C) counts: rows are actual, columns predicted."""
    return confusion(answers.truth, answers.predicted, answers.probabilities.shape[1])


def reliability(answers: Answers) -> list[Bin]:
    """The bins of the ECE that hold rows, by rising confidence."""
    confidence = answers.probabilities.max(axis=1)
    right = answers.predicted == answers.truth
    share, mean = calibration_curve(right, confidence, n_bins=ECE_BINS, strategy="uniform")
    # As scikit-learn puts them into bins.
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=ECE_BINS)
    return [
        Bin(confidence=float(x), accuracy=float(y), rows=int(rows))
        for x, y, rows in zip(mean, share, counts[counts > 0], strict=True)
    ]


def spelled(mask: str) -> str:
    """``"101"`` as ``video + chat``."""
    return " + ".join(name for name, bit in zip(MODALITIES, mask, strict=True) if bit == "1")


def shown(figure: Figure, digits: int = 3) -> str:
    """``0.812 (0.77 to 0.85)``"""
    value = f"{figure.value:.{digits}f}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def as_json(found: Mapping[str, Figure]) -> dict[str, dict[str, float | None]]:
    """Rounded to what it is good for."""
    return {
        name: {
            "value": round(figure.value, 5),
            "low": None if figure.low is None else round(figure.low, 5),
            "high": None if figure.high is None else round(figure.high, 5),
        }
        for name, figure in found.items()
    }
