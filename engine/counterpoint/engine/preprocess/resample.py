"""A source's chunks at any rate, as chunks at the bundle's rate on an exact grid.

Two ways, chosen by where the chunks' times come from. A recording's own times agree with its
samples: it is resampled at the rate it states. The times of a live source come from a clock
mapping: the source's clock drifts against the session's, and the mapping is corrected as it goes.
There a servo varies the rate so that the sound lies where its times say, without gaps or clicks.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import soxr

from counterpoint.engine.kernels import cpu
from counterpoint.streams.types import NS_PER_S, AudioChunk, Float32Array

CONTIGUOUS_TOLERANCE_NS = 5_000_000
"""A chunk this close to where the previous one ended continues it: containers round their times
to a millisecond or to their own tick, and a click costs more than the shift."""

TRACKING_ERROR_NS = 1_500_000
"""How far from its mapped time a sample lies at most, `SETTLING_NS` after the start of a run that
follows a clock, for chunks up to 100 ms. Measured with up to 1 ms of jitter: 0.6 ms with chunks of
20 ms, 1.1 ms with 100 ms, and 1.3 ms while a slew of 5 ms/s sets in."""

SETTLING_NS = 3 * NS_PER_S
"""Until then a run that follows is only known to be within `CONTIGUOUS_TOLERANCE_NS`, for its first
chunk's time may be wrong by any jitter."""

_LONGEST_STEERED_NS = NS_PER_S // 10
"""With longer chunks the servo is too slow for `TRACKING_ERROR_NS`."""

_MAX_RATE_ERROR = 0.01
"""The servo's reach. Mapped times slew by at most 5 ms/s, oscillators are within 500 ppm."""

_BANDWIDTH = 2.5
"""Of the servo, rad/s: a slew of 5 ms/s that sets in is followed within 0.9 ms, and a quarter (rms)
of the jitter of chunks of 20 ms is passed on."""

_SMOOTHING_S = 0.05
"""Time constant of the low-pass before the servo, so that jitter changes the pitch less."""


class StreamResampler:
    """One source's chunks at any rate, as chunks at one rate on an exact grid.

    A run is a stretch of input without a gap. Sample i of a run lies at ``t0 + i / rate`` seconds,
    t0 being the time of the run's first chunk as the source gave it; only a chunk's ``t_ns`` is
    rounded, down to a nanosecond (at 16 kHz a sample is 62,500 ns, so nothing is lost). Output
    chunks of a run therefore follow each other without gap or overlap.

    A chunk within `CONTIGUOUS_TOLERANCE_NS` of where the run's samples end continues the run. Any
    other one ends it: what the filter still holds is given out, and a new run starts at that
    chunk's own time. So does a change of rate.

    Fixed (as built): n input samples give ``ceil(n * rate_out / rate_in)`` output samples. A clock
    that drifts by 100 ppm starts a new run about every 50 s.

    Variable (after `follow`): a servo keeps each sample within `TRACKING_ERROR_NS` of its mapped
    time, however long the run; only a sudden deviation starts a new one.
    """

    def __init__(self, rate_hz: int, *, variable: bool = False) -> None:
        self._rate_hz = rate_hz
        self._variable = variable
        self._sequence = 0
        self._source: str | None = None
        self._run: _Run | None = None

    @property
    def variable(self) -> bool:
        """Whether the rate follows the chunks' times."""
        return self._variable

    @property
    def placing_error_ns(self) -> int:
        """How far from its chunk's time a sample of the present run lies at most."""
        if self._run is None:
            return CONTIGUOUS_TOLERANCE_NS
        return self._run.placing_error_ns

    def follow(self) -> tuple[AudioChunk, ...]:
        """Follow the chunks' times from now on. Ends a run begun without: what was held of it."""
        if self._variable:
            return ()
        self._variable = True
        return self.flush()

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
            make = _FollowingRun if self._variable else _FixedRun
            self._run = make(t0_ns=chunk.t_ns, rate_in_hz=chunk.rate_hz, rate_hz=self._rate_hz)
        return ended + self._chunks(self._run, self._run.push(chunk))

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


