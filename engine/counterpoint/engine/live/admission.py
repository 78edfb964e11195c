"""Whether the machine can take one more participant, from what it measures of itself.

Four measurements decide: the processor time that the process has used of late against the cores
it has, that of the event loop's thread, the time by which the loop runs late, and windows that the
models had to skip. What a participant costs is learned from those who are there; before the first,
the bundle's graphs are timed once.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from counterpoint.engine.golden import golden_inputs
from counterpoint.engine.models import Models
from counterpoint.engine.server.port import RefusedError
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import NS_PER_S

SAMPLE_NS: Final = NS_PER_S
MEMORY: Final = 0.7
"""Share of the old in a smoothed measurement, each second."""
FORGOTTEN: Final = 10
"""Samples after which those who have left are no longer in the smoothed measurement."""
SETTLE_NS: Final = 5 * NS_PER_S
"""A participant who came within this is not yet seen in the measurements."""
LATE_NS: Final = 100_000_000
"""A loop that runs later than this has no room."""
LOOP_SHARE: Final = 0.6
"""Of one core, times the capacity, for the loop's thread: it has to wait for the interpreter's lock
again and again. With six sessions on two cores (benchmarks/live_sessions.py) it used 0.6 of a core,
the process 1.25 of two, and packets waited for up to half a second before they were read."""
RECEIVING_CORES: Final = 0.06
"""To receive and decode 640x480 at 30 pictures a second and sound, before it was measured
(benchmarks/webrtc_delay.py)."""
GRAPHS_SHARE: Final = 0.3
"""Of what is computed for a window, the graphs are about this much; the rest prepares their
input. Only until the first participant was measured."""


def own_cores() -> float:
    """Cores that this process may use."""
    return float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def used_ns() -> int:
    """Processor time of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int((usage.ru_utime + usage.ru_stime) * NS_PER_S)


def loop_used_ns() -> int:
    """Processor time of the calling thread so far; 0 where the system does not tell."""
    thread = getattr(resource, "RUSAGE_THREAD", None)
    if thread is None:
        return 0
    usage = resource.getrusage(thread)
    return int((usage.ru_utime + usage.ru_stime) * NS_PER_S)


