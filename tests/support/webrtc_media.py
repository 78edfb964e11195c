"""Encoded pictures and sound as RTP packets, without a network; a track that gets them by hand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from counterpoint.streams.webrtc.packets import RtpPacket, SenderReport

_ENCODERS = {
    "VP8": ("libvpx", {"lag-in-frames": "0", "deadline": "realtime", "cpu-used": "-8"}),
    "H264": ("libx264", {"tune": "zerolatency", "preset": "ultrafast", "profile": "baseline"}),
}


def encoded_pictures(
    codec: str, count: int, *, width: int = 64, height: int = 48, keys: tuple[int, ...] = (0,)
) -> list[bytes]:
    """Grey pictures, ``16 + 4 * (number % 50)``; key frames only where they are asked for."""
    name, options = _ENCODERS[codec]
    context = av.CodecContext.create(name, "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height = width, height
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, 30)
    context.options = options
    context.gop_size = 10_000
    found: list[bytes] = []
    for number in range(count):
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, value in zip(frame.planes, (16 + 4 * (number % 50), 128, 128), strict=True):
            plane.update(np.full(plane.buffer_size, value, np.uint8).tobytes())
        frame.pts = number
        frame.pict_type = PictureType.I if number in keys else PictureType.NONE
        found += [bytes(packet) for packet in context.encode(frame)]
    assert len(found) == count
    return found


def vp8_packet(data: bytes, number: int, *, ssrc: int = 1, first: int = 65_530) -> RtpPacket:
    """One frame as one packet, 30 a second."""
    return RtpPacket(
        ssrc=ssrc,
        sequence=(first + number) % 65_536,
        timestamp=(4_294_960_000 + number * 3_000) % (1 << 32),
        marker=True,
        codec="VP8",
        payload=b"\x10" + data,
        data=data,
    )


def h264_packets(data: bytes, number: int, first: int = 0) -> list[RtpPacket]:
    """One frame, a packet for each of its NAL units, numbered from ``first``."""
    units = [
        unit
        for unit in data.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01")
        if unit
    ]
    return [
        RtpPacket(
            ssrc=1,
            sequence=first + part,
            timestamp=number * 3_000,
            marker=part == len(units) - 1,
            codec="H264",
            payload=unit,
            data=b"\x00\x00\x00\x01" + unit,
        )
        for part, unit in enumerate(units)
    ]


def _nobody(_: object) -> None:
    """Until a track listens."""


class HandedTrack:
    """Stands in for the adapter's `ReceivedTrack`: the test hands the packets over."""

    kind = "video"

    def __init__(self) -> None:
        self.on_packet: Callable[[RtpPacket], None] = _nobody
        self.on_report: Callable[[SenderReport], None] = _nobody
        self.on_bye: Callable[[int], None] = _nobody
        self.asked: list[int] = []

    async def request_key_frame(self, ssrc: int) -> None:
        self.asked.append(ssrc)
