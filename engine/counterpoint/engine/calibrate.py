"""Calibrated probabilities from logits."""

from __future__ import annotations

import numpy as np

from counterpoint.streams.types import Float32Array


def probabilities(logits: Float32Array, temperature: float) -> tuple[float, ...]:
    """Softmax of ``logits / temperature``, in float64.

    Temperature scaling after Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Args:
        logits: (C,) float32.
        temperature: positive; one for each head and each set of modalities heard.

    Raises:
        ValueError: the temperature is not positive or a logit is not finite.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    scaled = logits.astype(np.float64) / temperature
    if not np.isfinite(scaled).all():
        raise ValueError(f"logits are not finite: {logits.tolist()}")
    exponentials = np.exp(scaled - scaled.max())
    return tuple(float(p) for p in exponentials / exponentials.sum())
