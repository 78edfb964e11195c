"""A session's predictions on their way to the session's own reader: bounded."""

from __future__ import annotations

import asyncio
from collections import deque

from counterpoint.engine.prediction import Prediction


class Readout:
    """One writer, one reader, both on the session's loop.

    An object, not an asynchronous generator: one that is left early would be closed by a task that
    nobody owns.

    Args:
        size: predictions that wait before the oldest gives way.
    """

    def __init__(self, size: int) -> None:
        self._waiting: deque[Prediction] = deque()  # at most size, see put
        self._size = size
        self._changed = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, prediction: Prediction) -> None:
        """Never waits: the oldest gives way, and is counted."""
        if len(self._waiting) >= self._size:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(prediction)
        self._changed.set()

    async def room(self) -> None:
        """Wait until nothing would have to give way. For flat-out replay."""
        while len(self._waiting) >= self._size:
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Nothing more will be put."""
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> Readout:
        return self

    async def __anext__(self) -> Prediction:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self._changed.set()
        return self._waiting.popleft()
