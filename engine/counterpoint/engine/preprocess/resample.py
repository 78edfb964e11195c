"""A source's chunks at any rate, as chunks at the bundle's rate on an exact grid."""

from __future__ import annotations

import numpy as np

from counterpoint.engine.kernels import cpu
from counterpoint.streams.types import NS_PER_S, AudioChunk, Float32Array

CONTIGUOUS_TOLERANCE_NS = 5_000_000
"""A chunk this close to where the previous one ended continues it: containers round their times
to a millisecond or to their own tick, and a click costs more than the shift."""


class StreamResampler:
    """One source's chunks at any rate, as chunks at one rate on an exact grid.

    A run is a stretch of input without a gap. Sample i of a run lies at ``t0 + i / rate`` seconds,
    t0 being the time of the run's first chunk as the source gave it; only a chunk's ``t_ns`` is
    rounded, down to a nanosecond (at 16 kHz a sample is 62,500 ns, so nothing is lost). Output
    chunks of a run therefore follow each other without gap or overlap, and n input samples give
    ``ceil(n * rate_out / rate_in)`` output samples.

    A chunk within `CONTIGUOUS_TOLERANCE_NS` of where the run's samples end continues the run. Any
    other one ends it: what the filter still holds is given out, and a new run starts at that
    chunk's own time. So does a change of rate. A clock that drifts by 100 ppm starts a new run
    about every 50 s.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._sequence = 0
        self._source: str | None = None
        self._run: _Run | None = None

    def push(self, chunk: AudioChunk) -> tuple[AudioChunk, ...]:
        """What is ready after this chunk: none or more chunks, oldest first.

        Raises:
            ValueError: the chunk is from another source.
        """
        if self._source is None:
            self._source = chunk.source
        if chunk.source != self._source:
            raise ValueError(f"one resampler a source: {self._source!r}, not {chunk.source!r}")
        ended: tuple[AudioChunk, ...] = ()
        if self._run is None or not self._run.continues(chunk):
            ended = self.flush()
            self._run = _Run(t0_ns=chunk.t_ns, rate_in_hz=chunk.rate_hz, rate_hz=self._rate_hz)
        return ended + self._chunks(self._run, self._run.push(chunk.samples))

    def flush(self) -> tuple[AudioChunk, ...]:
        """End the run: what the filter still holds. The next chunk starts a new run."""
        if self._run is None:
            return ()
        run, self._run = self._run, None
        return self._chunks(run, run.finish())

    def _chunks(self, run: _Run, samples: Float32Array) -> tuple[AudioChunk, ...]:
        if not len(samples) or self._source is None:
            return ()
        chunk = AudioChunk(
            source=self._source,
            t_ns=run.t0_ns + run.given * NS_PER_S // self._rate_hz,
            samples=samples,
            rate_hz=self._rate_hz,
            sequence=self._sequence,
        )
        run.given += len(samples)
        self._sequence += 1
        return (chunk,)


class _Run:
    """A contiguous stretch: samples taken, samples given, and the filter between them."""

    def __init__(self, *, t0_ns: int, rate_in_hz: int, rate_hz: int) -> None:
        self.t0_ns = t0_ns
        self.given = 0
        self._taken = 0
        self._rate_in_hz = rate_in_hz
        self._rate_hz = rate_hz
        self._stream = None if rate_in_hz == rate_hz else cpu.resampler(rate_in_hz, rate_hz)

    def continues(self, chunk: AudioChunk) -> bool:
        expected_ns = self.t0_ns + self._taken * NS_PER_S // self._rate_in_hz
        near = abs(chunk.t_ns - expected_ns) < CONTIGUOUS_TOLERANCE_NS
        return near and chunk.rate_hz == self._rate_in_hz

    def push(self, samples: Float32Array) -> Float32Array:
        self._taken += len(samples)
        if self._stream is None:
            return samples
        return np.asarray(self._stream.resample_chunk(samples), np.float32)

    def finish(self) -> Float32Array:
        """The rest, so that in all ``ceil(taken * rate / rate_in)`` samples were given."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        # libsoxr rounds the total to the nearest sample: two samples of silence make sure of the
        # last one, which is then cut exactly.
        silence = np.zeros(2 * -(-self._rate_in_hz // self._rate_hz), np.float32)
        rest = np.asarray(self._stream.resample_chunk(silence, last=True), np.float32)
        total = -(-self._taken * self._rate_hz // self._rate_in_hz)
        return rest[: total - self.given]