class _Run(Protocol):
    """A contiguous stretch: samples taken, samples given, and the filter between them."""

    t0_ns: int
    given: int

    @property
    def placing_error_ns(self) -> int: ...

    def continues(self, chunk: AudioChunk) -> bool: ...

    def push(self, chunk: AudioChunk) -> Float32Array: ...

    def finish(self) -> Float32Array: ...


class _FixedRun:
    """At the stated rate, whatever the times say."""

    placing_error_ns = CONTIGUOUS_TOLERANCE_NS

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

    def push(self, chunk: AudioChunk) -> Float32Array:
        samples = chunk.samples
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


class _FollowingRun:
    """At the rate that keeps the samples where the chunks' times say.

    libsoxr's variable-rate resampler gives at once all it can: after each chunk the next sample to
    be given is a constant stretch of input, `_lag`, behind the end of what was taken. So the
    next chunk's time tells where that sample belongs, and where it will lie is a count of samples:
    the deviation is measured against the whole run, and nothing adds up over hours but integers.

    The servo is the proportional-integral loop of a phase-locked loop of second order, critically
    damped (F. M. Gardner, Phaselock Techniques), on the low-passed deviation.
    """

    def __init__(self, *, t0_ns: int, rate_in_hz: int, rate_hz: int) -> None:
        self.t0_ns = t0_ns
        self.given = 0
        self._rate_in_hz = rate_in_hz
        self._rate_hz = rate_hz
        self._front_hz = _front_hz(rate_in_hz, rate_hz)
        self._front = (
            None if self._front_hz == rate_in_hz else cpu.resampler(rate_in_hz, self._front_hz)
        )
        self._stream = _variable_stream(self._front_hz, rate_hz)
        lag = _lag(self._front_hz, rate_hz)
        self._skip = round(lag.shift)
        self._lag_ns = round((lag.held + lag.shift) * NS_PER_S / rate_hz)
        self._taken = 0
        self._longest = 0  # chunk, in samples
        self._fed = 0  # to the variable stage
        self._made = 0  # by the filter: those skipped, then those given
        self._since_s = 0.0  # length of what was taken since the last measurement
        self._deviation_s = 0.0  # low-passed; positive: the samples lie too late
        self._integral = 0.0
        self._rate_error = 0.0

    @property
    def placing_error_ns(self) -> int:
        settled = self.given * NS_PER_S >= SETTLING_NS * self._rate_hz
        steered = self._longest * NS_PER_S <= _LONGEST_STEERED_NS * self._rate_in_hz
        return TRACKING_ERROR_NS if settled and steered else CONTIGUOUS_TOLERANCE_NS

    def continues(self, chunk: AudioChunk) -> bool:
        near = abs(self._end_ns() - chunk.t_ns) < CONTIGUOUS_TOLERANCE_NS
        return near and chunk.rate_hz == self._rate_in_hz

    def push(self, chunk: AudioChunk) -> Float32Array:
        if self._made and self._since_s:
            self._steer(self._end_ns() - chunk.t_ns)
            slew = max(1, len(chunk.samples) * self._rate_hz // self._rate_in_hz)
            self._stream.set_io_ratio(
                self._front_hz * (1.0 + self._rate_error), self._rate_hz, slew
            )
        self._taken += len(chunk.samples)
        self._longest = max(self._longest, len(chunk.samples))
        self._since_s += len(chunk.samples) / self._rate_in_hz
        return self._made_of(chunk.samples)

    def finish(self) -> Float32Array:
        """The rest: up to where the last sample taken lies, to the nearest sample."""
        if self._made:
            lag = self._behind_ns() * self._rate_hz / NS_PER_S / (1.0 + self._rate_error)
            rest = math.ceil(lag - 0.5) + min(0, self._made - self._skip)
        else:
            rest = -(-self._taken * self._rate_hz // self._rate_in_hz)
        silence = np.zeros(-(-64 * self._rate_in_hz // self._rate_hz), np.float32)
        return self._made_of(silence, last=True)[:rest]

    def _end_ns(self) -> int:
        """Where the run's grid has the end of what was taken."""
        if not self._made:
            return self.t0_ns + self._taken * NS_PER_S // self._rate_in_hz
        next_ns = self.t0_ns + (self._made - self._skip) * NS_PER_S // self._rate_hz
        return next_ns + self._behind_ns()

    def _behind_ns(self) -> int:
        """How long before the end of what was taken the next sample to be made was heard."""
        front_ns = (
            self._taken * NS_PER_S // self._rate_in_hz - self._fed * NS_PER_S // self._front_hz
        )
        return front_ns + self._lag_ns

    def _made_of(self, samples: Float32Array, *, last: bool = False) -> Float32Array:
        if self._front is not None:
            samples = np.asarray(self._front.resample_chunk(samples, last=last), np.float32)
        self._fed += len(samples)
        made = np.asarray(self._stream.resample_chunk(samples, last=last), np.float32)
        skipped = min(len(made), max(0, self._skip - self._made))
        self._made += len(made)
        return made[skipped:]

    def _steer(self, deviation_ns: int) -> None:
        elapsed_s, self._since_s = self._since_s, 0.0
        smoothing = -math.expm1(-elapsed_s / _SMOOTHING_S)
        self._deviation_s += smoothing * (deviation_ns / NS_PER_S - self._deviation_s)
        # Long chunks are steered seldom: a slower servo stays stable.
        bandwidth = min(_BANDWIDTH, 0.25 / elapsed_s)
        self._integral += bandwidth**2 * self._deviation_s * elapsed_s
        self._integral = min(max(self._integral, -_MAX_RATE_ERROR), _MAX_RATE_ERROR)
        wanted = 2 * bandwidth * self._deviation_s + self._integral
        self._rate_error = min(max(wanted, -_MAX_RATE_ERROR), _MAX_RATE_ERROR)


def _front_hz(rate_in_hz: int, rate_hz: int) -> int:
    """The rate of the variable stage's input, to which a fixed stage brings the source's.

    libsoxr's variable-rate resampler changes its number of halvings where the ratio crosses a
    power of two, and then no longer holds back the same stretch. A ratio that the servo could move
    across one (32 kHz to 16 kHz) is therefore avoided; at 1 and below nothing is halved.
    """
    ratio = rate_in_hz / rate_hz
    nearest = 2.0 ** round(math.log2(ratio))
    if nearest < 2 or abs(ratio / nearest - 1.0) > 2 * _MAX_RATE_ERROR:
        return rate_in_hz
    return rate_hz * 3 // 2


def _variable_stream(rate_in_hz: int, rate_hz: int) -> soxr.ResampleStream:
    # Built for the largest ratio that will be asked for.
    largest_hz = rate_in_hz * (1.0 + 2 * _MAX_RATE_ERROR)
    stream = soxr.ResampleStream(largest_hz, rate_hz, 1, dtype="float32", quality="HQ", vr=True)
    stream.set_io_ratio(rate_in_hz, rate_hz)
    return stream


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lag:
    """Of the variable-rate filter at its nominal ratio, in output samples.

    Fields:
        held: how many samples it has given less than its input lasts, on average: it gives whole
            ones, so it varies by one.
        shift: how much later than in the input sound lies in the output.
    """

    held: float
    shift: float


@functools.lru_cache(maxsize=16)
def _lag(rate_in_hz: int, rate_hz: int) -> _Lag:
    """Measured with a pulse, as libsoxr does not state it: its ``delay`` is a constant."""
    at, width, length = 800, 16, 1600  # output samples
    position = np.arange(length * rate_in_hz // rate_hz) * (rate_hz / rate_in_hz)
    pulse = np.exp(-0.5 * ((position - at) / width) ** 2).astype(np.float32)
    stream = _variable_stream(rate_in_hz, rate_hz)
    pieces, held = [], []
    taken = given = 0
    for piece in np.split(pulse, range(37, len(pulse), 37)):
        pieces.append(stream.resample_chunk(piece))
        taken += len(piece)
        given += len(pieces[-1])
        if given:
            held.append(taken * rate_hz / rate_in_hz - given)
    pieces.append(stream.resample_chunk(np.zeros_like(pulse), last=True))
    made = np.concatenate(pieces).astype(np.float64)
    centroid = float(np.arange(len(made)) @ made / made.sum())
    return _Lag(held=float(np.mean(held)), shift=centroid - at)
