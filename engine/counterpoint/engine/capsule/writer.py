"""Records a session while it runs, without ever holding it up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from counterpoint.engine.background import background
from counterpoint.engine.capsule.codec import ItemEncoder, encode_batch, encode_features
from counterpoint.engine.capsule.format import PREAMBLE, Kind, pack
from counterpoint.engine.capsule.header import Header
from counterpoint.engine.fuse import Feature
from counterpoint.engine.prediction import Prediction, to_json
from counterpoint.engine.work import Batch
from counterpoint.streams.errors import FailedError, UsageError
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import NS_PER_S, AudioChunk, Item, VideoFrame

log = logging.getLogger(__name__)

MAX_PENDING_BYTES: Final = 64 << 20
"""What waits for the disk; beyond it the recording is stopped and the session goes on."""
MAX_PENDING_RECORDS: Final = 8_192
SYNC_NS: Final = NS_PER_S
"""What is older than this survives a crash of the machine; of the process alone, all written."""
CLOSE_TIMEOUT_S: Final = 30.0

_Arrival: TypeAlias = tuple[int, Item]


class CapsuleWriter:
    """A `Tap` that writes a capsule. Made by `recording`.

    What the session tells is queued; coding and writing happen in a lane. The queue is bounded:
    when the disk cannot keep up, or fails, the recording ends there with a stated reason.

    Args:
        file: open for writing, empty, unbuffered.
        paced: the session keeps to a clock. Else, flat out, each record is written at once: there
            the session may be held up, and the recording must not be stopped.
    """

    def __init__(self, file: int, header: Header, runtime: Runtime, *, paced: bool) -> None:
        self.stopped: str | None = None
        self._file = file
        self._runtime = runtime
        self._paced = paced
        self._media = header.media
        self._items = ItemEncoder(media=header.media)
        self._pending: deque[_Arrival | bytes] = deque()  # bounded, see _put
        self._pending_bytes = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._finished = False
        self._synced_ns = runtime.now_ns()
        self._put(PREAMBLE + header.pack())

    # -- the tap -------------------------------------------------------------------------------

    @property
    def wants_features(self) -> bool:
        return not self._media

    def arrived(self, at_ns: int, item: Item) -> None:
        self._put((at_ns, item))

    def batch(self, batch: Batch, lost: Mapping[str, int]) -> None:
        self._put(encode_batch(batch, lost))

    def encoded(self, features: Sequence[Feature]) -> None:
        self._put(encode_features(features))

    def predicted(self, prediction: Prediction) -> None:
        fields = {"window": prediction.window, "revision": prediction.revision}
        self._put(pack(Kind.PREDICTION, fields, to_json(prediction).encode()))

    def finished(self, end_ns: int) -> None:
        self._finished = True
        self._put(pack(Kind.FINISH, {"end_ns": end_ns}))

    # -- into the file -------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until closed. Never fails: a disk that does ends the recording."""
        lane = self._runtime.lane("capsule")
        while not (self._closed and not self._pending):
            if not self._pending:
                self._changed.clear()
                await self._changed.wait()
                continue
            taken = tuple(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
            try:
                await lane.submit(partial(self._write, taken))
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Nothing more will be told: mark the end, and let `run` return."""
        if self.stopped is None and not self._closed:
            self._put(pack(Kind.END, {"finished": self._finished}))
        self._closed = True
        self._changed.set()

    def _put(self, entry: _Arrival | bytes) -> None:
        if self.stopped is not None or self._closed:
            return
        if not self._paced:
            try:
                self._write((entry,))
            except OSError as error:
                self._fail(error)
            return
        self._pending.append(entry)
        self._pending_bytes += _size(entry)
        if self._pending_bytes > MAX_PENDING_BYTES or len(self._pending) > MAX_PENDING_RECORDS:
            # What waits is the session up to here; then the reason.
            self.stopped = "the disk cannot keep up"
            self._pending.append(pack(Kind.STOPPED, {"reason": self.stopped}))
            log.warning("recording stopped: %s; the session goes on", self.stopped)
        self._changed.set()

    def _fail(self, error: OSError) -> None:
        self.stopped = f"the file cannot be written: {error.strerror}"
        self._pending.clear()
        log.warning("recording stopped: %s; the session goes on", self.stopped)

    def _write(self, entries: Sequence[_Arrival | bytes]) -> None:
        for entry in entries:
            if isinstance(entry, bytes):
                _write_all(self._file, entry)
            else:
                for record in self._items.encode(*entry):
                    _write_all(self._file, record)
        now_ns = self._runtime.now_ns()
        if now_ns - self._synced_ns >= SYNC_NS:
            self._synced_ns = now_ns
            os.fsync(self._file)


@contextlib.asynccontextmanager
async def recording(
    path: Path, header: Header, runtime: Runtime, *, paced: bool
) -> AsyncIterator[CapsuleWriter]:
    """Record into a new file while the block lasts; all of it is in the file afterwards.

    Raises:
        UsageError: the file exists already, or cannot be made.
        FailedError: the block came to its end, and the recording did not; the message says why.
    """
    file = _create(path)
    hangs = False
    try:
        writer = CapsuleWriter(file, header, runtime, paced=paced)
        async with background(runtime, "capsule", writer.run()) as writing:
            try:
                yield writer
            finally:
                writer.close()
                try:
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await writing
                except TimeoutError:
                    # Left open: its number must not go to another file under a running write.
                    hangs = True
                    writer.stopped = f"the disk did not take it all within {CLOSE_TIMEOUT_S:g} s"
    finally:
        if not hangs:
            with contextlib.suppress(OSError):
                os.fsync(file)
            os.close(file)
    if writer.stopped is not None:
        raise FailedError(f"{path}: the recording is incomplete: {writer.stopped}")


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{path}: exists already; a capsule is never overwritten") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be made: {error.strerror}") from error


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _size(entry: _Arrival | bytes) -> int:
    if isinstance(entry, bytes):
        return len(entry)
    match entry[1]:
        case VideoFrame() as frame:
            return sum(plane.nbytes for plane in (frame.y, frame.u, frame.v) if plane is not None)
        case AudioChunk() as chunk:
            return int(chunk.samples.nbytes)
        case _:
            return 256
