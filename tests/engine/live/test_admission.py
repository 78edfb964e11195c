"""`Admission`: room by what was measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from counterpoint.engine.live.admission import Admission, expected_cores
from counterpoint.engine.server.port import RefusedError
from counterpoint.streams.types import NS_PER_S
from tests.support.bundles import tiny_bundle
from tests.support.sessions import load_models
from tests.support.virtual import VirtualRuntime


class Machine:
    """A machine with two cores whose load a test sets."""

    def __init__(self) -> None:
        self.runtime = VirtualRuntime()
        self.participants = 0
        self.skipped = 0
        self.each = 0.2
        self.loop_each = 0.0
        self.idle = 0.05
        self._used = 0.0
        self._loop_used = 0.0
        self._loop_at_ns = self.runtime.now_ns()
        self._at_ns = self.runtime.now_ns()
        self.admission = Admission(
            self.runtime,
            capacity=0.85,
            expected_cores=0.2,
            participants=lambda: self.participants,
            skipped=lambda: self.skipped,
            used_ns=self._used_ns,
            loop_used_ns=self._loop_used_ns,
            cores=2.0,
        )

    def _used_ns(self) -> int:
        now_ns = self.runtime.now_ns()
        busy = self.idle + self.participants * self.each
        self._used += (now_ns - self._at_ns) * busy
        self._at_ns = now_ns
        return int(self._used)

    def _loop_used_ns(self) -> int:
        now_ns = self.runtime.now_ns()
        self._loop_used += (now_ns - self._loop_at_ns) * self.participants * self.loop_each
        self._loop_at_ns = now_ns
        return int(self._loop_used)

    async def pass_seconds(self, seconds: int) -> None:
        await self.runtime.advance_to(self.runtime.now_ns() + seconds * NS_PER_S)

    def run(self, scenario: Callable[[], object]) -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                measuring = group.create_task(self.admission.run())
                await self.runtime.settle()
                result = scenario()
                if asyncio.iscoroutine(result):
                    await result
                measuring.cancel()

        asyncio.run(main())

    def fill(self) -> int:
        """Admit one after the other at once; how many got in."""
        admitted = 0
        while True:
            try:
                self.admission.admit()
            except RefusedError:
                return admitted
            admitted += 1


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_as_many_at_once_as_are_expected_to_fit(machine: Machine) -> None:
    async def scenario() -> None:
        await machine.pass_seconds(30)
        # 1.7 cores, 0.05 in use: eight of 0.2.
        assert machine.fill() == 8
        with pytest.raises(RefusedError, match="no room") as refused:
            machine.admission.admit()
        assert refused.value.reason == "capacity"
        assert machine.admission.counters()["refused_for_capacity_total"] == 2

    machine.run(scenario)


def test_what_a_participant_costs_is_learned(machine: Machine) -> None:
    async def scenario() -> None:
        await machine.pass_seconds(30)
        machine.participants, machine.each = 2, 0.5
        await machine.pass_seconds(60)
        assert machine.admission.load.each_cores == pytest.approx(0.5, abs=0.01)
        assert machine.fill() == 1  # 1.05 and 0.5 is 1.55

    machine.run(scenario)


def test_one_thread_can_be_full_while_there_are_cores(machine: Machine) -> None:
    async def scenario() -> None:
        machine.participants, machine.each, machine.loop_each = 4, 0.2, 0.1
        await machine.pass_seconds(60)
        assert machine.admission.load.loop_cores == pytest.approx(0.4, abs=0.01)
        assert machine.fill() == 1  # 0.51 for the loop, and 0.85 of 1.7 cores are in use
        with pytest.raises(RefusedError, match="event loop uses"):
            machine.admission.admit()

    machine.run(scenario)


def test_windows_that_are_skipped_close_the_door_for_a_while(machine: Machine) -> None:
    async def scenario() -> None:
        machine.participants = 1
        await machine.pass_seconds(30)
        machine.skipped = 3
        await machine.pass_seconds(2)
        with pytest.raises(RefusedError, match="cannot keep up"):
            machine.admission.admit()
        await machine.pass_seconds(10)
        machine.admission.admit()

    machine.run(scenario)


def test_the_first_one_is_always_tried(machine: Machine) -> None:
    async def scenario() -> None:
        machine.idle = 3.0
        await machine.pass_seconds(30)
        assert machine.fill() == 1

    machine.run(scenario)


def test_graphs_are_timed_before_anybody_is_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    models = load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))

    class Ticking(VirtualRuntime):
        """Each look at the clock costs a millisecond."""

        def now_ns(self) -> int:
            self._now_ns += 1_000_000
            return self._now_ns

    cores = expected_cores(models, Ticking())
    graphs_ms = len(models.graphs) / 0.3
    hop_ms = models.bundle.manifest.hop_ns / 1e6
    assert 0.06 < cores <= 0.06 + graphs_ms / hop_ms + 1e-9
