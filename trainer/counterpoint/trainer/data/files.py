"""Finding files of a set and decoding them, with errors that name the missing path."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import Float32Array, UInt8Array


def need(path: Path, what: str) -> Path:
    """``path`` if it exists.

    Raises:
        UsageError: it does not; says which set was looked for and where.
    """
    if not path.exists():
        raise UsageError(f"{what}: {path} is missing; point --data at the folder of the sets")
    return path


def read_grey_picture(path: Path) -> UInt8Array:
    """A PNG as (height, width) uint8 luma."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        picture = frame.to_ndarray(format="gray")
    return picture.astype(np.uint8, copy=False)


def read_sound(path: Path, rate_hz: int = 16_000) -> Float32Array:
    """A sound file as mono float32 samples (N,) in [-1, 1] at ``rate_hz``."""
    pieces: list[Float32Array] = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        for frame in container.decode(audio=0):
            pieces += [_samples(part) for part in resampler.resample(frame)]
        pieces += [_samples(part) for part in resampler.resample(None)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _samples(frame: av.AudioFrame) -> Float32Array:
    return frame.to_ndarray().reshape(-1).astype(np.float32, copy=False)
