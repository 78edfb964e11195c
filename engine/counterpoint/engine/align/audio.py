"""Audio: a contiguous source, laid out sample by sample in cells of one hop."""

from __future__ import annotations

import numpy as np

from counterpoint.engine.align.progress import Ledger, Progress, Tallies, stand
from counterpoint.engine.align.window import AlignSpec, AudioCell, Output, Part
from counterpoint.streams.types import NS_PER_S, AudioChunk, BoolArray, Float32Array


class _OpenCell:
    """A cell that is still being filled; given before, it may be given again.

    While it is filled from left to right without overlap, ``reach`` is all that is written for
    each chunk; ``valid`` is made only once there is a hole or an overlap.
    """

    __slots__ = ("chunks", "count", "given", "reach", "revision", "samples", "valid")

    def __init__(self, length: int) -> None:
        self.samples: Float32Array = np.zeros(length, np.float32)
        self.valid: BoolArray | None = None
        self.reach = 0  # just after the last valid sample
        self.count = 0  # valid samples
        self.chunks = 0  # chunks whose first stored sample is here, since it was last given
        self.given = 0  # valid samples when it was last given
        self.revision = -1

    def put(self, start: int, samples: Float32Array) -> int:
        """Store what is new of ``samples`` from position ``start``; gives how many were stored."""
        stop = start + len(samples)
        if start >= self.reach:
            if start > self.reach or self.valid is not None:
                self._validity()[start:stop] = True
            self.samples[start:stop] = samples
            self.reach = stop
            self.count += stop - start
            return stop - start
        valid = self._validity()
        fresh = ~valid[start:stop]
        stored = int(np.count_nonzero(fresh))
        if stored:
            self.samples[start:stop][fresh] = samples[fresh]
            valid[start:stop] = True
            self.reach = max(self.reach, stop)
            self.count += stored
        return stored

    def _validity(self) -> BoolArray:
        if self.valid is None:
            self.valid = np.zeros(len(self.samples), np.bool_)
            self.valid[: self.reach] = True
        return self.valid

    def give(self, index: int) -> AudioCell:
        """The cell as it is. Its arrays are shared until `thaw`."""
        valid = self._validity()
        self.samples.flags.writeable = False
        valid.flags.writeable = False
        self.chunks, self.given = 0, self.count
        self.revision += 1
        return AudioCell(index=index, samples=self.samples, valid=valid, revision=self.revision)

    def thaw(self) -> None:
        """Before more is put into a cell that was given: leave what was given as it was."""
        if not self.samples.flags.writeable:
            self.samples, self.valid = self.samples.copy(), self._validity().copy()


