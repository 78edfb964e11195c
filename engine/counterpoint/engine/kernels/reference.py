"""Preprocessing kernels as definitions: plain numpy, float64, no haste.

Every other implementation of a kernel (``kernels/cpu.py``, ``csrc/``) is tested against the
function of the same name here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from counterpoint.engine.preprocess.spec import AudioSpec, VideoSpec
from counterpoint.streams.types import Float32Array, UInt8Array

Float64Array = npt.NDArray[np.float64]

POWER_FLOOR = 1e-10
"""Mel power below this counts as silence; its logarithm, -23.03, is the smallest log-mel."""


# --- sound ---------------------------------------------------------------------------------


def hann_window(length: int) -> Float64Array:
    """Periodic Hann window (length,): ``0.5 - 0.5 cos(2 pi i / length)``."""
    return np.asarray(0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length))


def mel_filterbank(spec: AudioSpec) -> Float64Array:
    """Triangular filters (mel_bins, fft_size // 2 + 1) on the HTK mel scale.

    ``mel(f) = 2595 log10(1 + f / 700)`` (Young et al., The HTK Book). ``mel_bins + 2`` edges are
    equally spaced in mel; filter m rises linearly in Hz from edge m to edge m + 1, where it is 1,
    and falls to edge m + 2. Filters are not normalised by area.
    """
    low, high = (2595.0 * math.log10(1.0 + f / 700.0) for f in (spec.f_min_hz, spec.f_max_hz))
    edges_hz = 700.0 * (10.0 ** (np.linspace(low, high, spec.mel_bins + 2) / 2595.0) - 1.0)
    bins_hz = np.arange(spec.fft_size // 2 + 1) * (spec.rate_hz / spec.fft_size)
    rise = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    fall = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    return np.asarray(np.maximum(0.0, np.minimum(rise, fall)))


def log_mel(samples: npt.NDArray[np.floating], spec: AudioSpec) -> Float64Array:
    """Log-mel power (n, mel_bins) of ``overlap_samples + n * frame_samples`` samples.

    Frame i covers the ``window_samples`` samples that end at
    ``overlap_samples + (i + 1) * frame_samples``: Hann window, zeros behind up to ``fft_size``,
    squared magnitude, `mel_filterbank`, natural logarithm of at least `POWER_FLOOR`.

    Raises:
        ValueError: the samples are no whole number of frames.
    """
    frames = frame_count(len(samples), spec)
    window, filters = hann_window(spec.window_samples), mel_filterbank(spec)
    out = np.empty((frames, spec.mel_bins))
    for i in range(frames):
        start = i * spec.frame_samples
        frame = samples[start : start + spec.window_samples].astype(np.float64) * window
        power = np.abs(np.fft.rfft(frame, spec.fft_size)) ** 2
        out[i] = np.log(np.maximum(filters @ power, POWER_FLOOR))
    return out


def frame_count(samples: int, spec: AudioSpec) -> int:
    """Frames that `log_mel` gives for so many samples.

    Raises:
        ValueError: the samples are no whole number of frames.
    """
    frames, rest = divmod(samples - spec.overlap_samples, spec.frame_samples)
    if frames < 0 or rest:
        raise ValueError(
            f"{samples} samples are not {spec.overlap_samples} + n * {spec.frame_samples}"
        )
    return frames


KAISER_ATTENUATION_DB = 120.0
PASS_BAND = 0.913
"""The part of the lower Nyquist frequency that the resampler keeps flat; it stops at 1."""


def resample(samples: npt.NDArray[np.floating], rate_in_hz: int, rate_out_hz: int) -> Float64Array:
    """Windowed-sinc resampling of (N,) samples to ``ceil(N * rate_out / rate_in)`` samples.

    Output sample i lies at ``i / rate_out`` seconds from input sample 0; before and after the
    input there is silence. The low-pass is a sinc, cut off half-way between ``PASS_BAND`` and 1
    times the lower Nyquist frequency, under a Kaiser window. By Kaiser's formulas 120 dB need
    ``beta = 0.1102 (120 - 8.7) = 12.27`` and, for that transition, a half width of about 27
    periods of the lower rate. Linear phase, no delay.
    """
    if rate_in_hz == rate_out_hz:
        return samples.astype(np.float64)
    lower_hz = min(rate_in_hz, rate_out_hz)
    beta = 0.1102 * (KAISER_ATTENUATION_DB - 8.7)
    cutoff_hz = 0.5 * lower_hz * (1.0 + PASS_BAND) / 2.0
    transition_rad = np.pi * (1.0 - PASS_BAND)  # for samples at the lower rate
    half_width_s = (KAISER_ATTENUATION_DB - 8.0) / (2.285 * transition_rad) / 2.0 / lower_hz
    reach = math.ceil(half_width_s * rate_in_hz)
    count = -(-len(samples) * rate_out_hz // rate_in_hz)
    # Output i lies `remainder / rate_out` input samples after input sample `centre`; remainders
    # recur, so one set of taps for each (a polyphase filter bank) is enough.
    centres, remainders = np.divmod(np.arange(count, dtype=np.int64) * rate_in_hz, rate_out_hz)
    phases = rate_out_hz // math.gcd(rate_in_hz, rate_out_hz)
    fractions = remainders[:phases, None] / rate_out_hz
    offsets_s = (np.arange(-reach, reach + 1) - fractions) / rate_in_hz
    inside = np.clip(1.0 - (offsets_s / half_width_s) ** 2, 0.0, None)
    window = np.where(inside > 0.0, np.i0(beta * np.sqrt(inside)) / np.i0(beta), 0.0)
    taps = window * np.sinc(2.0 * cutoff_hz * offsets_s) * (2.0 * cutoff_hz / rate_in_hz)
    padded = np.concatenate([np.zeros(reach), samples.astype(np.float64), np.zeros(reach + 1)])
    out = np.empty(count)
    for i, centre in enumerate(centres):
        out[i] = padded[centre : centre + 2 * reach + 1] @ taps[i % phases]
    return out


# --- pictures ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """Pixels ``[x, x + width) x [y, y + height)``; may reach over a picture's border."""

    x: int
    y: int
    width: int
    height: int


def crop(image: UInt8Array, rectangle: Rectangle) -> UInt8Array:
    """Cut a rectangle (height, width) out of a grey picture; outside, the border is repeated."""
    rows = np.clip(np.arange(rectangle.y, rectangle.y + rectangle.height), 0, image.shape[0] - 1)
    cols = np.clip(np.arange(rectangle.x, rectangle.x + rectangle.width), 0, image.shape[1] - 1)
    return np.asarray(image[rows[:, None], cols])


def _area_weights(size_in: int, size_out: int) -> Float64Array:
    """(size_out, size_in): the share of each input pixel in the box of each output pixel."""
    scale = size_in / size_out
    start = np.arange(size_out)[:, None] * scale
    pixel = np.arange(size_in)[None, :]
    overlap = np.minimum(start + scale, pixel + 1.0) - np.maximum(start, pixel)
    return np.asarray(np.maximum(overlap, 0.0) / scale)


def _linear_weights(size_in: int, size_out: int) -> Float64Array:
    """(size_out, size_in): bilinear, pixel centres at half pixels, border repeated."""
    centre = np.clip((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5, 0, size_in - 1)
    distance = np.abs(centre[:, None] - np.arange(size_in)[None, :])
    return np.asarray(np.maximum(0.0, 1.0 - distance))


def resize(image: UInt8Array, size: int) -> UInt8Array:
    """Resize a square grey picture (s, s) to (size, size), rounded to uint8.

    Shrinking averages exactly over the box of input pixels that an output pixel covers; growing
    is bilinear with pixel centres at half pixels.

    Raises:
        ValueError: the picture is not square.
    """
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"expected a square picture, not {image.shape}")
    side = image.shape[0]
    weights = _area_weights(side, size) if side >= size else _linear_weights(side, size)
    return np.rint(weights @ image.astype(np.float64) @ weights.T).astype(np.uint8)


def crop_resize(image: UInt8Array, rectangle: Rectangle, size: int) -> UInt8Array:
    """`crop`, then `resize`: a square face of a grey picture as (size, size) uint8."""
    return resize(crop(image, rectangle), size)


def to_full_range(luma: UInt8Array) -> UInt8Array:
    """Expand limited-range luma (16..235, ITU-R BT.601) to 0..255, clipped and rounded."""
    expanded = (luma.astype(np.float64) - 16.0) * (255.0 / 219.0)
    return np.rint(np.clip(expanded, 0.0, 255.0)).astype(np.uint8)


def normalise_face(grey: UInt8Array, spec: VideoSpec) -> Float32Array:
    """Full-range grey (..., h, w) as encoder input ``(x / 255 - mean) / std``, float32."""
    return ((grey.astype(np.float64) / 255.0 - spec.mean) / spec.std).astype(np.float32)
