"""Whether the machine can take one more participant, from what it measures of itself.

Three measurements decide: the processor time that the process has used of late against the cores
it has, the time by which the event loop runs late, and windows that the models had to skip. What a
participant costs is learned from those who are there; before the first, the bundle's graphs are
timed once.
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
        late_ns: by how much the event loop runs late.
        skipping: windows were skipped within the last seconds.
        each_cores: what a participant costs.
        participants: who are there.
    """

    busy_cores: float
    late_ns: int
    skipping: bool
    each_cores: float
    participants: int


class Admission:
    """Measures while `run` runs, and says no when there is no room.

    Args:
        capacity: share of the cores that may be used.
        expected_cores: what a participant is taken to cost before it was measured.
        participants, skipped: how many there are now; how many windows were skipped so far.
        used_ns, cores: the process's processor time so far, and the cores it has.
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
        cores: float | None = None,
    ) -> None:
        self._runtime = runtime
        self._limit = capacity * (own_cores() if cores is None else cores)
        self._expected = expected_cores
        self._participants = participants
        self._skipped = skipped
        self._used_ns = used_ns
        self._busy: float | None = None
        self._alone = 0  # samples since somebody was there
        self._idle: float | None = None  # what the process uses with nobody there
        self._each = expected_cores
        self._late_ns = 0.0
        self._skipped_at_ns: int | None = None
        self._came: list[int] = []  # instants of those not yet seen; bounded by SETTLE_NS
        self.refused = 0

    async def run(self) -> None:
        """Measure, once a second, until cancelled."""
        now_ns, used = self._runtime.now_ns(), self._used_ns()
        skipped = self._skipped()
        while True:
            due_ns = now_ns + SAMPLE_NS
            await self._runtime.sleep_until(due_ns)
            after_ns, used_after = self._runtime.now_ns(), self._used_ns()
            self._sample((used_after - used) / (after_ns - now_ns), after_ns - due_ns)
            if (skipped_after := self._skipped()) > skipped:
                self._skipped_at_ns = after_ns
            now_ns, used, skipped = after_ns, used_after, skipped_after

    def _sample(self, busy: float, late_ns: int) -> None:
        self._busy = busy if self._busy is None else MEMORY * self._busy + (1 - MEMORY) * busy
        self._late_ns = MEMORY * self._late_ns + (1 - MEMORY) * late_ns
        there = self._participants()
        self._forget_old()
        self._alone = 0 if there else self._alone + 1
        if self._alone and (self._idle is None or self._alone > FORGOTTEN):
            self._idle = self._busy
        elif there and not self._came:
            each = max(0.0, self._busy - (self._idle or 0.0)) / there
            self._each = MEMORY * self._each + (1 - MEMORY) * each

    def _forget_old(self) -> None:
        since_ns = self._runtime.now_ns() - SETTLE_NS
        self._came = [came_ns for came_ns in self._came if came_ns > since_ns]

    @property
    def load(self) -> Load:
        """What was measured last."""
        now_ns = self._runtime.now_ns()
        skipping = self._skipped_at_ns is not None and now_ns - self._skipped_at_ns < SETTLE_NS
        return Load(
            busy_cores=self._busy or 0.0,
            late_ns=int(self._late_ns),
            skipping=skipping,
            each_cores=self._each,
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
            wanted = load.busy_cores + (len(self._came) + 1) * load.each_cores
            if wanted > self._limit:
                self._refuse(
                    f"{load.busy_cores:.2f} of {self._limit:.2f} cores are in use, and a "
                    f"participant takes {load.each_cores:.2f}"
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
            "participant_cores": load.each_cores,
            "loop_late_seconds": load.late_ns / NS_PER_S,
            "refused_for_capacity_total": float(self.refused),
        }
