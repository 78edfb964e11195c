"""Temperature scaling (Guo et al. 2017, arXiv:1706.04599) with bounds."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST = 0.5, 5.0
"""Outside, a temperature says more about too few samples than about the model."""


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature in [0.5, 5] with the least cross-entropy of ``softmax(logits / T)``.

    The loss is convex in 1 / T, so a golden-section search finds it.

    Args:
        logits: (N, C).
        target: (N, C) rows that sum to 1; hard labels are one-hot rows.
    """

    def loss(inverse: float) -> float:
        return float(F.cross_entropy(logits * inverse, target))

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
    best = min((low, (low + high) / 2, high, 1 / HIGHEST, 1 / LOWEST), key=loss)
    return float(1 / best)


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N, C) float64 probabilities."""
    with torch.inference_mode():
        scaled = torch.from_numpy(np.asarray(logits, np.float64)) / temperature
        probabilities: np.ndarray = torch.softmax(scaled, dim=1).numpy()
    return probabilities
