"""Predictions for tests."""

from __future__ import annotations

from typing import Any

from counterpoint.engine.align import State, Status
from counterpoint.engine.prediction import (
    HeadResult,
    ModalityReport,
    Prediction,
    StageTimes,
)
from counterpoint.streams.types import Modality

HOP_NS = 250_000_000
ORIGIN_WALL_NS = 1_790_000_000_123_000_000


def make_prediction(window: int = 1, *, session: str = "demo", **changes: Any) -> Prediction:
    """A full prediction of that window; any field can be changed by name."""
    end_ns = window * HOP_NS
    fields: dict[str, Any] = {
        "session": session,
        "window": window,
        "start_ns": end_ns - HOP_NS,
        "end_ns": end_ns,
        "start_wall_ns": ORIGIN_WALL_NS + end_ns - HOP_NS,
        "end_wall_ns": ORIGIN_WALL_NS + end_ns,
        "emitted_wall_ns": ORIGIN_WALL_NS + end_ns + 31_000_000,
        "status": Status.FINAL,
        "heads": {
            "sentiment": HeadResult(
                labels=("negative", "neutral", "positive"),
                probabilities=(0.0625, 0.25, 0.6875),
            ),
            "emotion": HeadResult(labels=("neutral", "happy"), probabilities=(1 / 3, 2 / 3)),
        },
        "modalities": {
            Modality.VIDEO: ModalityReport(
                state=State.PRESENT,
                coverage=1.0,
                age_ns=12_000_000,
                contributions={"sentiment": (-0.5, 0.0, 1.25), "emotion": (-0.1, 0.1)},
            ),
            Modality.AUDIO: ModalityReport(
                state=State.PARTIAL, reason="gaps", coverage=2 / 3, age_ns=0
            ),
            Modality.CHAT: ModalityReport(state=State.MISSING, reason="no source"),
        },
        "align_error_ms": 0.25,
        "align_tier": "media",
        "stages": StageTimes(ms={"vision": 1.23456789, "fusion": 0.5}),
        "bundle_id": "affect",
        "bundle_digest": "0123456789ab",
    }
    return Prediction(**(fields | changes))
