"""Preprocessing kernels for the CPU; what they mean is said in ``kernels/reference.py``."""

from __future__ import annotations

import cv2
import numpy as np
import soxr

from counterpoint.engine.kernels import reference
from counterpoint.engine.kernels.reference import POWER_FLOOR, Rectangle
from counterpoint.engine.preprocess.spec import AudioSpec, VideoSpec
from counterpoint.streams.types import Float32Array, UInt8Array

# One thread for OpenCV, process-wide: sessions share the cores, and the cascade's answer must not
# hang on the order in which its threads end.
cv2.setNumThreads(1)

_LIMITED_TO_FULL = reference.to_full_range(np.arange(256, dtype=np.uint8))


class LogMel:
    """`reference.log_mel` for one specification, its window and filters computed once.

    The transform stays in float64: numpy's is as quick as in float32 (34 µs for 25 frames), and a
    float32 transform would lose the quiet bins beside loud ones.
    """

    def __init__(self, spec: AudioSpec) -> None:
        self._spec = spec
        self._window = reference.hann_window(spec.window_samples)
        self._filters = np.ascontiguousarray(reference.mel_filterbank(spec).T)

    def __call__(self, samples: Float32Array) -> Float32Array:
        """Log-mel (n, mel_bins) float32 of ``overlap_samples + n * frame_samples`` samples.

        Raises:
            ValueError: the samples are no whole number of frames.
        """
        spec = self._spec
        if not reference.frame_count(len(samples), spec):
            return np.empty((0, spec.mel_bins), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(samples, spec.window_samples)
        spectrum = np.fft.rfft(frames[:: spec.frame_samples] * self._window, spec.fft_size)
        power = spectrum.real**2 + spectrum.imag**2
        mel = np.maximum(power @ self._filters, POWER_FLOOR)
        return np.log(mel).astype(np.float32)


def resampler(rate_in_hz: int, rate_out_hz: int) -> soxr.ResampleStream:
    """A streaming `reference.resample` of mono float32: libsoxr, its high-quality recipe."""
    return soxr.ResampleStream(rate_in_hz, rate_out_hz, 1, dtype="float32", quality="HQ")


def crop_resize(image: UInt8Array, rectangle: Rectangle, size: int) -> UInt8Array:
    """`reference.crop_resize`; at most one grey level away from it.

    Raises:
        ValueError: the rectangle is not square.
    """
    if rectangle.width != rectangle.height:
        raise ValueError(f"expected a square rectangle, not {rectangle}")
    height, width = image.shape
    left, top = max(rectangle.x, 0), max(rectangle.y, 0)
    right, bottom = rectangle.x + rectangle.width, rectangle.y + rectangle.height
    if rectangle.x < 0 or rectangle.y < 0 or right > width or bottom > height:
        cut = reference.crop(image, rectangle)
    else:
        cut = image[top:bottom, left:right]
    shrinking = rectangle.width >= size
    resized = cv2.resize(
        cut, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    )
    return np.asarray(resized, dtype=np.uint8)


def to_full_range(luma: UInt8Array) -> UInt8Array:
    """`reference.to_full_range` by table."""
    return np.asarray(_LIMITED_TO_FULL[luma])


def normalise_face(grey: UInt8Array, spec: VideoSpec) -> Float32Array:
    """`reference.normalise_face` by table: one value for each grey level."""
    table = reference.normalise_face(np.arange(256, dtype=np.uint8), spec)
    return np.asarray(table[grey])
