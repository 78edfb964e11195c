"""From what the engine said of each row to the figures of tasks whose answers are numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from counterpoint.engine.bundle import Bundle
from counterpoint.engine.manifest import MASKS, NumberSpec
from counterpoint.trainer.evaluation.figures import MODALITIES, Figure, with_intervals
from counterpoint.trainer.evaluation.results import heard_share, speaker_of
from counterpoint.trainer.evaluation.scoring import Scored
from counterpoint.trainer.metrics import Floats, Labels, concordance

TITLES: Final = {
    "mae": "mean absolute error",
    "mae_of_mean": "error of the mean",
    "ccc": "concordance",
}
"""Figures of a number. ``mae_of_mean``: of who always says the mean of the labels learned from.
``ccc``: concordance correlation (Lin 1989); left out where rows allow for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberSubset:
    """Rows that have all modalities of ``mask``, answered with just these."""

    mask: str
    rows: int
    speakers: int
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberContribution:
    """What a modality adds to the number, over the rows that have it.

    Fields:
        rows: how many.
        mean, size: mean of what it adds, and of its absolute value.
        heard: share of windows in which the model heard it.
    """

    rows: int
    mean: float
    size: float
    heard: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberLine:
    """One row's actual and predicted number, side by side."""

    id: str
    row: int
    speaker: str
    mask: str
    actual: float
    predicted: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NumberResult:
    """One number on the rows that have a label of it. A row's answer is its windows' mean.

    Fields:
        speakers: how many different ones.
        figures: by name (`TITLES`), each row answered with all it has.
        subsets: by mask, as far as rows have them.
        contributions: by modality.
    """

    name: str
    rows: int
    speakers: int
    figures: Mapping[str, Figure]
    subsets: Mapping[str, NumberSubset]
    contributions: Mapping[str, NumberContribution]
    lines: Sequence[NumberLine]


def number_results(
    bundle: Bundle, scored: Sequence[Scored], *, seed: int, resamples: int
) -> list[NumberResult]:
    """A result for each number of the bundle that any row has a label of."""
    return [
        _result(name, spec, labelled, seed, resamples)
        for name, spec in bundle.manifest.numbers.items()
        if (labelled := [row for row in scored if name in row.example.labels])
    ]


def number_values(truth: Floats, said: Floats, mean: float) -> dict[str, float]:
    """All of `TITLES`, of N rows; NaN is what they allow for no value of."""
    return {
        "mae": float(np.abs(said - truth).mean()),
        "mae_of_mean": float(np.abs(mean - truth).mean()),
        "ccc": concordance(truth, said),
    }


def _result(
    name: str, spec: NumberSpec, scored: Sequence[Scored], seed: int, resamples: int
) -> NumberResult:
    return NumberResult(
        name=name,
        rows=len(scored),
        speakers=len({speaker_of(row.example) for row in scored}),
        figures=_figures(name, spec, scored, None, seed, resamples),
        subsets={
            mask: NumberSubset(
                mask=mask,
                rows=len(having),
                speakers=len({speaker_of(row.example) for row in having}),
                figures=_figures(name, spec, having, mask, seed, resamples),
            )
            for mask in MASKS
            if (having := [row for row in scored if mask in row.said])
        },
        contributions={
            modality: _contribution(name, place, having)
            for place, modality in enumerate(MODALITIES)
            if (having := [row for row in scored if row.mask[place] == "1"])
        },
        lines=[
            NumberLine(
                id=row.example.id,
                row=row.example.row,
                speaker=row.example.speaker or "",
                mask=row.mask,
                actual=float(row.example.labels[name]),
                predicted=float(row.said[row.mask].values[name].mean()),
            )
            for row in scored
        ],
    )


def _figures(
    name: str, spec: NumberSpec, scored: Sequence[Scored], mask: str | None, seed: int,
    resamples: int,
) -> dict[str, Figure]:  # fmt: skip
    """With the modalities of ``mask``; None is all that each row has."""
    truth = np.array([row.example.labels[name] for row in scored], np.float64)
    said = np.array([row.said[mask or row.mask].values[name].mean() for row in scored])

    def measure(rows: Labels) -> dict[str, float]:
        return number_values(truth[rows], said[rows], spec.mean)

    speakers = [speaker_of(row.example) for row in scored]
    found = with_intervals(measure, speakers, seed=seed, resamples=resamples)
    return {key: figure for key, figure in found.items() if not math.isnan(figure.value)}


def _contribution(name: str, place: int, having: Sequence[Scored]) -> NumberContribution:
    said = [row.said[row.mask] for row in having]
    given = np.array([one.contributions[name][:, place, 0].mean() for one in said])
    return NumberContribution(
        rows=len(having),
        mean=float(given.mean()),
        size=float(np.abs(given).mean()),
        heard=heard_share(said, place),
    )
