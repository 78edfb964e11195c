"""Decoders of what WebRTC carries: one frame or packet in, planes or samples out. Blocking.

Pictures stay in YUV as decoded; what is not used is never converted. All use of PyAV for live
peers is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import av
import av.error
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame as AvVideoFrame
from av.video.reformatter import ColorRange

from counterpoint.streams.types import Float32Array, UInt8Array

_VIDEO: Final = {"VP8": "libvpx", "H264": "h264"}
# FFmpeg's decoder, and the rate it is to give.
_AUDIO: Final = {
    "OPUS": ("libopus", 48_000),
    "G722": ("g722", 16_000),
    "PCMU": ("pcm_mulaw", 8_000),
    "PCMA": ("pcm_alaw", 8_000),
}
_FORMATS: Final = ("yuv420p", "yuvj420p", "gray")


class DecodeError(Exception):
    """What came cannot be decoded."""


class PictureRefusedError(Exception):
    """A picture that is not taken; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One decoded picture.

    Fields:
        y: (height, width) uint8.
        u, v: (ceil(height / 2), ceil(width / 2)) uint8, or None for a grey one.
        full_range: luma uses 0..255 instead of 16..235.
    """

    y: UInt8Array
    u: UInt8Array | None
    v: UInt8Array | None
    full_range: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What is refused when larger."""

    width: int
    height: int
    pixels: int

    def check(self, width: int, height: int) -> None:
        """Raises:
        PictureRefusedError: it is larger than this.
        """
        if width > self.width or height > self.height or width * height > self.pixels:
            raise PictureRefusedError("picture too large")


class VideoDecoder:
    """One track's pictures. Used by one thread at a time.

    Args:
        codec: ``VP8`` or ``H264``.
        limits: larger pictures are refused.
    """

    def __init__(self, codec: str, limits: PictureLimits) -> None:
        self._limits = limits
        self._is_vp8 = codec == "VP8"
        context = av.CodecContext.create(_VIDEO[codec], "r")
        assert isinstance(context, VideoCodecContext)
        context.thread_count = 1
        # No frame waits for a later one: nothing sent in real time is reordered.
        context.flags |= Flags.low_delay
        self._context = context

    def decode(self, data: bytes, *, key: bool) -> Picture | None:
        """One encoded frame. None where it is not meant to be shown.

        Raises:
            DecodeError: it is damaged, or what it builds on is missing.
            PictureRefusedError: it is larger than allowed, or of another kind than 4:2:0.
        """
        if key and self._is_vp8 and len(data) >= 10:
            # Looked up before any memory is reserved (RFC 6386, section 9.1).
            self._limits.check(
                int.from_bytes(data[6:8], "little") & 0x3FFF,
                int.from_bytes(data[8:10], "little") & 0x3FFF,
            )
        try:
            frames = self._context.decode(Packet(data))
        except av.error.FFmpegError as exc:
            raise DecodeError(str(exc)) from exc
        return _picture(frames[-1], self._limits) if frames else None


def _picture(frame: AvVideoFrame, limits: PictureLimits) -> Picture:
    limits.check(frame.width, frame.height)
    if frame.format.name not in _FORMATS:
        raise PictureRefusedError("not 4:2:0")
    planes = [_plane(plane) for plane in frame.planes]
    return Picture(
        y=planes[0],
        u=planes[1] if len(planes) == 3 else None,
        v=planes[2] if len(planes) == 3 else None,
        full_range=frame.color_range == ColorRange.JPEG or frame.format.name == "yuvj420p",
    )


def _plane(plane: Any) -> UInt8Array:
    # No copy: the frame is the decoder's no more, and its memory lives as long as the array.
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


class AudioDecoder:
    """One track's sound, mono. Used by one thread at a time.

    Args:
        codec: ``opus``, ``G722``, ``PCMU`` or ``PCMA``, in upper case.
    """

    def __init__(self, codec: str) -> None:
        name, self.rate_hz = _AUDIO[codec]
        context = av.CodecContext.create(name, "r")
        assert isinstance(context, AudioCodecContext)
        # Opus mixes down to one channel while it decodes (RFC 6716, section 2.1.2).
        context.layout = "mono"
        context.sample_rate = self.rate_hz
        self._context = context

    def decode(self, data: bytes) -> Float32Array:
        """(N,) float32 in [-1, 1], maybe none.

        Raises:
            DecodeError: it is damaged.
        """
        try:
            frames = self._context.decode(Packet(data))
        except av.error.FFmpegError as exc:
            raise DecodeError(str(exc)) from exc
        if len(frames) == 1:
            return _mono(frames[0])
        return np.concatenate([_mono(frame) for frame in frames] or [np.zeros(0, np.float32)])


def _mono(frame: AudioFrame) -> Float32Array:
    if frame.format.name == "s16" and len(frame.layout.channels) == 1:
        # Opus, fifty times a second of every peer: the short way.
        plane: Any = frame.planes[0]
        plain = np.frombuffer(plane, np.int16, frame.samples)
        short: Float32Array = np.multiply(plain, np.float32(1 / 32_768), dtype=np.float32)
        return short
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    channels: Float32Array = samples.astype(np.float32)
    if samples.dtype == np.int16:
        channels /= 32_768.0
    mono: Float32Array = channels[0] if len(channels) == 1 else channels.mean(axis=0)
    return mono
