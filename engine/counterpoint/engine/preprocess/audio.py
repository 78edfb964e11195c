"""Sound, from chunks of any rate to the log-mel frames that the audio encoder takes.

`StreamResampler` brings a source's chunks to the bundle's rate, `LogMelHop` turns one hop after
another into frames, each computed once. The trainer uses `clip_hops`, which is `LogMelHop` run
over a whole clip: there is no second implementation that could differ.
"""

from __future__ import annotations

import numpy as np

from counterpoint.engine.kernels import cpu
from counterpoint.engine.preprocess.spec import HOP_NS, AudioSpec
from counterpoint.streams.types import NS_PER_S, AudioChunk, BoolArray, Float32Array

CONTIGUOUS_TOLERANCE_NS = 5_000_000
"""A chunk this close to where the previous one ended continues it: containers round their times
to a millisecond or to their own tick, and a click costs more than the shift."""


class LogMelHop:
    """Log-mel of one hop at a time, with the end of the previous hop before it.

    State: the last ``overlap_samples`` samples and the last ``context_frames`` frames. Before the
    first hop, and wherever samples are not valid, there is silence (zeros).
    """

    def __init__(self, spec: AudioSpec, *, hop_ns: int = HOP_NS) -> None:
        """
        Raises:
            ValueError: a hop is no whole number of frames or shorter than the context kept.
        """
        if hop_ns % spec.frame_ns:
            raise ValueError(f"hop_ns must be a multiple of {spec.frame_ns} ns, not {hop_ns}")
        if spec.frames_per(hop_ns) < spec.context_frames:
            raise ValueError(
                f"audio.context_frames must fit into a hop of {spec.frames_per(hop_ns)} frames, "
                f"not {spec.context_frames}"
            )
        self._spec = spec
        self._hop_samples = spec.samples_per(hop_ns)
        self._log_mel = cpu.LogMel(spec)
        self._silence = _silent_context(self._log_mel, spec)
        self.reset()

    def reset(self) -> None:
        """Forget the previous hop: as at the start, there was silence."""
        self._tail = np.zeros(self._spec.overlap_samples, np.float32)
        self._context = self._silence

    def snapshot(self) -> tuple[Float32Array, Float32Array]:
        """What is kept of the hops so far, for `restore`. Never changed later."""
        return self._tail, self._context

    def restore(self, snapshot: tuple[Float32Array, Float32Array]) -> None:
        """Go back to where ``snapshot`` was taken."""
        self._tail, self._context = snapshot

    def push_raw(self, samples: Float32Array, valid: BoolArray | None = None) -> Float32Array:
        """The next hop's own frames (hop / frame, mel_bins) float32, not normalised.

        Args:
            samples: (hop,) float32 at the bundle's rate.
            valid: (hop,) bool; samples where it is false count as silence. None: all valid.

        Raises:
            ValueError: not one hop of samples.
        """
        return self._advance(samples, valid)[self._spec.context_frames :]

    def push(self, samples: Float32Array, valid: BoolArray | None = None) -> Float32Array:
        """The audio encoder's input (context_frames + hop / frame, mel_bins) float32.

        ``(log-mel - mean) / std`` of the previous hop's last ``context_frames`` frames and of
        this hop's frames. Arguments and errors as for `push_raw`.
        """
        return normalise_log_mel(self._advance(samples, valid), self._spec)

    def _advance(self, samples: Float32Array, valid: BoolArray | None) -> Float32Array:
        if samples.shape != (self._hop_samples,):
            raise ValueError(f"expected ({self._hop_samples},) samples, not {samples.shape}")
        if valid is not None:
            samples = np.where(valid, samples, np.float32(0.0))
        joined = np.concatenate([self._tail, samples])
        frames = np.concatenate([self._context, self._log_mel(joined)])
        self._tail = joined[len(joined) - self._spec.overlap_samples :]
        self._context = frames[len(frames) - self._spec.context_frames :]
        return frames


def clip_hops(samples: Float32Array, spec: AudioSpec, *, hop_ns: int = HOP_NS) -> Float32Array:
    """A clip as the audio encoder's inputs (hops, context + hop frames, mel_bins) float32.

    The last hop is filled with silence.

    Args:
        samples: (N,) float32 at the bundle's rate.
    """
    return _over_clip(samples, spec, hop_ns, normalised=True)


def clip_log_mel(samples: Float32Array, spec: AudioSpec, *, hop_ns: int = HOP_NS) -> Float32Array:
    """A clip's log-mel (hops * hop frames, mel_bins) float32, each frame once, not normalised.

    `windows_of` makes encoder inputs of it: this is what a trainer keeps and augments.
    """
    return _over_clip(samples, spec, hop_ns, normalised=False).reshape(-1, spec.mel_bins)


def _over_clip(
    samples: Float32Array, spec: AudioSpec, hop_ns: int, *, normalised: bool
) -> Float32Array:
    hop_samples = spec.samples_per(hop_ns)
    hops = -(-len(samples) // hop_samples)
    padded = np.zeros(hops * hop_samples, np.float32)
    padded[: len(samples)] = samples
    log_mel = LogMelHop(spec, hop_ns=hop_ns)
    push = log_mel.push if normalised else log_mel.push_raw
    frames = spec.frames_per(hop_ns) + (spec.context_frames if normalised else 0)
    out = np.empty((hops, frames, spec.mel_bins), np.float32)
    for index, cell in enumerate(padded.reshape(hops, hop_samples)):
        out[index] = push(cell)
    return out


def windows_of(log_mel: Float32Array, spec: AudioSpec, *, hop_ns: int = HOP_NS) -> Float32Array:
    """Encoder inputs (hops, context + hop frames, mel_bins) of a clip's raw log-mel.

    ``windows_of(clip_log_mel(x)) == clip_hops(x)``, bit for bit.

    Args:
        log_mel: (hops * hop frames, mel_bins) float32 as `clip_log_mel` gives it.
    """
    hop_frames = spec.frames_per(hop_ns)
    frames = np.concatenate([_silent_context(cpu.LogMel(spec), spec), log_mel])
    windows = np.lib.stride_tricks.sliding_window_view(
        frames, spec.context_frames + hop_frames, axis=0
    )[::hop_frames]
    return normalise_log_mel(np.ascontiguousarray(windows.transpose(0, 2, 1)), spec)


def normalise_log_mel(log_mel: Float32Array, spec: AudioSpec) -> Float32Array:
    """Log-mel (..., mel_bins) as encoder input, ``(x - mean) / std`` for each bin, float32."""
    centred = log_mel - np.asarray(spec.mean, np.float32)
    return np.asarray(centred / np.asarray(spec.std, np.float32), np.float32)


def _silent_context(log_mel: cpu.LogMel, spec: AudioSpec) -> Float32Array:
    """What stands before a first hop (context_frames, mel_bins)."""
    samples = spec.overlap_samples + spec.context_frames * spec.frame_samples
    return log_mel(np.zeros(samples, np.float32))


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
