"""Real sound and pictures for tests, from tests/data."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np

from counterpoint.streams.types import Float32Array, UInt8Array

_DATA = Path(__file__).parents[1] / "data"


def grid_speech() -> Float32Array:
    """Three seconds (48000,) at 16 kHz: from 0.95 s to 2.12 s "bin blue at f two now"."""
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(str(_DATA / "grid_clip.mp4")) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])[:48_000]


def grid_face() -> UInt8Array:
    """Limited-range luma (288, 360) of one speaker, her face about 140 px wide at (167, 165)."""
    return np.asarray(cv2.imread(str(_DATA / "grid_face.png"), cv2.IMREAD_GRAYSCALE), np.uint8)
