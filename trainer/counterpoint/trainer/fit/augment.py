"""What is changed at random in training: pictures, sound, words. And cleaning of sound.

Every draw comes from the generator given, which depends on seed, epoch and example only: the same
whatever process prepares it, and after an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator

from counterpoint.streams.types import Float32Array, UInt8Array
from counterpoint.trainer.fit.config import AudioAugment, ImageAugment

_FRAME: Final = 512
_ABOVE: Final = 5.0
"""Times the quiet tenth: of noise (whose amplitudes are Rayleigh's) 7 % are louder than that."""

_KEPT: Final = 0.1
"""Amplitude that cleaning leaves of what it takes for noise: less would give musical noise."""


def change_pictures(faces: UInt8Array, how: ImageAugment, random: Generator) -> UInt8Array:
    """(T, S, S) uint8: crop, flip, light and occlusion, the same for all pictures of a window."""
    size = faces.shape[1]
    cut = random.random() * how.crop
    side = max(8, round(size * (1 - cut)))
    left, top = (int(random.integers(0, size - side + 1)) for _ in range(2))
    out = faces[:, top : top + side, left : left + side].astype(np.float32)
    if random.random() < how.flip:
        out = out[:, :, ::-1]
    if side != size:
        out = np.stack([cv2.resize(picture, (size, size)) for picture in out])
    contrast = 1 + how.light * random.uniform(-1, 1)
    out = (out - 128) * contrast + 128 + 255 * how.light * random.uniform(-0.5, 0.5)
    if random.random() < how.occlusion:
        height, width = (int(size * random.uniform(0.15, 0.4)) for _ in range(2))
        row, column = int(random.integers(0, size - height)), int(random.integers(0, size - width))
        out = np.array(out)
        out[:, row : row + height, column : column + width] = 255 * random.random()
    changed: UInt8Array = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return changed


def change_sound(
    sound: Float32Array, how: AudioAugment, noises: Sequence[Float32Array], random: Generator
) -> Float32Array:
    """(N,) samples: real noise at a drawn signal-to-noise ratio, then gain."""
    out = sound
    if noises and random.random() < how.noise and len(sound):
        noise = noises[int(random.integers(len(noises)))]
        start = int(random.integers(len(noise)))
        part = np.resize(np.roll(noise, -start)[: len(sound)], len(sound))
        out = mix(sound, part, float(random.uniform(how.snr_db[0], how.snr_db[1])))
    gain = 10 ** (random.uniform(-how.gain_db, how.gain_db) / 20)
    return np.asarray(out * np.float32(gain), np.float32)


def mix(sound: Float32Array, noise: Float32Array, snr_db: float) -> Float32Array:
    """``sound`` and ``noise`` (N,) so that their powers are ``snr_db`` apart.

    Silence stays as it is: there is no ratio to nothing.
    """
    power, other = (float(np.mean(np.square(part, dtype=np.float64))) for part in (sound, noise))
    if power <= 0 or other <= 0:
        return sound
    factor = np.sqrt(power / other / 10 ** (snr_db / 10))
    return np.asarray(sound + np.float32(factor) * noise, np.float32)


def mask_log_mel(
    log_mel: Float32Array, fill: Float32Array, how: AudioAugment, random: Generator
) -> Float32Array:
    """SpecAugment on raw log-mel (frames, bins): masked parts are ``fill`` (bins,), its mean."""
    out = log_mel.copy()
    for _ in range(how.time_masks):
        width = int(random.integers(0, how.time_frames + 1))
        start = int(random.integers(0, max(1, len(out) - width + 1)))
        out[start : start + width] = fill
    for _ in range(how.bin_masks):
        width = int(random.integers(0, how.bins + 1))
        start = int(random.integers(0, max(1, out.shape[1] - width + 1)))
        out[:, start : start + width] = fill[start : start + width]
    return out


def drop_tokens(text: str, share: float, random: Generator) -> str:
    """A line without ``share`` of its words, at least one staying."""
    words = text.split(" ")
    kept = [word for word in words if random.random() >= share]
    return " ".join(kept) if kept else words[int(random.integers(len(words)))]


def clean(sound: Float32Array) -> Float32Array:
    """Spectral gating: in each frequency what stands out of the clip's quiet tenth stays.

    Frames of 32 ms, Hann windows overlapping by half, which sum to 1. For training clips only:
    the engine does not do it, so nothing that is served or measured went through it.
    """
    if len(sound) < 4 * _FRAME:
        return sound
    hop = _FRAME // 2
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / _FRAME)
    padded = np.pad(sound.astype(np.float64), (hop, _FRAME))
    starts = range(0, len(padded) - _FRAME + 1, hop)
    spectrum = np.fft.rfft(np.stack([padded[at : at + _FRAME] for at in starts]) * window)
    loudness = np.abs(spectrum)
    floor = np.quantile(loudness, 0.1, axis=0)
    spectrum *= np.where(loudness > _ABOVE * floor, 1.0, _KEPT)
    out = np.zeros(len(padded))
    for at, part in zip(starts, np.fft.irfft(spectrum, _FRAME), strict=True):
        out[at : at + _FRAME] += part
    return np.asarray(out[hop : hop + len(sound)], np.float32)
