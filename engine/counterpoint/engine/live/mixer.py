"""What several participants' predictions say of their session: pure, no clock, no tasks.

All participants share one grid of windows. The session's window is given once each participant has
given, or passed, theirs, at the latest a while after the window's end. The heads are combined by a
linear opinion pool (Stone, "The opinion pool", 1961) with equal weights over those of whom anything
was heard: the probability that somebody picked at random would be of that label. Of numbers it is
the mean over the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from counterpoint.engine.align import State, Status
from counterpoint.engine.config import NS_PER_MS, TimeSection
from counterpoint.engine.prediction import (
    HeadResult,
    ModalityReport,
    NumberResult,
    Prediction,
    StageTimes,
)
from counterpoint.streams.types import Modality, Tier

MODELS_NS = 250 * NS_PER_MS
"""What a participant's models may take before the session's window leaves without them."""

_SILENT = frozenset({State.MISSING, State.SILENT})
# The best that any participant has is how the session stands.
_STANDING = (
    State.PRESENT,
    State.LATE,
    State.PARTIAL,
    State.SILENT,
    State.IDLE,
    State.STALLED,
    State.MISSING,
)
_TRUST = {tier.value: rank for rank, tier in enumerate(Tier)}
_SETTLED = {Status.PROVISIONAL: 0, Status.FINAL: 1, Status.AMENDED: 2}


@dataclass(slots=True)
class _Row:
    by: dict[str, Prediction] = field(default_factory=dict)
    revision: int = -1


class Mixer:
    """The session's predictions from those of its participants.

    Args:
        session: its name.
        hop_ns: from one window's end to the next; window k ends at k hops.
        patience_ns: after its end a window waits no longer than this for participants.
        kept: how many given windows may be revised.
    """

    def __init__(self, session: str, *, hop_ns: int, patience_ns: int, kept: int) -> None:
        self._session = session
        self._hop_ns = hop_ns
        self._patience_ns = patience_ns
        self._kept = kept
        # The last window that each participant has given or passed.
        self._reached: dict[str, int] = {}
        self._rows: dict[int, _Row] = {}
        self._given = 0
        self._epoch = 0
        self._owed: dict[str, int] = {}  # drops not yet stated
        self.late = 0  # predictions of windows that cannot be revised any more

    @classmethod
    def of(cls, session: str, time: TimeSection, hop_ns: int) -> Mixer:
        """One that is as patient as the configuration lets participants be late."""
        wait_ns = (time.deadline_ms + time.lateness_ms) * NS_PER_MS
        return cls(
            session,
            hop_ns=hop_ns,
            patience_ns=wait_ns + MODELS_NS,
            kept=wait_ns // hop_ns + 4,
        )

    @property
    def members(self) -> tuple[str, ...]:
        """Those who are waited for, in the order in which they came."""
        return tuple(self._reached)

    def join(self, name: str, first: int) -> None:
        """Wait for a participant from window ``first`` on."""
        self._reached[name] = first - 1

    def leave(self, name: str, wall_ns: int) -> list[Prediction]:
        """Wait for a participant no longer; what becomes complete thereby."""
        self._reached.pop(name, None)
        return self._complete(wall_ns)

    def take(self, name: str, prediction: Prediction, wall_ns: int) -> list[Prediction]:
        """A participant's prediction, with the session's window index and times.

        Args:
            wall_ns: now, for what is given thereby.

        Returns:
            What the session has to say now, in order: windows that are complete, or one given
            before that is revised.
        """
        window = prediction.window
        if name in self._reached:
            self._reached[name] = max(self._reached[name], window)
        for reason, count in prediction.dropped.items():
            self._owed[reason] = self._owed.get(reason, 0) + count
        if window > self._given:
            self._rows.setdefault(window, _Row()).by[name] = prediction
            return self._complete(wall_ns)
        row = self._rows.get(window)
        if row is None or row.revision < 0:
            # Its window was given up without it.
            self.late += 1
            return []
        row.by[name] = prediction
        return [self._mix(row, wall_ns, skipped=0)]

    def due_ns(self) -> int | None:
        """Session time at which `advance` has something to give if nothing more comes."""
        waiting = [window for window in self._rows if window > self._given]
        return min(waiting) * self._hop_ns + self._patience_ns if waiting else None

    def advance(self, now_ns: int, wall_ns: int) -> list[Prediction]:
        """Give the windows that have waited for long enough."""
        over = (now_ns - self._patience_ns) // self._hop_ns
        return self._give(lambda window: window <= over, wall_ns)

    def _complete(self, wall_ns: int) -> list[Prediction]:
        reached = min(self._reached.values(), default=None)
        return self._give(lambda window: reached is None or window <= reached, wall_ns)

    def _give(self, ready: Callable[[int], bool], wall_ns: int) -> list[Prediction]:
        given = []
        for window in sorted(window for window in self._rows if window > self._given):
            if not ready(window):
                break
            skipped = window - self._given - 1 if self._given else 0
            self._given = window
            given.append(self._mix(self._rows[window], wall_ns, skipped=skipped))
        for window in [window for window in self._rows if window <= self._given - self._kept]:
            del self._rows[window]
        return given

    def _mix(self, row: _Row, wall_ns: int, *, skipped: int) -> Prediction:
        row.revision += 1
        # Of a participant who has left, too: the session's epoch never goes back.
        self._epoch = max(self._epoch, *(said.epoch for said in row.by.values()))
        mixed = mix(self._session, row.by, revision=row.revision, wall_ns=wall_ns)
        dropped, self._owed = self._owed, {}
        return replace(mixed, epoch=self._epoch, skipped_windows=skipped, dropped=dropped)


def mix(
    session: str,
    by: Mapping[str, Prediction],
    *,
    revision: int,
    wall_ns: int,
) -> Prediction:
    """One window of a session out of its participants' predictions of that window (one at least).

    What was skipped or dropped is not stated here.

    Args:
        by: participant -> prediction.
    """
    heard = {name: said for name, said in by.items() if _heard(said)} or dict(by)
    all_said = list(by.values())
    status = min((said.status for said in all_said), key=_SETTLED.__getitem__)
    if revision and status is Status.FINAL and any(s.status is Status.AMENDED for s in all_said):
        status = Status.AMENDED
    return replace(
        all_said[0],
        session=session,
        start_ns=min(said.start_ns for said in all_said),
        start_wall_ns=min(said.start_wall_ns for said in all_said),
        emitted_wall_ns=wall_ns,
        status=status,
        revision=revision,
        heads=_heads(list(heard.values())),
        numbers=_numbers(list(heard.values())),
        modalities={
            modality: _stand(
                [said.modalities[modality] for said in all_said],
                [said.modalities[modality] for said in heard.values()],
            )
            for modality in Modality
        },
        align_error_ms=max(said.align_error_ms for said in all_said),
        align_tier=max((said.align_tier for said in all_said), key=lambda t: _TRUST.get(t, 0)),
        skipped_windows=0,
        dropped={},
        stages=StageTimes(ms=_slowest([said.stages.ms for said in all_said])),
        participants={name: 1 / len(heard) if name in heard else 0.0 for name in by},
        # Each participant's is said in their own documents.
        adaptation=None,
    )


def _heard(said: Prediction) -> bool:
    return any(
        report.coverage > 0 and report.state not in _SILENT for report in said.modalities.values()
    )


def _heads(said: Sequence[Prediction]) -> dict[str, HeadResult]:
    return {
        name: HeadResult(
            labels=head.labels,
            probabilities=tuple(
                sum(each) / len(said)
                for each in zip(*(one.heads[name].probabilities for one in said), strict=True)
            ),
        )
        for name, head in said[0].heads.items()
    }


def _numbers(said: Sequence[Prediction]) -> dict[str, NumberResult]:
    return {
        name: replace(
            number,
            value=sum(one.numbers[name].value for one in said) / len(said),
            contributions={
                modality: sum(one.numbers[name].contributions[modality] for one in said) / len(said)
                for modality in Modality
            },
        )
        for name, number in said[0].numbers.items()
    }


def _stand(reports: Sequence[ModalityReport], heard: Sequence[ModalityReport]) -> ModalityReport:
    best = min(reports, key=lambda report: _STANDING.index(report.state))
    ages = [report.age_ns for report in reports if report.age_ns is not None]
    return ModalityReport(
        state=best.state,
        reason=best.reason,
        coverage=sum(report.coverage for report in reports) / len(reports),
        age_ns=min(ages, default=None),
        contributions={
            head: tuple(
                sum(each) / len(heard)
                for each in zip(*(report.contributions[head] for report in heard), strict=True)
            )
            for head in heard[0].contributions
        },
    )


def _slowest(stages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    slowest: dict[str, float] = {}
    for ms in stages:
        for stage, value in ms.items():
            slowest[stage] = max(value, slowest.get(stage, value))
    return slowest
