"""Sessions of many recorded clips, one after another, through the engine: for `adaptation`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from counterpoint.engine.align import AudioCell, Line, VideoCell, Window
from counterpoint.engine.config import Config
from counterpoint.engine.encode import Counts, SessionEncoder, StageClock
from counterpoint.engine.fuse import Feature, Fused
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.session import Session
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    Float32Array,
    Item,
    Modality,
    SourceEnded,
    Step,
    VideoFrame,
)

RATE_HZ = 16_000
CHUNK = RATE_HZ // 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Take:
    """A piece of a session.

    Fields:
        samples: (N,) float32 at 16 kHz; its length is that of the take.
        frames: pictures, with their times from the take's start.
    """

    samples: Float32Array
    frames: tuple[VideoFrame, ...] = ()

    @property
    def length_ns(self) -> int:
        return len(self.samples) * NS_PER_S // RATE_HZ


Change = Callable[[Take, int], Take]
"""What the camera and the microphone make of a take that starts at that instant."""


class Playlist:
    """Takes one after another, as a live camera and microphone would give them. A `Source`.

    Args:
        takes: made as they are needed, each a whole number of `CHUNK` long.
        video: whether they have pictures.
    """

    def __init__(self, takes: Iterable[Take], *, video: bool) -> None:
        self._takes = iter(takes)
        self._video = video
        self._pending: deque[tuple[int, Item]] = deque()  # of one take
        self._at_ns = 0
        self._frames = 0
        self._chunks = 0
        self._over = False

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset({Modality.AUDIO, *([Modality.VIDEO] if self._video else [])})

    def step(self, now_ns: int) -> Step:
        """See `Source.step`."""
        given: list[tuple[int, Item]] = []
        while (wake_ns := self._wake()) is not None and wake_ns <= now_ns:
            given.append(self._pending.popleft())
        return Step(items=tuple(given), next_wake_ns=self._wake())

    def close(self) -> None:
        """See `Source.close`."""
        self._pending.clear()
        self._over = True

    def _wake(self) -> int | None:
        while not self._pending and not self._over:
            take = next(self._takes, None)
            if take is None:
                self._over = True
                for modality in sorted(self.modalities):
                    ended = SourceEnded(source=modality, modality=modality, t_ns=self._at_ns)
                    self._pending.append((self._at_ns, ended))
            else:
                self._pending.extend(sorted(self._items(take), key=lambda pair: pair[0]))
                self._at_ns += take.length_ns
        return self._pending[0][0] if self._pending else None

    def _items(self, take: Take) -> Iterator[tuple[int, Item]]:
        for frame in take.frames:
            t_ns = self._at_ns + frame.t_ns
            yield t_ns, replace(frame, t_ns=t_ns, source="video", sequence=self._frames)
            self._frames += 1
        for start in range(0, len(take.samples), CHUNK):
            chunk = AudioChunk(
                source="audio",
                t_ns=self._at_ns + start * NS_PER_S // RATE_HZ,
                samples=np.ascontiguousarray(take.samples[start : start + CHUNK]),
                rate_hz=RATE_HZ,
                sequence=self._chunks,
            )
            self._chunks += 1
            yield chunk.end_ns, chunk


class _NoSink:
    """Predictions are read from the session itself. Implements `engine.session.Sink`."""

    def offer(self, prediction: Prediction) -> None:
        """Not kept here."""

    async def wait_room(self) -> None:
        """There is always room."""


class _Keeping:
    """A session's encoder that keeps what was fused. Implements `engine.encode.Encoder`."""

    def __init__(self, inner: SessionEncoder) -> None:
        self._inner = inner
        self.fused: list[Fused] = []

    @property
    def counts(self) -> Counts:
        return self._inner.counts

    @property
    def stages(self) -> StageClock:
        return self._inner.stages

    def encode(self, outputs: Iterable[VideoCell | AudioCell | Line]) -> None:
        """See `Encoder.encode`."""
        self._inner.encode(outputs)

    def fuse(self, window: Window) -> Fused:
        """See `Encoder.fuse`."""
        self.fused.append(self._inner.fuse(window))
        return self.fused[-1]

    def take_features(self) -> list[Feature]:
        """See `Encoder.take_features`."""
        return self._inner.take_features()


def play(models: Models, playlist: Playlist) -> list[tuple[Prediction, Fused]]:
    """A session, flat out, with nothing adapted: for each window what was said, and from what."""

    async def run(runtime: SystemRuntime) -> list[tuple[Prediction, Fused]]:
        encoder = _Keeping(SessionEncoder(models, runtime.now_ns))
        session = Session(
            name="session",
            source=playlist,
            sources={modality: modality.value for modality in playlist.modalities},
            models=models,
            runtime=runtime,
            config=Config(),
            sink=_NoSink(),
            speed=None,
            encoder=encoder,
        )
        async with asyncio.TaskGroup() as group:
            running = runtime.spawn(group, "session", session.run())
            predictions = [prediction async for prediction in session.predictions()]
        if errors := running.result().errors:
            raise RuntimeError(f"a source broke off: {errors}")
        return list(zip(predictions, encoder.fused, strict=True))

    with SystemRuntime() as runtime:
        return asyncio.run(run(runtime))


def whole_chunks(samples: Float32Array) -> Float32Array:
    """The samples with silence up to a whole number of `CHUNK`."""
    return np.pad(samples, (0, -len(samples) % CHUNK)).astype(np.float32, copy=False)
