"""Figures of hand-made answers, and intervals that draw speakers, not rows."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.trainer.evaluation.figures import (
    NAMES,
    Answers,
    Figure,
    as_json,
    confusion_of,
    figures,
    per_class,
    reliability,
)

pytestmark = pytest.mark.trainer


def answers(
    truth: Sequence[int],
    predicted: Sequence[int],
    *,
    confidence: float = 1.0,
    classes: int = 3,
    speakers: Sequence[str] | None = None,
) -> Answers:
    rest = (1 - confidence) / (classes - 1)
    probabilities = np.full((len(truth), classes), rest)
    probabilities[np.arange(len(truth)), list(predicted)] = confidence
    return Answers(
        truth=np.array(truth, np.int64),
        probabilities=probabilities,
        speakers=list(speakers or [f"s{row}" for row in range(len(truth))]),
    )


def test_figures_of_a_case_counted_by_hand() -> None:
    # Class 0: two of three found; class 1: one of one, and one wrongly; class 2 does not occur.
    found = figures(answers([0, 0, 0, 1], [0, 0, 1, 1], confidence=0.9), seed=0, resamples=0)
    f1 = (2 * 2 / (2 * 2 + 0 + 1), 2 * 1 / (2 * 1 + 1 + 0))  # 0.8 and 2/3
    assert {name: figure.value for name, figure in found.items()} == {
        "accuracy": pytest.approx(3 / 4),
        "macro_recall": pytest.approx((2 / 3 + 1) / 2),
        "macro_f1": pytest.approx((f1[0] + f1[1]) / 2),
        "weighted_f1": pytest.approx((3 * f1[0] + f1[1]) / 4),
        "ece": pytest.approx(0.9 - 0.75),
    }


def test_confusion_and_classes_of_the_same_case() -> None:
    case = answers([0, 0, 0, 1], [0, 0, 1, 1])
    assert confusion_of(case).tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    lines = per_class(case, ("a", "b", "c"))
    assert [(line.label, line.rows) for line in lines] == [("a", 3), ("b", 1), ("c", 0)]
    assert [line.recall for line in lines] == pytest.approx([2 / 3, 1, 0])
    assert [line.f1 for line in lines] == pytest.approx([0.8, 2 / 3, 0])


def test_bins_hold_every_row_once() -> None:
    sure = answers([0, 0, 0, 0, 1], [0, 0, 0, 1, 1], confidence=0.97)
    unsure = answers([0, 1], [0, 0], confidence=0.5)
    both = Answers(
        truth=np.concatenate([sure.truth, unsure.truth]),
        probabilities=np.concatenate([sure.probabilities, unsure.probabilities]),
        speakers=[*sure.speakers, *unsure.speakers],
    )
    found = reliability(both)
    assert [(bar.accuracy, bar.rows) for bar in found] == [(0.5, 2), (0.8, 5)]
    assert [bar.confidence for bar in found] == pytest.approx([0.5, 0.97])


def test_one_speaker_allows_for_no_interval() -> None:
    for figure in figures(answers([0, 1], [0, 1], speakers=["ann", "ann"]), seed=0).values():
        assert figure.low is None
        assert figure.high is None


def test_speakers_are_drawn_with_all_their_rows() -> None:
    # One speaker is always right, one always wrong: of two drawn, all, half or none is right.
    case = answers([0] * 40, [0] * 20 + [1] * 20, speakers=["ann"] * 20 + ["bob"] * 20)
    found = figures(case, seed=0, resamples=400)["accuracy"]
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    # The same rows of forty speakers: their share varies far less.
    many = answers([0] * 40, [0] * 20 + [1] * 20)
    narrow = figures(many, seed=0, resamples=400)["accuracy"]
    assert narrow.low is not None
    assert narrow.high is not None
    # A binomial share of 40 with p = 1/2 has a deviation of 0.079.
    assert narrow.low == pytest.approx(0.5 - 1.96 * 0.079, abs=0.04)
    assert narrow.high == pytest.approx(0.5 + 1.96 * 0.079, abs=0.04)


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 60).tolist()
    case = answers(
        truth, random.integers(0, 3, 60).tolist(), speakers=[f"s{i // 5}" for i in range(60)]
    )
    first = figures(case, seed=1, resamples=50)
    assert first == figures(case, seed=1, resamples=50)
    assert first != figures(case, seed=2, resamples=50)


@given(data=st.data())
@settings(max_examples=12)
def test_intervals_are_ordered_and_within_range(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 30))
    labels = st.lists(st.integers(0, 2), min_size=rows, max_size=rows)
    names = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=rows, max_size=rows)
    case = answers(
        data.draw(labels),
        data.draw(labels),
        confidence=data.draw(st.floats(0.4, 1.0)),
        speakers=data.draw(names),
    )
    found = figures(case, seed=0, resamples=5)
    assert tuple(found) == NAMES
    for figure in found.values():
        assert 0 <= figure.value <= 1
        if figure.low is not None and figure.high is not None:
            assert 0 <= figure.low <= figure.high <= 1


def test_json_says_where_there_is_no_interval() -> None:
    assert as_json({"accuracy": Figure(value=0.1234567)}) == {
        "accuracy": {"value": 0.12346, "low": None, "high": None}
    }
