"""What the engine says about one window, and the JSON document that carries it.

The document's schema is ``docs/schema/prediction.v1.json``. Its bytes are canonical: keys in one
order, floats at 6 significant digits, no spaces. So ``to_json(from_json(text)) == text`` for every
text that `to_json` made, and two runs over the same input differ in `VOLATILE_KEYS` alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from counterpoint.engine.adapt import statement
from counterpoint.engine.adapt.statement import Adaptation
from counterpoint.engine.align import State, Status
from counterpoint.streams.types import Modality

SCHEMA_VERSION = 1

VOLATILE_KEYS = ("start_wall", "end_wall", "emitted_wall", "stages_ms")
"""Keys of the document whose values differ between runs over the same input."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_MS = 1_000_000
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class PredictionFormatError(ValueError):
    """A document is not a prediction of a schema version that this release reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadResult:
    """Calibrated probabilities of one head.

    Fields:
        labels: (C,) names of the classes, in the order of the bundle.
        probabilities: (C,) in [0, 1], summing to 1.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.labels or len(self.labels) != len(self.probabilities):
            raise ValueError(
                f"{len(self.labels)} labels do not fit {len(self.probabilities)} probabilities"
            )

    @property
    def top(self) -> tuple[str, float]:
        """The most probable label and its probability; the first of equals."""
        best = max(range(len(self.labels)), key=self.probabilities.__getitem__)
        return self.labels[best], self.probabilities[best]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberResult:
    """What was found for a task whose answer is a number, all in that number's own unit.

    Fields:
        value: the answer.
        low, high: between which the labels lie that the model learned from; the answer may lie
            outside.
        contributions: what each modality adds, or takes away.
    """

    value: float
    low: float
    high: float
    contributions: Mapping[Modality, float]

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"the number is not finite: {self.value}")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low} and {self.high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityReport:
    """What one modality gave to the window, and what the model made of it.

    Fields:
        state: see `State`.
        reason: why the state is not ``present``, in a few words; None where nothing is to be said.
        coverage: share of the modality's context that held data, 0..1.
        age_ns: window end less the capture instant of the newest sample used; None if none was.
        contributions: head name -> (C,) additive contribution to that head's logits.
    """

    state: State
    reason: str | None = None
    coverage: float = 0.0
    age_ns: int | None = None
    contributions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.coverage <= 1.0:
            raise ValueError(f"coverage must lie in [0, 1], not {self.coverage}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Where the time of a window went.

    Fields:
        ms: stage name -> milliseconds, in the order of the stages.
    """

    ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the engine says about the window [start_ns, end_ns) of a session.

    Fields:
        session: name of the session.
        epoch: number of the session timeline's epoch, from 0.
        window: index of the window, from 1; that of first predictions strictly increases.
        start_ns, end_ns: span on the session timeline, relative to its origin.
        start_wall_ns, end_wall_ns: the same span in nanoseconds since the Unix epoch.
        emitted_wall_ns: when the prediction was made, in nanoseconds since the Unix epoch.
        status, revision: how settled it is; revision counts from 0 within a window.
        heads: head name -> result.
        modalities: one report a modality; all three are always there.
        align_error_ms: bound on the error of alignment between modalities.
        align_tier: how the sources' clocks were mapped, e.g. ``media``, ``sr``, ``arrival``.
        skipped_windows: windows that got no prediction since the previous one.
        dropped: items lost on purpose since the previous prediction, by reason.
        stages: where the time went.
        bundle_id, bundle_digest: the models that were used.
        numbers: by name, what is a number; empty where the bundle has none.
        participants: for what is said of several people together: name -> weight in it, 0 where
            nothing was heard of them. Empty for what is said of one.
        adaptation: how it follows its session; None where nothing of that is on, and for what is
            said of several people together.
    """

    session: str
    epoch: int = 0
    window: int
    start_ns: int
    end_ns: int
    start_wall_ns: int
    end_wall_ns: int
    emitted_wall_ns: int
    status: Status
    revision: int = 0
    heads: Mapping[str, HeadResult]
    modalities: Mapping[Modality, ModalityReport]
    align_error_ms: float
    align_tier: str
    skipped_windows: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    stages: StageTimes = field(default_factory=StageTimes)
    bundle_id: str
    bundle_digest: str
    numbers: Mapping[str, NumberResult] = field(default_factory=dict)
    participants: Mapping[str, float] = field(default_factory=dict)
    adaptation: Adaptation | None = None
    kept_json: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.end_ns <= self.start_ns:
            raise ValueError(f"the window [{self.start_ns}, {self.end_ns}) is empty")
        if absent := [m.value for m in Modality if m not in self.modalities]:
            raise ValueError(f"no report for {', '.join(absent)}")


def _rounded(value: float) -> float:
    # Adding 0.0 turns -0.0 into 0.0, so that equal values have equal bytes.
    return float(f"{value:.6g}") + 0.0


def iso_wall(ns: int) -> str:
    """Nanoseconds since the Unix epoch as ISO 8601 UTC, cut to milliseconds."""
    seconds, ms = divmod(ns // _NS_PER_MS, 1_000)
    return f"{_iso_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=64)  # a window's three instants share few seconds with those around it
def _iso_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def _wall_ns(text: str) -> int:
    delta = datetime.fromisoformat(text) - _EPOCH
    return delta // timedelta(milliseconds=1) * _NS_PER_MS


def to_document(prediction: Prediction) -> dict[str, Any]:
    """The JSON document as Python values, keys in canonical order."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "session": prediction.session,
        "epoch": prediction.epoch,
        "window": prediction.window,
        "start_ns": prediction.start_ns,
        "end_ns": prediction.end_ns,
        "start_wall": iso_wall(prediction.start_wall_ns),
        "end_wall": iso_wall(prediction.end_wall_ns),
        "emitted_wall": iso_wall(prediction.emitted_wall_ns),
        "status": prediction.status.value,
        "revision": prediction.revision,
        "heads": {
            name: {
                "labels": list(head.labels),
                "probabilities": [_rounded(p) for p in head.probabilities],
            }
            for name, head in sorted(prediction.heads.items())
        },
        "modalities": {
            modality.value: _report_document(prediction.modalities[modality])
            for modality in Modality
        },
        "align_error_ms": _rounded(prediction.align_error_ms),
        "align_tier": prediction.align_tier,
        "skipped_windows": prediction.skipped_windows,
        "dropped": {reason: count for reason, count in sorted(prediction.dropped.items()) if count},
        "stages_ms": {stage: _rounded(ms) for stage, ms in prediction.stages.ms.items()},
        "bundle": {"id": prediction.bundle_id, "digest": prediction.bundle_digest},
    }
    if prediction.numbers:
        document["numbers"] = {
            name: _number_document(number) for name, number in sorted(prediction.numbers.items())
        }
    if prediction.participants:
        document["participants"] = {
            name: _rounded(weight) for name, weight in sorted(prediction.participants.items())
        }
    if prediction.adaptation is not None:
        document["adaptation"] = statement.to_document(prediction.adaptation, _rounded)
    return document


def _number_document(number: NumberResult) -> dict[str, Any]:
    return {
        "value": _rounded(number.value),
        "range": [_rounded(number.low), _rounded(number.high)],
        "contributions": {
            modality.value: _rounded(number.contributions[modality]) for modality in Modality
        },
    }


def _report_document(report: ModalityReport) -> dict[str, Any]:
    return {
        "state": report.state.value,
        "reason": report.reason,
        "coverage": _rounded(report.coverage),
        "age_ns": report.age_ns,
        "contributions": {
            head: [_rounded(value) for value in values]
            for head, values in sorted(report.contributions.items())
        },
    }


def encode(document: Mapping[str, Any]) -> str:
    """JSON without spaces, keys as they come.

    Raises:
        ValueError: a number is not finite.
    """
    return _ENCODER.encode(document)


def to_json(prediction: Prediction) -> str:
    """The document as canonical JSON, one line. Made once: Redis and every peer are told the same.

    Raises:
        ValueError: a number is not finite.
    """
    if not prediction.kept_json:
        prediction.kept_json.append(encode(to_document(prediction)))
    return prediction.kept_json[0]


def stable_json(prediction: Prediction) -> str:
    """`to_json` without `VOLATILE_KEYS`: equal bytes for equal input, run after run."""
    document = to_document(prediction)
    for key in VOLATILE_KEYS:
        del document[key]
    return encode(document)


def from_json(text: str | bytes) -> Prediction:
    """Read a document back. Keys that this release does not know are ignored.

    Raises:
        PredictionFormatError: not JSON, another schema version, or a key that is missing or of
            the wrong type; the message names it.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PredictionFormatError(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise PredictionFormatError("not a JSON object")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise PredictionFormatError(
            f"schema_version is {version!r}, this release reads {SCHEMA_VERSION}"
        )
    try:
        return _read(document)
    except KeyError as error:
        raise PredictionFormatError(f"key {error.args[0]!r} is missing") from error
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise PredictionFormatError(str(error)) from error


def _read(document: dict[str, Any]) -> Prediction:
    modalities = document["modalities"]
    return Prediction(
        session=_text(document, "session"),
        epoch=_count(document, "epoch"),
        window=_count(document, "window"),
        start_ns=_integer(document, "start_ns"),
        end_ns=_integer(document, "end_ns"),
        start_wall_ns=_wall_ns(document["start_wall"]),
        end_wall_ns=_wall_ns(document["end_wall"]),
        emitted_wall_ns=_wall_ns(document["emitted_wall"]),
        status=Status(document["status"]),
        revision=_count(document, "revision"),
        heads={
            name: HeadResult(
                labels=tuple(_strings(head["labels"])),
                probabilities=tuple(float(p) for p in head["probabilities"]),
            )
            for name, head in document["heads"].items()
        },
        modalities={modality: _read_report(modalities[modality.value]) for modality in Modality},
        align_error_ms=float(document["align_error_ms"]),
        align_tier=_text(document, "align_tier"),
        skipped_windows=_count(document, "skipped_windows"),
        dropped={reason: _count(document["dropped"], reason) for reason in document["dropped"]},
        stages=StageTimes(ms={stage: float(ms) for stage, ms in document["stages_ms"].items()}),
        bundle_id=_text(document["bundle"], "id"),
        bundle_digest=_text(document["bundle"], "digest"),
        numbers={
            name: _read_number(number) for name, number in document.get("numbers", {}).items()
        },
        participants={
            name: float(weight) for name, weight in document.get("participants", {}).items()
        },
        adaptation=statement.read(document["adaptation"]) if "adaptation" in document else None,
    )


def _read_number(number: dict[str, Any]) -> NumberResult:
    low, high = number["range"]
    return NumberResult(
        value=float(number["value"]),
        low=float(low),
        high=float(high),
        contributions={
            modality: float(number["contributions"][modality.value]) for modality in Modality
        },
    )


def _read_report(report: dict[str, Any]) -> ModalityReport:
    return ModalityReport(
        state=State(report["state"]),
        reason=None if report["reason"] is None else _text(report, "reason"),
        coverage=float(report["coverage"]),
        age_ns=None if report["age_ns"] is None else _integer(report, "age_ns"),
        contributions={
            head: tuple(float(value) for value in values)
            for head, values in report["contributions"].items()
        },
    )


def _strings(values: list[Any]) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise TypeError("labels must be strings")
    return values


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} must be a string, not {value!r}")
    return value


def _integer(document: Mapping[str, Any], key: str) -> int:
    value = document[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{key} must be an integer, not {value!r}")
    return value


def _count(document: Mapping[str, Any], key: str) -> int:
    value = _integer(document, key)
    if value < 0:
        raise ValueError(f"{key} must not be negative, not {value}")
    return value
