"""Decoded frames of PyAV (FFmpeg) as what samples carry: planes in YUV 4:2:0, mono float32."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame as AvVideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from counterpoint.streams.types import NS_PER_S, Float32Array, UInt8Array


def to_ns(ticks: int | None, time_base: Fraction | None) -> int | None:
    """Ticks of a stream's time base in nanoseconds, rounded down; None where either is unknown."""
    if ticks is None or time_base is None:
        return None
    return ticks * time_base.numerator * NS_PER_S // time_base.denominator


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planes:
    """One picture's planes, copied out of the decoder, as `VideoFrame` has them."""

    y: UInt8Array
    u: UInt8Array | None
    v: UInt8Array | None
    full_range: bool


class PlaneReader:
    """Copies pictures out of the decoder's buffers. One for each stream: it keeps a converter."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def read(self, frame: AvVideoFrame) -> Planes:
        """The planes of ``frame``, upright; what is not YUV 4:2:0 or grey is converted."""
        full_range = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        if frame.format.name == "gray":
            # FFmpeg's grey is full range unless it is marked otherwise.
            full_range = frame.color_range != ColorRange.MPEG
        elif frame.format.name not in ("yuv420p", "yuvj420p"):
            frame = self._reformatter.reformat(
                frame,
                format="yuv420p",
                src_color_range=ColorRange.JPEG if full_range else ColorRange.UNSPECIFIED,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            full_range = False
        # The display matrix of a phone held upright: quarter turns, counter-clockwise.
        turns = round(frame.rotation / 90)
        planes = [_plane(frame, index, turns) for index in range(len(frame.planes))]
        return Planes(
            y=planes[0],
            u=planes[1] if len(planes) == 3 else None,
            v=planes[2] if len(planes) == 3 else None,
            full_range=full_range,
        )


def _plane(frame: AvVideoFrame, index: int, quarter_turns: int) -> UInt8Array:
    plane = frame.planes[index]
    padded = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    # A copy: the decoder uses its buffers again.
    return np.rot90(padded[:, : plane.width], quarter_turns).copy(order="C")


def mono(frame: AudioFrame) -> Float32Array:
    """The mean of all channels, (N,) float32 in [-1, 1], of any sample format."""
    samples: npt.NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    match samples.dtype.kind:
        case "u":
            scaled = (samples.astype(np.float32) - 128.0) / 128.0
        case "i":
            scaled = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
        case _:
            scaled = np.nan_to_num(samples, posinf=1.0, neginf=-1.0).astype(np.float32)
    mixed: Float32Array = scaled.mean(axis=0, dtype=np.float32)
    return np.clip(mixed, -1.0, 1.0)
