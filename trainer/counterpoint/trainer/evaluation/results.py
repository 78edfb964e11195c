"""From what the engine said of each row to the figures of every head and subset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoint.engine.bundle import Bundle
from counterpoint.engine.manifest import MASKS
from counterpoint.trainer.data.index import Example
from counterpoint.trainer.evaluation.figures import (
    MODALITIES,
    Answers,
    Bin,
    Figure,
    PerClass,
    confusion_of,
    figures,
    per_class,
    reliability,
)
from counterpoint.trainer.evaluation.scoring import Said, Scored
from counterpoint.trainer.metrics import Labels, expected_calibration_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """Rows that have all modalities of ``mask``, answered with just these.

    Fields:
        rows, speakers: how many.
        figures: by name (`figures.NAMES`).
        best_member: the highest macro recall of one of its modalities alone, on the same rows.
    """

    mask: str
    rows: int
    speakers: int
    figures: Mapping[str, Figure]
    best_member: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What a modality adds to logits, mean over the rows that have it.

    Fields:
        rows: how many.
        to_actual, to_predicted: to the logit of that label.
        size: mean of its absolute values over all labels.
        heard: share of windows in which the model heard it.
    """

    rows: int
    to_actual: float
    to_predicted: float
    size: float
    heard: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row's actual and predicted label, side by side."""

    id: str
    row: int
    speaker: str
    mask: str
    actual: str
    predicted: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadResult:
    """One head on the rows that have a label of it.

    Fields:
        speakers: how many different ones.
        figures: each row answered with all it has.
        window_ece: of single windows, which is what an application sees.
        subsets: by mask, as far as rows have them.
        contributions: by modality.
    """

    head: str
    labels: tuple[str, ...]
    rows: int
    speakers: int
    figures: Mapping[str, Figure]
    window_ece: float
    confusion: Labels
    classes: Sequence[PerClass]
    reliability: Sequence[Bin]
    subsets: Mapping[str, Subset]
    contributions: Mapping[str, Contribution]
    lines: Sequence[Line]


def head_results(
    bundle: Bundle, scored: Sequence[Scored], *, seed: int, resamples: int
) -> list[HeadResult]:
    """A result for each head of the bundle that any row has a label of."""
    return [
        _head_result(head, spec.labels, labelled, seed, resamples)
        for head, spec in bundle.manifest.heads.items()
        if (labelled := [row for row in scored if head in row.example.labels])
    ]


def speaker_of(example: Example) -> str:
    """Where a row names no speaker it counts as one of its own."""
    return f"row {example.row}" if example.speaker is None else example.speaker


def _head_result(
    head: str, labels: tuple[str, ...], scored: Sequence[Scored], seed: int, resamples: int
) -> HeadResult:
    answers = _answers(head, scored, None)
    truth = np.repeat(answers.truth, [len(row.said[row.mask].heard) for row in scored])
    windows = np.concatenate([row.said[row.mask].probabilities[head] for row in scored])
    return HeadResult(
        head=head,
        labels=labels,
        rows=len(scored),
        speakers=len(set(answers.speakers)),
        figures=figures(answers, seed=seed, resamples=resamples),
        window_ece=expected_calibration_error(truth, windows),
        confusion=confusion_of(answers),
        classes=per_class(answers, labels),
        reliability=reliability(answers),
        subsets={
            mask: _subset(head, mask, having, seed, resamples)
            for mask in MASKS
            if (having := [row for row in scored if mask in row.said])
        },
        contributions={
            name: found
            for place, name in enumerate(MODALITIES)
            if (found := _contribution(head, place, scored)) is not None
        },
        lines=[
            Line(
                id=row.example.id,
                row=row.example.row,
                speaker=row.example.speaker or "",
                mask=row.mask,
                actual=labels[truth],
                predicted=labels[predicted],
                confidence=float(answers.probabilities[at, predicted]),
            )
            for at, (row, truth, predicted) in enumerate(
                zip(scored, answers.truth.tolist(), answers.predicted.tolist(), strict=True)
            )
        ],
    )


def _answers(head: str, scored: Sequence[Scored], mask: str | None) -> Answers:
    """With the modalities of ``mask``; None is all that each row has."""
    return Answers(
        truth=np.array([row.example.labels[head] for row in scored], np.int64),
        probabilities=np.stack([row.said[mask or row.mask].answer(head) for row in scored]),
        speakers=[speaker_of(row.example) for row in scored],
    )


def _subset(head: str, mask: str, having: Sequence[Scored], seed: int, resamples: int) -> Subset:
    answers = _answers(head, having, mask)
    members = [
        "".join("1" if place == at else "0" for at in range(len(mask)))
        for place, bit in enumerate(mask)
        if bit == "1"
    ]
    alone = [
        figures(_answers(head, having, member), seed=seed, resamples=0)["macro_recall"].value
        for member in members
    ]
    return Subset(
        mask=mask,
        rows=len(having),
        speakers=len(set(answers.speakers)),
        figures=figures(answers, seed=seed, resamples=resamples),
        best_member=max(alone),
    )


def heard_share(said: Sequence[Said], place: int) -> float:
    """Share of windows in which the model heard the modality at that place of a mask; each row
    counts alike."""
    return float(np.mean([np.mean([mask[place] == "1" for mask in one.heard]) for one in said]))


def _contribution(head: str, place: int, scored: Sequence[Scored]) -> Contribution | None:
    having = [row for row in scored if row.mask[place] == "1"]
    if not having:
        return None
    said = [row.said[row.mask] for row in having]
    given = np.stack([one.contributions[head][:, place].mean(axis=0) for one in said])
    rows = np.arange(len(having))
    actual = np.array([row.example.labels[head] for row in having], np.int64)
    predicted = np.array([one.answer(head).argmax() for one in said], np.int64)
    return Contribution(
        rows=len(having),
        to_actual=float(given[rows, actual].mean()),
        to_predicted=float(given[rows, predicted].mean()),
        size=float(np.abs(given).mean()),
        heard=heard_share(said, place),
    )