def expected_cores(models: Models, runtime: Runtime) -> float:
    """What a participant may cost, in cores, by timing each graph once. Blocking."""
    spent_ns = 0.0
    for role, graph in models.graphs.items():
        inputs = golden_inputs(models.bundle, role)
        graph.run(inputs)  # the first run allocates
        began_ns = runtime.now_ns()
        graph.run(inputs)
        batch = len(next(iter(inputs.values())))
        spent_ns += (runtime.now_ns() - began_ns) / max(1, batch)
    return RECEIVING_CORES + spent_ns / models.bundle.manifest.hop_ns / GRAPHS_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was measured, smoothed.

    Fields:
        busy_cores: processor time a second.
        loop_cores: that of the event loop's thread.
        late_ns: by how much the event loop runs late.
        skipping: windows were skipped within the last seconds.
        each_cores, each_loop_cores: what a participant costs.
        participants: who are there.
    """

    busy_cores: float
    loop_cores: float
    late_ns: int
    skipping: bool
    each_cores: float
    each_loop_cores: float
    participants: int


class _Share:
    """Processor time a second, smoothed, and what a participant takes of it."""

    def __init__(self, used_ns: Callable[[], int], each: float) -> None:
        self.each = each
        self._busy: float | None = None
        self._used_ns = used_ns
        self._before_ns = 0
        self._alone = 0  # samples since somebody was there
        self._idle: float | None = None  # what is used with nobody there

    @property
    def busy(self) -> float:
        return self._busy or 0.0

    def begin(self) -> None:
        """The first sample begins now."""
        self._before_ns = self._used_ns()

    def sample(self, wall_ns: int, there: int, *, settled: bool) -> None:
        """A sample of ``wall_ns`` ends.

        Args:
            there: participants now.
            settled: all of them were there for all of it.
        """
        used_ns = self._used_ns()
        busy = (used_ns - self._before_ns) / wall_ns
        self._before_ns = used_ns
        self._busy = busy if self._busy is None else MEMORY * self._busy + (1 - MEMORY) * busy
        self._alone = 0 if there else self._alone + 1
        if self._alone and (self._idle is None or self._alone > FORGOTTEN):
            self._idle = self._busy
        elif there and settled:
            each = max(0.0, self._busy - (self._idle or 0.0)) / there
            self.each = MEMORY * self.each + (1 - MEMORY) * each


class Admission:
    """Measures while `run` runs, and says no when there is no room.

    Args:
        capacity: share of the cores that may be used.
        expected_cores: what a participant is taken to cost before it was measured.
        participants, skipped: how many there are now; how many windows were skipped so far.
        used_ns, loop_used_ns: processor time of the process and of the loop's thread so far.
        cores: that the process has.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        capacity: float,
        expected_cores: float,
        participants: Callable[[], int],
        skipped: Callable[[], int],
        used_ns: Callable[[], int] = used_ns,
        loop_used_ns: Callable[[], int] = loop_used_ns,
        cores: float | None = None,
    ) -> None:
        self._runtime = runtime
        self._limit = capacity * (own_cores() if cores is None else cores)
        self._loop_limit = capacity * LOOP_SHARE
        self._participants = participants
        self._skipped = skipped
        self._process = _Share(used_ns, expected_cores)
        # What a participant takes of the loop is told by nothing before one is there.
        self._loop = _Share(loop_used_ns, 0.0)
        self._late_ns = 0.0
        self._skipped_at_ns: int | None = None
        self._came: list[int] = []  # instants of those not yet seen; bounded by SETTLE_NS
        self.refused = 0

    async def run(self) -> None:
        """Measure, once a second, until cancelled."""
        now_ns, skipped = self._runtime.now_ns(), self._skipped()
        for share in (self._process, self._loop):
            share.begin()
        while True:
            due_ns = now_ns + SAMPLE_NS
            await self._runtime.sleep_until(due_ns)
            after_ns = self._runtime.now_ns()
            self._sample(after_ns - now_ns, after_ns - due_ns)
            if (skipped_after := self._skipped()) > skipped:
                self._skipped_at_ns = after_ns
            now_ns, skipped = after_ns, skipped_after

    def _sample(self, wall_ns: int, late_ns: int) -> None:
        self._late_ns = MEMORY * self._late_ns + (1 - MEMORY) * late_ns
        self._forget_old()
        for share in (self._process, self._loop):
            share.sample(wall_ns, self._participants(), settled=not self._came)

    def _forget_old(self) -> None:
        since_ns = self._runtime.now_ns() - SETTLE_NS
        self._came = [came_ns for came_ns in self._came if came_ns > since_ns]

    @property
    def load(self) -> Load:
        """What was measured last."""
        now_ns = self._runtime.now_ns()
        skipping = self._skipped_at_ns is not None and now_ns - self._skipped_at_ns < SETTLE_NS
        return Load(
            busy_cores=self._process.busy,
            loop_cores=self._loop.busy,
            late_ns=int(self._late_ns),
            skipping=skipping,
            each_cores=self._process.each,
            each_loop_cores=self._loop.each,
            participants=self._participants(),
        )

    def admit(self) -> None:
        """Take one more participant into account.

        Raises:
            RefusedError: there is no room; the message has the figures.
        """
        self._forget_old()
        load = self.load
        # The first one is always tried: what it costs here is not known before.
        if load.participants or self._came:
            newcomers = len(self._came) + 1
            if load.busy_cores + newcomers * load.each_cores > self._limit:
                self._refuse(
                    f"{load.busy_cores:.2f} of {self._limit:.2f} cores are in use, and a "
                    f"participant takes {load.each_cores:.2f}"
                )
            if load.loop_cores + newcomers * load.each_loop_cores > self._loop_limit:
                self._refuse(
                    f"the event loop uses {load.loop_cores:.2f} of the {self._loop_limit:.2f} "
                    f"cores that it can count on, and a participant takes "
                    f"{load.each_loop_cores:.2f}"
                )
            if load.late_ns > LATE_NS:
                self._refuse(f"everything runs {load.late_ns / 1e6:.0f} ms late")
            if load.skipping:
                self._refuse("the models cannot keep up with those who are there")
        self._came.append(self._runtime.now_ns())

    def _refuse(self, why: str) -> None:
        self.refused += 1
        raise RefusedError(f"this machine has no room for one more: {why}", reason="capacity")

    def counters(self) -> Mapping[str, float]:
        """For `/metrics`."""
        load = self.load
        return {
            "busy_cores": load.busy_cores,
            "limit_cores": self._limit,
            "loop_cores": load.loop_cores,
            "loop_limit_cores": self._loop_limit,
            "participant_cores": load.each_cores,
            "loop_late_seconds": load.late_ns / NS_PER_S,
            "refused_for_capacity_total": float(self.refused),
        }
