"""Sound at the bundle's rate to the log-mel frames that the audio encoder takes.

`LogMelHop` turns one hop after another into frames, each computed once. The trainer uses
`clip_hops`, which is `LogMelHop` run over a whole clip: there is no second implementation that
could differ. `resample` brings a source's chunks to that rate.
"""

from __future__ import annotations

import numpy as np

from counterpoint.engine.kernels import cpu
from counterpoint.engine.preprocess.spec import HOP_NS, AudioSpec
from counterpoint.streams.types import BoolArray, Float32Array


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
