"""What must hold in a run, at each step and at its end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from counterpoint.engine.align import Status
from counterpoint.engine.config import Config
from counterpoint.engine.engine import Engine
from counterpoint.engine.outbox import PUBLISH_DROPS
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.redis_client import EVENTS_KEY, predictions_key
from counterpoint.engine.session import MAX_CELLS, Session
from tests.simulation.coverage import Coverage
from tests.simulation.plan import Plan
from tests.simulation.redis import SimulatedRedis

TIMER_SLACK_MS = 0.001


class InvariantError(AssertionError):
    """The engine did what it must never do."""


def must(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantError(what)


@dataclass(slots=True)
class Watched:
    """One session under watch.

    Fields:
        session: the real one.
        config: its terms.
        windows: index -> statuses of the predictions that its reader was given.
        unread: predictions that its reader had lost when a gap last showed it.
    """

    session: Session
    config: Config
    last_window: int = 0
    windows: dict[int, list[Status]] = field(default_factory=dict)
    epoch: int = 0
    unread: int = 0

    def at_rest(self) -> None:
        """Everything waits, at some instant in between."""
        session = self.session
        session._aligner.check()
        box = session._mailbox.stats()
        if box.put != box.got + box.dropped_total + box.superseded + box.waiting_total:
            must(False, f"the mailbox lost something: {box}")
        for modality, room in box.capacity.items():
            if box.peak[modality] > room:
                must(False, f"{modality}: {box.peak[modality]} of {room} places")
        work = session._work
        must(len(work._cells) <= MAX_CELLS, "the work queue ran over")  # type: ignore[attr-defined]

    def told(self, prediction: Prediction) -> None:
        """A prediction reached the session's reader."""
        statuses = self.windows.setdefault(prediction.window, [])
        if prediction.revision == 0:
            must(not statuses, f"window {prediction.window} began twice")
            gap = prediction.window - self.last_window - 1
            must(gap >= 0, f"window {prediction.window} after {self.last_window}")
            # What a slow reader lost went right before this, and is counted as unread.
            unread = self.session.summary().unread if gap > prediction.skipped_windows else 0
            must(
                gap == prediction.skipped_windows or unread > self.unread,
                f"window {prediction.window}: {gap} missing, {prediction.skipped_windows} stated",
            )
            self.unread = max(self.unread, unread)
            self.last_window = prediction.window
            must(prediction.epoch >= self.epoch, "the epoch went back")
            self.epoch = prediction.epoch
        statuses.append(prediction.status)
        must(statuses.count(Status.FINAL) <= 1, f"window {prediction.window}: two finals")
        must(
            Status.FINAL not in statuses or Status.PROVISIONAL not in statuses[1:],
            f"window {prediction.window}: provisional after its final",
        )
        time = self.config.time
        limit_ms = time.deadline_ms + (time.lateness_ms if prediction.revision else 0)
        must(
            prediction.stages.ms["align"] <= limit_ms + TIMER_SLACK_MS,
            f"window {prediction.window} r{prediction.revision} left the aligner "
            f"{prediction.stages.ms['align']} ms after its end",
        )
        for head in prediction.heads.values():
            must(abs(sum(head.probabilities) - 1) < 1e-6, "probabilities do not sum to 1")


def published(redis: SimulatedRedis, name: str) -> list[dict[str, Any]]:
    """The documents of a session in the order of its stream."""
    entries = redis.streams.get(predictions_key(name), [])
    must([i for i, _ in entries] == sorted({i for i, _ in entries}), "stream IDs out of order")
    return [json.loads(data) for _, data in entries]


def stream_is_sound(redis: SimulatedRedis, name: str) -> None:
    """Each document once, in order, and every gap stated."""
    documents = published(redis, name)
    keys = [(d["window"], d["revision"]) for d in documents]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    must(not twice, f"{name}: published twice: {twice[:5]}")
    firsts = [d["window"] for d in documents if d["revision"] == 0]
    must(firsts == sorted(firsts), f"{name}: windows out of order")
    owed = 0
    last = 0
    for document in documents:
        owed += document["skipped_windows"]
        owed += sum(document["dropped"].get(reason, 0) for reason in PUBLISH_DROPS)
        if document["revision"] == 0:
            missing = document["window"] - last - 1
            must(missing <= owed, f"{name}: {missing} missing before {document['window']}")
            owed -= missing
            last = document["window"]


def ended_well(engine: Engine, redis: SimulatedRedis, watched: Watched, name: str) -> None:
    """A session that came to its regular end accounts for everything."""
    session = watched.session
    summary = session.summary()
    aligned = summary.counters.windows // session._stride
    must(
        summary.windows + summary.skipped == aligned,
        f"{name}: {aligned} windows, {summary.windows} predicted, {summary.skipped} skipped",
    )
    for modality, tally in summary.counters.items.items():
        must(tally.in_flight == 0, f"{name}: {modality} still in flight")
    if redis.lost_data or engine.publisher.backlog:
        return
    documents = published(redis, name)
    ends = [json.loads(data) for _, data in redis.streams.get(EVENTS_KEY, [])]
    ends = [e for e in ends if e["session"] == name and e["event"] == "ended"]
    must(len(ends) == 1, f"{name}: {len(ends)} ended events")
    told = Counter[str]()
    for document in [*documents, *ends]:
        told.update(document["dropped"])
    lost = sum(told[reason] for reason in PUBLISH_DROPS)
    must(
        len(documents) + lost == summary.windows + summary.revisions,
        f"{name}: {summary.windows} + {summary.revisions} predicted, {len(documents)} published, "
        f"{lost} dropped as stated",
    )
    skipped = sum(d["skipped_windows"] for d in [*documents, *ends])
    must(skipped <= summary.skipped, f"{name}: {skipped} skips stated of {summary.skipped}")


def undisturbed(plan: Plan, watched: Watched, name: str) -> None:
    """What befell another session's sources was not felt in this one."""
    if plan.faults & {"source hangs", "models hang"}:
        return  # sessions share their workers
    summary = watched.session.summary()
    must(not summary.errors, f"{name}: {summary.errors}")
    for modality, tally in summary.counters.items.items():
        must(tally.received > 0, f"{name}: no {modality}")
        must(tally.late == 0, f"{name}: {modality}: {tally}")


def cover(coverage: Coverage, watched: Watched) -> None:
    """What happened in a session."""
    summary = watched.session.summary()
    coverage.saw("skipped windows", summary.skipped)
    coverage.saw("epochs", watched.epoch)
    coverage.saw("unread", summary.unread)
    for reason, count in summary.dropped.items():
        coverage.saw(f"dropped: {reason}", count)
    for statuses in watched.windows.values():
        for status in statuses:
            coverage.saw(status.value)
