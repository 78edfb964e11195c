"""Calibrated probabilities from logits."""

from __future__ import annotations

import math

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
    # A handful of numbers: Python's own are faster than an array's way in and out.
    scaled = [logit / temperature for logit in logits.tolist()]
    if not all(map(math.isfinite, scaled)):
        raise ValueError(f"logits are not finite: {logits.tolist()}")
    highest = max(scaled)
    exponentials = [math.exp(value - highest) for value in scaled]
    total = sum(exponentials)
    return tuple(value / total for value in exponentials)
