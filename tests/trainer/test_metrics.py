"""Metrics agree with scikit-learn; calibration finds a temperature that is known."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch
from sklearn import metrics as reference

from counterpoint.trainer.calibrate import fit_temperature, softmax
from counterpoint.trainer.metrics import (
    accuracy,
    calibration_floor,
    confusion,
    expected_calibration_error,
    macro_f1,
    macro_recall,
    weighted_f1,
)

pytestmark = pytest.mark.trainer


@pytest.mark.parametrize("seed", range(5))
def test_classification_metrics_agree_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 6, 300)  # class 6 never occurs
    predicted = np.where(random.random(300) < 0.5, truth, random.integers(0, 7, 300))
    present = np.arange(6)
    assert accuracy(truth, predicted) == pytest.approx(reference.accuracy_score(truth, predicted))
    assert macro_recall(truth, predicted, 7) == pytest.approx(
        reference.recall_score(truth, predicted, labels=present, average="macro")
    )
    assert weighted_f1(truth, predicted, 7) == pytest.approx(
        reference.f1_score(
            truth, predicted, labels=np.arange(7), average="weighted", zero_division=0
        )
    )
    assert macro_f1(truth, predicted, 7) == pytest.approx(
        reference.f1_score(truth, predicted, labels=present, average="macro")
    )
    assert np.array_equal(
        confusion(truth, predicted, 7),
        reference.confusion_matrix(truth, predicted, labels=np.arange(7)),
    )


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    # Ten answers at 90 % of which six are right, ten at 60 % of which six are right.
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    truth = np.array(([0] * 6 + [1] * 4) * 2)
    assert expected_calibration_error(truth, probabilities) == pytest.approx(0.5 * 0.3)


def test_certain_and_right_has_no_calibration_error() -> None:
    assert expected_calibration_error(np.array([1, 1]), np.array([[0.0, 1.0]] * 2)) == 0


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial(
        torch.softmax(logits / temperature, dim=1), 1, generator=generator
    ).squeeze(1)
    target = torch.nn.functional.one_hot(labels, 4).float()
    assert fit_temperature(logits, target) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize(("scale", "expected"), [(1e-3, 0.5), (1e3, 5.0)])
def test_temperatures_stay_within_their_bounds(scale: float, expected: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(500, 3, generator=generator)
    labels = torch.multinomial(torch.softmax(clean, dim=1), 1, generator=generator).squeeze(1)
    target = torch.nn.functional.one_hot(labels, 3).float()
    assert fit_temperature(clean * scale, target) == pytest.approx(expected, abs=1e-2)


def test_softmax_rows_sum_to_one_for_large_logits() -> None:
    probabilities = softmax(np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]]), 2.0)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert np.allclose(probabilities[1], 1 / 3)


def shares(rows: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(4), rows)


def test_the_floor_of_the_calibration_error_falls_with_the_samples() -> None:
    few, many = calibration_floor(shares(100), draws=40), calibration_floor(shares(10_000), draws=5)
    assert 0.05 < few < 0.2
    assert many < few / 4
    assert calibration_floor(np.eye(4)[[0, 1, 2]], draws=3) == 0


def test_samples_that_share_their_truth_count_as_fewer() -> None:
    alone, together = shares(100), np.repeat(shares(100), 10, axis=0)
    grouped = calibration_floor(together, np.repeat(np.arange(100), 10), draws=40)
    # Ten copies of each sample with one truth are the same error as the sample alone.
    assert grouped == pytest.approx(calibration_floor(alone, draws=40))
    assert calibration_floor(together, draws=10) < grouped / 2
