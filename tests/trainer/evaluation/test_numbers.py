"""Figures of tasks whose answers are numbers."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.trainer.evaluation.figures import with_intervals
from counterpoint.trainer.evaluation.numbers import number_values
from counterpoint.trainer.metrics import Labels, concordance

pytestmark = pytest.mark.trainer

values = st.lists(st.floats(-100, 100), min_size=3, max_size=20)


def lin(truth: list[float], said: list[float]) -> float:
    """Lin 1989, equation 1, with the sample's own moments."""
    x, y = np.array(truth), np.array(said)
    covariance = ((x - x.mean()) * (y - y.mean())).sum() / (len(x) - 1)
    spread = x.var(ddof=1) + y.var(ddof=1)
    return float(2 * covariance / (spread + (x.mean() - y.mean()) ** 2))


def test_concordance_is_lins() -> None:
    truth, said = [1.0, 2.0, 3.0, 4.0], [1.5, 1.5, 3.5, 5.0]
    assert concordance(np.array(truth), np.array(said)) == pytest.approx(lin(truth, said), abs=1e-6)
    assert concordance(np.array(truth), np.array(truth)) == pytest.approx(1.0)
    assert math.isnan(concordance(np.array([1.0, 1.0]), np.array([1.0, 2.0])))
    assert math.isnan(concordance(np.array([1.0]), np.array([1.0])))


@given(values, st.floats(-100, 100))
def test_errors_are_those_of_the_answer_and_of_the_mean(truth: list[float], mean: float) -> None:
    found = number_values(np.array(truth), np.array(truth) + 2.0, mean)
    assert found["mae"] == pytest.approx(2.0)
    assert found["mae_of_mean"] == pytest.approx(np.mean([abs(one - mean) for one in truth]))


def test_a_figure_that_a_draw_has_no_value_for_is_left_out_of_the_interval() -> None:
    truth, said = np.array([1.0, 1.0, 4.0, 4.5]), np.array([1.0, 1.5, 3.0, 5.0])

    def measure(rows: Labels) -> dict[str, float]:
        return number_values(truth[rows], said[rows], 2.0)

    # A draw of ann alone has one true value: no concordance.
    speakers = ["ann", "ann", "bob", "bob"]
    found = with_intervals(measure, speakers, seed=0, resamples=50)
    ccc = found["ccc"]
    assert ccc.low is not None
    assert ccc.high is not None
    assert -1 <= ccc.low <= ccc.high <= 1
    assert found["mae"].value == pytest.approx(np.abs(truth - said).mean())
