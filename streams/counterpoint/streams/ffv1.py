"""Pictures kept without loss: FFV1 (RFC 9043) through PyAV, zlib where FFV1 has no answer.

One packet a picture, each decodable by itself, so that a recording cut anywhere loses nothing
before the cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame as AvVideoFrame

from counterpoint.streams.errors import SourceError
from counterpoint.streams.types import UInt8Array

FFV1: Final = "ffv1"
ZLIB: Final = "zlib"
_ZLIB_LEVEL: Final = 1
_TIME_BASE: Final = Fraction(1, 1000)  # never used: every packet stands for itself


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFormat:
    """What a decoder must know before the first packet.

    Fields:
        width, height: of the luma plane.
        grey: no chroma planes; else two of (ceil(height / 2), ceil(width / 2)).
    """

    width: int
    height: int
    grey: bool

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each plane."""
        luma = (self.height, self.width)
        chroma = (-(-self.height // 2), -(-self.width // 2))
        return (luma,) if self.grey else (luma, chroma, chroma)

    @property
    def pixel_format(self) -> str:
        return "gray" if self.grey else "yuv420p"


class PictureEncoder:
    """Pictures of one format to packets.

    Takes zlib where this build's FFV1 does not open for the size (it wants planes large enough
    for its slices) and where chroma planes are not those of 4:2:0 at this size.
    """

    def __init__(self, form: PictureFormat) -> None:
        self.format = form
        self.codec = FFV1
        self.extradata = b""
        self._context = av.CodecContext.create("ffv1", "w")
        assert isinstance(self._context, VideoCodecContext)
        self._context.width, self._context.height = form.width, form.height
        self._context.pix_fmt = form.pixel_format
        self._context.time_base = _TIME_BASE
        # One thread: frame threads would hold packets back, and the bytes are always the same.
        self._context.thread_count = 1
        self._context.gop_size = 1
        self._context.options = {"level": "3", "slicecrc": "1"}
        try:
            self._context.open()
            self.extradata = bytes(self._context.extradata or b"")
        except (av.error.FFmpegError, NotImplementedError):
            self.codec = ZLIB

    def encode(self, planes: Sequence[UInt8Array]) -> bytes:
        """One packet for the planes y, or y, u, v."""
        if self.codec == ZLIB:
            return zlib.compress(b"".join(plane.tobytes() for plane in planes), _ZLIB_LEVEL)
        frame = AvVideoFrame(self.format.width, self.format.height, self.format.pixel_format)
        for target, plane in zip(frame.planes, planes, strict=True):
            padded = np.zeros((target.height, target.line_size), np.uint8)
            padded[:, : target.width] = plane
            target.update(padded.tobytes())
        assert isinstance(self._context, VideoCodecContext)
        return b"".join(bytes(packet) for packet in self._context.encode(frame))


class PictureDecoder:
    """Packets of one `PictureEncoder` to pictures."""

    def __init__(self, form: PictureFormat, codec: str, extradata: bytes) -> None:
        if codec not in (FFV1, ZLIB):
            raise SourceError(f"pictures are coded as {codec!r}, which this release does not read")
        self.format = form
        self._context: VideoCodecContext | None = None
        if codec == FFV1:
            context = av.CodecContext.create("ffv1", "r")
            assert isinstance(context, VideoCodecContext)
            context.extradata = extradata
            context.width, context.height = form.width, form.height
            context.pix_fmt = form.pixel_format
            context.thread_count = 1
            self._context = context

    def decode(self, packet: bytes) -> tuple[UInt8Array, ...]:
        """The planes that went in, bit for bit.

        Raises:
            SourceError: the packet is none of this format.
        """
        try:
            return self._inflate(packet) if self._context is None else self._decode(packet)
        except (av.error.FFmpegError, zlib.error, ValueError) as error:
            raise SourceError(f"a picture cannot be decoded: {error}") from error

    def _inflate(self, packet: bytes) -> tuple[UInt8Array, ...]:
        values = np.frombuffer(zlib.decompress(packet), np.uint8)
        ends = np.cumsum([height * width for height, width in self.format.shapes])
        parts = np.split(values, ends[:-1])
        return tuple(
            part.reshape(shape) for part, shape in zip(parts, self.format.shapes, strict=True)
        )

    def _decode(self, packet: bytes) -> tuple[UInt8Array, ...]:
        assert self._context is not None
        frames = self._context.decode(av.Packet(packet))
        if len(frames) != 1 or (frames[0].width, frames[0].height) != (
            self.format.width,
            self.format.height,
        ):
            raise ValueError(f"{len(frames)} pictures, or another size, in one packet")
        return tuple(
            np.frombuffer(memoryview(plane), np.uint8)
            .reshape(plane.height, plane.line_size)[:, : plane.width]
            .copy()
            for plane in frames[0].planes
        )
