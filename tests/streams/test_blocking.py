"""`BlockingReader`: a thread that hangs costs its source, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from counterpoint.streams import blocking
from counterpoint.streams.blocking import BlockingReader, Watch
from counterpoint.streams.errors import SourceError
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import NS_PER_S


def reading(
    runtime: SystemRuntime, came: threading.Event, *, period_s: float = 0.01
) -> Callable[[Watch], None]:
    """A reader that gets something every ``period_s``."""
    pace = threading.Event()

    def read(watch: Watch) -> None:
        while watch.renew(runtime.now_ns() + NS_PER_S):
            came.set()
            pace.wait(period_s)

    return read


async def _wait(event: threading.Event) -> None:
    async with asyncio.timeout(30):
        await asyncio.to_thread(event.wait, 30)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=30)
    assert task.cancelled()


def test_it_runs_to_its_end_and_again() -> None:
    calls: list[Watch] = []
    with SystemRuntime() as runtime:
        reader = BlockingReader("cam", runtime, "cam")
        for _ in range(2):
            asyncio.run(reader.run(calls.append, open_timeout_s=30))
    assert len(calls) == 2
    assert all(watch.left for watch in calls)


def test_its_error_is_raised_as_it_is() -> None:
    def fails(watch: Watch) -> None:
        raise SourceError("cam: unplugged")

    with SystemRuntime() as runtime, pytest.raises(SourceError, match="cam: unplugged"):
        asyncio.run(BlockingReader("cam", runtime, "cam").run(fails, open_timeout_s=30))


def test_cancelled_it_has_left_its_thread_and_can_be_run_again() -> None:
    async def main(runtime: SystemRuntime) -> None:
        reader = BlockingReader("cam", runtime, "cam")
        for _ in range(3):
            came = threading.Event()
            task = asyncio.ensure_future(reader.run(reading(runtime, came), open_timeout_s=30))
            await _wait(came)
            await _cancel(task)

    with SystemRuntime() as runtime:
        asyncio.run(main(runtime))


def test_cancelled_before_its_thread_was_free_it_never_reads() -> None:
    free, read = threading.Event(), threading.Event()

    async def main(runtime: SystemRuntime) -> None:
        reader = BlockingReader("cam", runtime, "cam")
        busy = asyncio.ensure_future(runtime.lane("cam").submit(lambda: free.wait(30)))
        task = asyncio.ensure_future(reader.run(reading(runtime, read), open_timeout_s=30))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        # It hears of that in the loop's next turn; a thread that is free before may well read.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        free.set()
        await asyncio.wait({busy, task}, timeout=30)
        assert task.cancelled()
        assert not read.is_set()
        # And it may be run again.
        again = asyncio.ensure_future(reader.run(reading(runtime, read), open_timeout_s=30))
        await _wait(read)
        await _cancel(again)

    try:
        with SystemRuntime() as runtime:
            asyncio.run(main(runtime))
    finally:
        free.set()


def test_cancelled_while_it_hangs_it_is_left_behind_and_refused_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blocking, "CLOSE_TIMEOUT_S", 0.05)
    caplog.set_level(logging.WARNING)
    back, hangs, came = threading.Event(), threading.Event(), threading.Event()

    def hang(watch: Watch) -> None:
        hangs.set()
        back.wait(30)

    async def main(runtime: SystemRuntime) -> None:
        reader = BlockingReader("cam", runtime, "cam")
        task = asyncio.ensure_future(reader.run(hang, open_timeout_s=30))
        await _wait(hangs)
        await _cancel(task)
        assert "cam: not closed within 0.05 s" in caplog.text
        with pytest.raises(SourceError, match="hangs in its driver since it was last open"):
            await reader.run(reading(runtime, came), open_timeout_s=30)
        back.set()
        await runtime.lane("cam").submit(lambda: None)
        task = asyncio.ensure_future(reader.run(reading(runtime, came), open_timeout_s=30))
        await _wait(came)
        await _cancel(task)

    try:
        with SystemRuntime() as runtime:
            asyncio.run(main(runtime))
    finally:
        back.set()
