"""The recorded schedule in place of the work queue: the same batches, however fast this machine.

So what an overloaded session skipped is skipped again, and what it managed is done again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

from counterpoint.engine.capsule.codec import CellKey, RecordedBatch, WindowKey, cell_key
from counterpoint.engine.work import Batch, Cell, Due
from counterpoint.streams.types import DropCounter

log = logging.getLogger(__name__)

MAX_WAITING: Final = 1_024
"""Cells, and windows, that wait for their batch. Far more than a recorded session let wait."""


class RecordedWork:
    """Implements `Work` from a capsule's batches.

    A batch is given when all that it names is there. What no batch names is passed over: cells
    that had given way, windows that were skipped, all that follows the last batch. What a batch
    names and this build does not give (it is another build then) is left out once nothing more
    can come, or once more waits than can have waited.
    """

    def __init__(self, batches: Iterator[RecordedBatch]) -> None:
        self._batches = batches
        self._next = next(batches, None)
        self._needed = self._needs()
        self._cells: dict[CellKey, Cell] = {}  # at most MAX_WAITING, see _put
        self._windows: dict[WindowKey, Due] = {}  # the same
        self._drops = DropCounter()
        self._skipped_total = 0
        self._forced = False
        self._closed = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def drops(self) -> DropCounter:
        """Cells that no batch takes."""
        return self._drops

    @property
    def skipped_total(self) -> int:
        return self._skipped_total

    def put_cell(self, cell: Cell) -> None:
        key = cell_key(cell)
        self._cells[key] = cell
        self._put(key)

    def put_window(self, due: Due) -> None:
        key = (due.window.index, due.window.revision)
        self._windows[key] = due
        self._put(key)

    async def room(self) -> None:
        """Wait while a batch is ready to be taken."""
        while self._next is not None and self._is_ready():
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def take(self) -> Batch | None:
        while self._next is not None:
            if self._is_ready() or self._closed:
                return self._serve(self._next)
            self._changed.clear()
            await self._changed.wait()
        # Ingest goes on to the end of the session by itself.
        return None

    def _is_ready(self) -> bool:
        return self._forced or not self._needed

    def _needs(self) -> set[CellKey | WindowKey]:
        if self._next is None:
            return set()
        windows = () if self._next.window is None else (self._next.window,)
        return {*self._next.cells, *windows}

    def _serve(self, recorded: RecordedBatch) -> Batch:
        if self._needed:
            log.warning("this build does not give what the recorded one gave: %s", self._needed)
        cells = tuple(self._cells[key] for key in recorded.cells if key in self._cells)
        due = None if recorded.window is None else self._windows.get(recorded.window)
        batch = Batch(cells=cells, due=due, skipped=recorded.skipped, lost=recorded.lost)
        if due is not None:
            self._skipped_total += recorded.skipped
        self._forget(recorded)
        self._next = next(self._batches, None)
        self._forced = False
        self._needed = self._needs() - self._cells.keys() - self._windows.keys()
        if self._next is None:
            self._cells.clear()
            self._windows.clear()
        self._room.set()
        return batch

    def _forget(self, recorded: RecordedBatch) -> None:
        """What was taken, and what came before it: the models are given all that waits."""
        last = next((key for key in reversed(recorded.cells) if key in self._cells), None)
        while last is not None and last in self._cells:
            key = next(iter(self._cells))
            del self._cells[key]
            if key not in recorded.cells:
                self._drops.add("overload")
        while recorded.window in self._windows:
            del self._windows[next(iter(self._windows))]

    def _put(self, key: CellKey | WindowKey) -> None:
        self._needed.discard(key)
        if self._next is None:
            self._cells.clear()
            self._windows.clear()
        elif max(len(self._cells), len(self._windows)) > MAX_WAITING:
            self._forced = True
        self._changed.set()
