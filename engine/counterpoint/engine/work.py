"""What waits between a session's aligner and its models: bounded, and the newest wins.

Cells and lines wait to be encoded; at most one window waits while another is in flight. When
the models cannot keep up, a newer window takes the place of the waiting one (a stated skip) and
the oldest cells give way (a counted drop). A later revision of a window gives way to a window that
was not given yet. Flat-out replay waits for room instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from counterpoint.engine.align import AudioCell, Counters, Line, VideoCell, Window
from counterpoint.streams.types import DropCounter

Cell = VideoCell | AudioCell | Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A window that is ready for the models.

    Fields:
        window: as the aligner gave it.
        counters: the aligner's conservation counters when it gave the window.
        ready_ns: monotonic instant at which it was handed over.
        placing_error_ns: how far its sound may lie from the instants that the source stated.
    """

    window: Window
    counters: Counters
    ready_ns: int
    placing_error_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the models do next: encode ``cells``, then fuse ``due`` if there is one.

    Fields:
        cells: in the order in which they closed.
        due: the window, if one waits.
        skipped: windows that got no prediction since the last one that did.
        lost: for a recorded batch, what was lost by then, by reason; None while it is live.
    """

    cells: tuple[Cell, ...]
    due: Due | None
    skipped: int
    lost: Mapping[str, int] | None = None


class Work(Protocol):
    """What waits for the models; see `WorkQueue` for what each of these means."""

    @property
    def drops(self) -> DropCounter: ...
    @property
    def skipped_total(self) -> int: ...
    def put_cell(self, cell: Cell) -> None: ...
    def put_window(self, due: Due) -> None: ...
    async def room(self) -> None: ...
    def close(self) -> None: ...
    async def take(self) -> Batch | None: ...


class WorkQueue:
    """One producer (ingest), one consumer (inference), both on the session's loop.

    Args:
        max_cells: cells and lines that wait at most.
    """

    def __init__(self, *, max_cells: int) -> None:
        self._cells: deque[Cell] = deque()  # at most max_cells, see put_cell
        self._max_cells = max_cells
        self._due: Due | None = None
        self._skipped = 0
        self._closed = False
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._drops = DropCounter()
        self._skipped_total = 0

    @property
    def drops(self) -> DropCounter:
        """Cells and revisions that gave way."""
        return self._drops

    @property
    def skipped_total(self) -> int:
        """Windows that gave way before any prediction of them was made."""
        return self._skipped_total

    def put_cell(self, cell: Cell) -> None:
        """Never waits: the oldest cell gives way."""
        if len(self._cells) >= self._max_cells:
            self._cells.popleft()
            self._drops.add("overload")
        self._cells.append(cell)
        self._ready.set()

    def put_window(self, due: Due) -> None:
        """Never waits: takes the place of a window that has not been started.

        A revision never takes that of a window's first output, since that one says more.
        """
        if self._due is not None:
            if self._due.window.revision or due.window.revision:
                self._drops.add("revision skipped")
            else:
                self._skipped += 1
                self._skipped_total += 1
            if due.window.revision and not self._due.window.revision:
                return
        self._due = due
        self._ready.set()

    async def room(self) -> None:
        """Wait until nothing would have to give way. For flat-out replay."""
        while self._due is not None or len(self._cells) >= self._max_cells:
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """Nothing more will be put."""
        self._closed = True
        self._ready.set()

    async def take(self) -> Batch | None:
        """All cells that wait and the window, if one does; None when closed and empty."""
        while not self._cells and self._due is None:
            if self._closed:
                return None
            self._ready.clear()
            await self._ready.wait()
        batch = Batch(cells=tuple(self._cells), due=self._due, skipped=self._skipped)
        self._cells.clear()
        if self._due is not None:
            self._skipped = 0
        self._due = None
        self._room.set()
        return batch