class AudioTrack:
    """Places samples on the grid of the session and knows when a cell is to be given.

    A chunk starts at sample ``round(t_ns * rate / 1e9)``; where chunks overlap, the sample that
    came first stays. The bound is the end of the last chunk: what follows is contiguous or leaves
    a gap, which is then known.

    With a lateness, cells that were given stay open until they are settled.

    Attributes:
        closed: the last cell that takes nothing more.
        touched: windows whose content has changed since the aligner last looked.
    """

    def __init__(self, spec: AlignSpec, progress: Progress | None) -> None:
        self._spec = spec
        self._rate_hz = spec.audio_rate_hz
        self._length = spec.samples_per_hop
        self.progress = progress
        self.tallies = Tallies()  # chunks
        self.samples = Tallies()
        self.ledger = Ledger()
        self._open: dict[int, _OpenCell] = {}
        self._context = spec.audio_context_ns // spec.hop_ns
        self.closed = 0
        self.touched: list[range] = []
        self._changed: set[int] = set()  # cells to be given again
        self.next_end_ns = spec.hop_ns

    def push(self, chunk: AudioChunk, limit_ns: int) -> None:
        """Take what a chunk holds before ``limit_ns``; moves the bound."""
        samples = chunk.samples
        start = (chunk.t_ns * self._rate_hz + NS_PER_S // 2) // NS_PER_S
        stop = start + len(samples)
        self.samples.received += len(samples)
        assert self.progress is not None
        bound_ns = stop * NS_PER_S // self._rate_hz
        if bound_ns >= limit_ns or start < 0:
            limit = max(0, limit_ns * self._rate_hz // NS_PER_S)
            kept = samples[max(0, -start) : max(0, limit - start)]
            self.samples.out_of_range += len(samples) - len(kept)
            if not len(kept):
                self.tallies.out_of_range += 1
                return
            samples, start = kept, max(0, start)
            bound_ns = min(bound_ns, limit_ns)
        if bound_ns > self.progress.bound_ns:
            self.progress.bound_ns = bound_ns
        closed = self.closed * self._length
        if start < closed:
            cut = min(closed - start, len(samples))
            self.samples.late += cut
            samples, start = samples[cut:], start + cut
            if not len(samples):
                self.tallies.late += 1
                return
        self._store(start, samples)

    def _store(self, start: int, samples: Float32Array) -> None:
        """Spread samples over the open cells; the chunk counts in the first that takes any."""
        length = self._length
        counted = False
        while len(samples):
            before, offset = divmod(start, length)
            cell = self._open.get(before + 1)
            if cell is None:
                cell = self._open[before + 1] = _OpenCell(length)
            if offset + len(samples) <= length:
                part, samples = samples, samples[:0]
            else:
                part, samples = samples[: length - offset], samples[length - offset :]
            given = before < self.ledger.last
            if given:
                cell.thaw()
            stored = cell.put(offset, part)
            if given and stored and before + 1 not in self._changed:
                self._changed.add(before + 1)
                self.touched.append(range(before + 1, before + 1 + self._context))
            self.samples.duplicate += len(part) - stored
            if stored and not counted:
                cell.chunks += 1
                counted = True
            start += len(part)
        if not counted:
            self.tallies.duplicate += 1

    def refuse(self, chunk: AudioChunk) -> None:
        """Count a chunk that is out of range."""
        self.tallies.out_of_range += 1
        self.samples.received += len(chunk.samples)
        self.samples.out_of_range += len(chunk.samples)

    def restart(self) -> None:
        """The clock broke: nothing is learned from one chunk to the next, so nothing is lost."""

    def seal(self, last: int, outputs: list[Output]) -> None:
        """Give the cells up to ``last`` that were not yet given."""
        stays_open = self._spec.lateness_ns > 0
        for index in range(self.ledger.last + 1, last + 1):
            cell = self._open.pop(index, None) or _OpenCell(self._length)
            if stays_open:
                self._open[index] = cell
            else:
                self.closed = index
            self.ledger.add(cell.count, self._newest_ns(index, cell) if cell.count else None)
            self._give(index, cell, outputs)
        self.next_end_ns = (self.ledger.last + 1) * self._spec.hop_ns

    def revise(self, last: int, outputs: list[Output]) -> None:
        """Give those of the cells up to ``last`` again that have changed."""
        if not self._changed:
            return
        for index in sorted(index for index in self._changed if index <= last):
            self._changed.remove(index)
            cell = self._open[index]
            self.ledger.amend(index, cell.count - cell.given, self._newest_ns(index, cell))
            self._give(index, cell, outputs)

    def _newest_ns(self, index: int, cell: _OpenCell) -> int:
        return (index - 1) * self._spec.hop_ns + cell.reach * NS_PER_S // self._rate_hz

    def _give(self, index: int, cell: _OpenCell, outputs: list[Output]) -> None:
        self.tallies.used += cell.chunks
        self.samples.used += cell.count - cell.given
        outputs.append(cell.give(index))

    def settle(self, index: int) -> None:
        """The next cell takes nothing more, and no window to come ends before the next."""
        self.closed = max(self.closed, index)
        self._open.pop(index, None)
        self.ledger.forget(index - self._context)

    def part(self, last: int, now_ns: int) -> tuple[range, Part]:
        """The cells of window ``last``, and how audio stands in it."""
        first = max(1, last + 1 - self._context)
        cells = range(first, last + 1) if self.progress is not None else range(0)
        valid, newest_ns = self.ledger.content(cells)
        total = (last + 1 - first) * self._length
        part = stand(
            self._spec,
            self.progress,
            start_ns=(first - 1) * self._spec.hop_ns,
            end_ns=last * self._spec.hop_ns,
            now_ns=now_ns,
            coverage=valid / total,
            newest_ns=newest_ns,
            satisfied=valid == total,
        )
        return cells, part

    def in_flight(self) -> int:
        return sum(cell.chunks for cell in self._open.values())

    def samples_in_flight(self) -> int:
        return sum(cell.count - cell.given for cell in self._open.values())

    def abandon(self) -> None:
        """What is still waiting lies beyond the end of the session."""
        self.tallies.out_of_range += self.in_flight()
        self.samples.out_of_range += self.samples_in_flight()
        self._open.clear()
