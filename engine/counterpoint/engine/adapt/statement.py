"""What a prediction says of adaptation, and its part of the document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorUsed:
    """How one head's probabilities were adapted.

    Fields:
        base: (C,) the classes' shares to which the bundle is calibrated.
        shares: (C,) those of the session. Where ``applied``, the head's probabilities were
            multiplied by ``shares / base`` and divided by their sum.
        observations: what ``shares`` rest on.
        applied: False: the observations do not speak against ``base``, and nothing was changed.
    """

    base: tuple[float, ...]
    shares: tuple[float, ...]
    observations: int
    applied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSaid:
    """How the window stands beside the session's baseline.

    Fields:
        windows: that the baseline rests on, of those with the same modalities heard.
        of: how many make it; then it is fixed.
        deviations: head -> (C,) nats by which each class is spoken for more than at the baseline,
            summing to 0. Empty while there is none.
    """

    windows: int
    of: int
    deviations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A signal whose mean has changed.

    Fields:
        signal: e.g. ``video.heard``, ``emotion.confidence``.
        before, now: its means since its last alarm: of the newest values, and of those before.
    """

    signal: str
    before: float
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSaid:
    """
    Fields:
        alarms: those of this window.
        total: those of the session so far.
    """

    alarms: tuple[Alarm, ...] = ()
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What was done, and what was noticed. A part that is off is empty or None.

    Fields:
        prior: head -> how its probabilities were adapted.
        baseline: where the window stands.
        drift: alarms.
    """

    prior: Mapping[str, PriorUsed] = field(default_factory=dict)
    baseline: BaselineSaid | None = None
    drift: DriftSaid | None = None


def to_document(adaptation: Adaptation, rounded: Callable[[float], float]) -> dict[str, Any]:
    """As JSON has it, keys in canonical order.

    Args:
        rounded: how a document's floats are cut.
    """
    document: dict[str, Any] = {}
    if adaptation.prior:
        document["prior"] = {
            head: {
                "base": [rounded(share) for share in used.base],
                "shares": [rounded(share) for share in used.shares],
                "observations": used.observations,
                "applied": used.applied,
            }
            for head, used in sorted(adaptation.prior.items())
        }
    if (baseline := adaptation.baseline) is not None:
        document["baseline"] = {
            "windows": baseline.windows,
            "of": baseline.of,
            "deviations": {
                head: [rounded(nats) for nats in values]
                for head, values in sorted(baseline.deviations.items())
            },
        }
    if (drift := adaptation.drift) is not None:
        document["drift"] = {
            "alarms": [
                {
                    "signal": alarm.signal,
                    "before": rounded(alarm.before),
                    "now": rounded(alarm.now),
                }
                for alarm in drift.alarms
            ],
            "total": drift.total,
        }
    return document


def read(document: Mapping[str, Any]) -> Adaptation:
    """`to_document` backwards; unknown keys are ignored.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: not such a document.
    """
    baseline, drift = document.get("baseline"), document.get("drift")
    return Adaptation(
        prior={
            head: PriorUsed(
                base=_floats(used["base"]),
                shares=_floats(used["shares"]),
                observations=_count(used, "observations"),
                applied=bool(used["applied"]),
            )
            for head, used in document.get("prior", {}).items()
        },
        baseline=None
        if baseline is None
        else BaselineSaid(
            windows=_count(baseline, "windows"),
            of=_count(baseline, "of"),
            deviations={head: _floats(values) for head, values in baseline["deviations"].items()},
        ),
        drift=None
        if drift is None
        else DriftSaid(
            alarms=tuple(
                Alarm(
                    signal=str(alarm["signal"]),
                    before=float(alarm["before"]),
                    now=float(alarm["now"]),
                )
                for alarm in drift["alarms"]
            ),
            total=_count(drift, "total"),
        ),
    )


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _count(document: Mapping[str, Any], key: str) -> int:
    value = document[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"adaptation: {key} must be a count, not {value!r}")
    return value
