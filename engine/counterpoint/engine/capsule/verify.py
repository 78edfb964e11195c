"""Compares predictions with the recorded ones, as they come, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from counterpoint.engine.capsule.machine import differing, fingerprint
from counterpoint.engine.capsule.reader import Capsule
from counterpoint.engine.prediction import VOLATILE_KEYS, Prediction, encode, to_document

PROBABILITY_TOLERANCE: Final = 0.02
"""Absolute, on another platform. Convolutions and exponentials of another instruction set differ
in the last bits; the text encoder is quantised, and a value on the edge of a step may fall to the
other side, which moves an embedding by one part in 127."""
CONTRIBUTION_TOLERANCE: Final = 0.1
"""Absolute, on another platform: a contribution is to a logit, and 0.1 of a logit moves a
probability by 0.025 at the most."""

NUMBER_TOLERANCE: Final = 0.02
"""Of a number and what each modality adds to it, as a share of the range of its labels, on another
platform."""

MAX_DIFFERENCES: Final = 1_000
"""Kept one by one; more are only counted."""

ADAPTATION_TOLERANCE: Final = 0.1
"""Absolute, on another platform: of shares, deviations and means of signals."""

_ABSENT: Final = "(no prediction)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field that is not as recorded.

    Fields:
        window, revision: of which prediction.
        path: of the field, e.g. ``modalities.video.contributions.emotion[3]``.
        recorded, now: its two values.
    """

    window: int
    revision: int
    path: str
    recorded: Any
    now: Any

    def __str__(self) -> str:
        return (
            f"window {self.window} revision {self.revision}: {self.path}: "
            f"recorded {self.recorded!r}, now {self.now!r}"
        )


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What came of a comparison.

    Fields:
        exact: whether every field had to be the same; else within the tolerance.
        because: the parts of the platform that differ, where it is not exact.
        compared: predictions that both have.
        beyond: predictions after the last one of a capsule that breaks off, or of a session that
            was stopped; not compared.
        differences: the first `MAX_DIFFERENCES`.
        differing: how many there are in all.
        incomplete: why the capsule is not complete; None if it is.
    """

    exact: bool
    because: list[str]
    incomplete: str | None
    compared: int = 0
    beyond: int = 0
    differences: list[Difference] = field(default_factory=list)
    differing: int = 0

    @property
    def same(self) -> bool:
        return self.differing == 0

    @property
    def exit_code(self) -> int:
        return 0 if self.same else 1

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "same": self.same,
            "exact": self.exact,
            "platform_differs_in": self.because,
            "incomplete": self.incomplete,
            "compared": self.compared,
            "beyond": self.beyond,
            "differing": self.differing,
            "differences": [
                {
                    "window": d.window,
                    "revision": d.revision,
                    "path": d.path,
                    "recorded": d.recorded,
                    "now": d.now,
                }
                for d in self.differences
            ],
        }


class Verifier:
    """A session's `Sink` that compares.

    Args:
        capsule: what was recorded.
        platform: of this machine; by default asked for.
    """

    def __init__(self, capsule: Capsule, *, platform: Mapping[str, Any] | None = None) -> None:
        because = differing(
            capsule.header.platform, platform or fingerprint(drift=capsule.header.adaptation.drift)
        )
        self._recorded = capsule.predictions()
        # A stopped session, too, may have had a window in work whose prediction never came.
        self._to_its_end = capsule.complete and capsule.end_ns is not None
        self._verdict = Verdict(exact=not because, because=because, incomplete=capsule.reason)

    def offer(self, prediction: Prediction) -> None:
        now = to_document(prediction)
        recorded = next(self._recorded, None)
        if recorded is None:
            if self._to_its_end:
                self._add(now, "", _ABSENT, "a prediction")
            else:
                self._verdict.beyond += 1
            return
        self._verdict.compared += 1
        for key in VOLATILE_KEYS:
            recorded.pop(key, None)
            del now[key]
        if encode(recorded) == encode(now):
            return
        for path, before, after in _differences("", recorded, now):
            if self._verdict.exact or not _tolerated(path, before, after, recorded):
                self._add(recorded, path, before, after)

    async def wait_room(self) -> None:
        return

    def finish(self) -> Verdict:
        """The verdict once the session is over: what was recorded and did not come counts too."""
        for recorded in self._recorded:
            self._add(recorded, "", "a prediction", _ABSENT)
        return self._verdict

    def _add(self, document: Mapping[str, Any], path: str, recorded: Any, now: Any) -> None:
        self._verdict.differing += 1
        if len(self._verdict.differences) < MAX_DIFFERENCES:
            self._verdict.differences.append(
                Difference(
                    window=document["window"],
                    revision=document["revision"],
                    path=path or "prediction",
                    recorded=recorded,
                    now=now,
                )
            )


def _differences(path: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            inside = f"{path}.{key}" if path else key
            yield from _differences(inside, one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (before, after) in enumerate(zip(one, other, strict=True)):
            yield from _differences(f"{path}[{index}]", before, after)
    elif one != other:
        yield path, one, other


def _tolerated(path: str, before: Any, after: Any, recorded: Mapping[str, Any]) -> bool:
    if not (isinstance(before, float | int) and isinstance(after, float | int)):
        return False
    if path.startswith("heads.") and ".probabilities[" in path:
        return abs(before - after) <= PROBABILITY_TOLERANCE
    if path.startswith("modalities.") and ".contributions." in path:
        return abs(before - after) <= CONTRIBUTION_TOLERANCE
    for name, number in recorded.get("numbers", {}).items():
        if path.startswith((f"numbers.{name}.value", f"numbers.{name}.contributions.")):
            low, high = number["range"]
            return abs(before - after) <= NUMBER_TOLERANCE * float(high - low)
    if path.startswith("adaptation."):
        return abs(before - after) <= ADAPTATION_TOLERANCE
    return False
