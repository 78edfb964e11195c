"""Classification metrics in numpy, checked against scikit-learn in the tests."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Labels: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]


def accuracy(truth: Labels, predicted: Labels) -> float:
    return float(np.mean(truth == predicted))


def confusion(truth: Labels, predicted: Labels, classes: int) -> Labels:
    """(classes, classes) counts: rows are the truth."""
    matrix: Labels = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return matrix.reshape(classes, classes).astype(np.int64)


def macro_recall(truth: Labels, predicted: Labels, classes: int) -> float:
    """Unweighted mean recall over the classes that occur in ``truth``."""
    matrix = confusion(truth, predicted, classes)
    support = matrix.sum(axis=1)
    present = support > 0
    return float((np.diag(matrix)[present] / support[present]).mean())


def f1_scores(truth: Labels, predicted: Labels, classes: int) -> tuple[Floats, Labels]:
    """F1 of each class (0 where it neither occurs nor is predicted) and its support."""
    matrix = confusion(truth, predicted, classes)
    support = matrix.sum(axis=1)
    total = support + matrix.sum(axis=0)
    scores = 2 * np.diag(matrix) / np.maximum(total, 1)
    return scores, support


def weighted_f1(truth: Labels, predicted: Labels, classes: int) -> float:
    scores, support = f1_scores(truth, predicted, classes)
    return float((scores * support).sum() / support.sum())


def macro_f1(truth: Labels, predicted: Labels, classes: int) -> float:
    """Mean F1 over the classes that occur in ``truth``."""
    scores, support = f1_scores(truth, predicted, classes)
    return float(scores[support > 0].mean())


def expected_calibration_error(truth: Labels, probabilities: Floats, bins: int = 15) -> float:
    """ECE over equal-width confidence bins (Guo et al. 2017, arXiv:1706.04599).

    Args:
        truth: (N,) class positions.
        probabilities: (N, C), rows sum to 1.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    # Bins are (low, high], so that a confidence of exactly 1 has one.
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    error = 0.0
    for index in range(bins):
        inside = which == index
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            error += float(gap) * float(inside.mean())
    return error
