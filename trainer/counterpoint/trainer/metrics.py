"""Metrics as torchmetrics computes them, of numpy arrays.

Macro figures are means over the classes that occur in ``truth``: a class that a set has no example
of says nothing about the model.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_recall,
)
from torchmetrics.functional.regression import concordance_corrcoef

Labels: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]

ECE_BINS: Final = 15


def accuracy(truth: Labels, predicted: Labels) -> float:
    want, got = _tensors(truth, predicted)
    classes = int(max(want.max(), got.max())) + 1
    return float(
        multiclass_accuracy(got, want, max(classes, 2), average="micro", validate_args=False)
    )


def confusion(truth: Labels, predicted: Labels, classes: int) -> Labels:
    """(classes, classes) counts: rows are the truth."""
    want, got = _tensors(truth, predicted)
    matrix: Labels = multiclass_confusion_matrix(got, want, classes, validate_args=False).numpy()
    return matrix


def macro_recall(truth: Labels, predicted: Labels, classes: int) -> float:
    """Unweighted mean recall over the classes that occur in ``truth``."""
    return float(recalls(truth, predicted, classes)[np.unique(truth)].mean())


def macro_f1(truth: Labels, predicted: Labels, classes: int) -> float:
    """Mean F1 over the classes that occur in ``truth``."""
    return float(f1_scores(truth, predicted, classes)[np.unique(truth)].mean())


def weighted_f1(truth: Labels, predicted: Labels, classes: int) -> float:
    """Mean F1, each class as often as it occurs in ``truth``."""
    want, got = _tensors(truth, predicted)
    found = multiclass_f1_score(got, want, classes, average="weighted", validate_args=False)
    # Its weights sum to 1 in single precision.
    return min(float(found), 1.0)


def recalls(truth: Labels, predicted: Labels, classes: int) -> Floats:
    """(classes,) recall of each class; 0 where it does not occur."""
    want, got = _tensors(truth, predicted)
    found: Floats = multiclass_recall(
        got, want, classes, average="none", validate_args=False
    ).numpy()
    return found


def f1_scores(truth: Labels, predicted: Labels, classes: int) -> Floats:
    """(classes,) F1 of each class; 0 where it neither occurs nor is predicted."""
    want, got = _tensors(truth, predicted)
    found: Floats = multiclass_f1_score(
        got, want, classes, average="none", validate_args=False
    ).numpy()
    return found


def concordance(truth: Floats, said: Floats) -> float:
    """Concordance correlation (Lin 1989), -1..1; NaN where either has fewer than two values."""
    want, got = (torch.from_numpy(np.asarray(values, np.float64)) for values in (truth, said))
    if len(np.unique(truth)) < 2 or len(np.unique(said)) < 2:
        return float("nan")
    return float(concordance_corrcoef(got, want))


def expected_calibration_error(truth: Labels, probabilities: Floats, bins: int = ECE_BINS) -> float:
    """ECE over equal-width confidence bins (Guo et al. 2017, arXiv:1706.04599).

    Args:
        truth: (N,) class positions.
        probabilities: (N, C), rows sum to 1.
    """
    rows = torch.from_numpy(np.asarray(probabilities, np.float64))
    want = torch.from_numpy(np.asarray(truth, np.int64))
    error = multiclass_calibration_error(
        rows, want, rows.shape[1], n_bins=bins, norm="l1", validate_args=False
    )
    return float(error)


def calibration_floor(
    probabilities: Floats, groups: Labels | None = None, draws: int = 200, seed: int = 0
) -> float:
    """The ECE to expect of perfect calibration: ECE only ever grows with chance, so on few samples
    it is far from zero even where every probability is right.

    The mean ECE over ``draws`` truths that are drawn from the probabilities themselves (the
    consistency resampling of Bröcker & Smith 2007, doi 10.1175/WAF993.1).

    Args:
        probabilities: (N, C), rows sum to 1.
        groups: (N,) positions 0..G-1: samples of one group share their truth, as the windows of
            one clip do; it is drawn from the mean of their probabilities. None: each for itself.
    """
    rows = np.asarray(probabilities, np.float64)
    place = np.arange(len(rows)) if groups is None else np.asarray(groups)
    counts = np.bincount(place)
    shares = np.stack(
        [np.bincount(place, weights=column) / np.maximum(counts, 1) for column in rows.T], axis=1
    )
    edges = shares.cumsum(axis=1)
    random = np.random.default_rng(seed)
    total = 0.0
    for _ in range(draws):
        above = random.random(len(edges))[:, None] * edges[:, -1:]
        truth = (edges <= above).sum(axis=1).clip(max=rows.shape[1] - 1)
        total += expected_calibration_error(truth[place], rows)
    return total / draws


def _tensors(truth: Labels, predicted: Labels) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(np.asarray(truth, np.int64)),
        torch.from_numpy(np.asarray(predicted, np.int64)),
    )
