"""Programs that tests run beside them: they say what happens in JSON, and stop when told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

WAIT_S = 30.0
STOP_S = 15.0


class Program:
    """One that runs. It stops by itself when its standard input ends.

    Attributes:
        said: the objects that it wrote to its standard output so far.
        errors: the lines it wrote to its standard error.
        process: for signals and for its return code.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._changed = asyncio.Event()
        self._done = 0

    async def until(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait for the ``count``th object of that ``event``.

        Raises:
            AssertionError: the program ended without it, or took too long; with all it said.
        """
        try:
            async with asyncio.timeout(WAIT_S):
                while len(found := [s for s in self.said if s["event"] == event]) < count:
                    assert self._done < 2, f"it ended without {event!r}: {self}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {event!r} in time: {self}") from None
        return found[count - 1]

    async def until_error(self, text: str) -> str:
        """Wait for a line on its standard error that holds ``text``."""
        try:
            async with asyncio.timeout(WAIT_S):
                while (found := next((e for e in self.errors if text in e), None)) is None:
                    assert self._done < 2, f"it ended without {text!r}: {self}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {text!r} in time: {self}") from None
        return found

    async def stop(self) -> int:
        """Let it end in an orderly way; returns its return code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end and for all it said; returns its return code."""
        try:
            async with asyncio.timeout(STOP_S):
                code = await self.process.wait()
                while self._done < 2:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"it did not end in time: {self}") from None
        return code

    async def read_output(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))
            self._changed.set()
        self._end()

    async def read_errors(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.errors.append(line.decode(errors="replace").rstrip())
            self._changed.set()
        self._end()

    def _end(self) -> None:
        self._done += 1
        self._changed.set()

    def __str__(self) -> str:
        return "\n".join([*map(str, self.said), *self.errors[-20:]])


@asynccontextmanager
async def program(*command: str) -> AsyncIterator[Program]:
    """Run a command while the block lasts; what is left of it then is killed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Program(process)
    readers = [
        asyncio.create_task(running.read_output()),
        asyncio.create_task(running.read_errors()),
    ]
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*readers)
