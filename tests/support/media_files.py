"""Makes small media files for tests, whose pictures and sound say where they belong.

Picture n is flat with luma `luma_of(n)`; sound is a sine of 440 Hz, phase 0 at the first sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

TICKS = 50_000  # MPEG-4 wants less than 65,536

_Packets: TypeAlias = "Iterator[av.Packet[Any]]"


def luma_of(index: int) -> int:
    """Luma of the flat picture of that number; it comes again after 40."""
    return 30 + 5 * (index % 40)


def index_of(luma: float) -> int:
    """Number, modulo 40, of the picture whose mean luma is ``luma`` after lossy coding."""
    return round((luma - 30) / 5)


def sine(count: int, rate_hz: int, amplitude: float = 0.5) -> npt.NDArray[np.float32]:
    """(count,) float32."""
    return (amplitude * np.sin(2 * np.pi * 440 * np.arange(count) / rate_hz)).astype(np.float32)


def write_media(
    path: Path,
    *,
    seconds: float = 2.0,
    video_codec: str | None = "mpeg4",
    audio_codec: str | None = "aac",
    size: tuple[int, int] = (64, 48),
    fps: int = 25,
    times: Sequence[float] | None = None,
    pix_fmt: str = "yuv420p",
    b_frames: int = 0,
    rate_hz: int = 16_000,
    channels: Literal[1, 2] = 1,
    video_start: float = 0.0,
    audio_start: float = 0.0,
    rotation: int = 0,
    cover: bool = False,
    interleaved: bool = True,
    faststart: bool = False,
    pixels: npt.NDArray[np.uint8] | None = None,
) -> Path:
    """Write a media file; its container goes by the ending of ``path``.

    Args:
        seconds: length of each stream.
        video_codec, audio_codec: None leaves the stream out.
        size: (width, height).
        times: presentation times of the pictures in seconds, for a variable frame rate.
        b_frames: how many bidirectional pictures between two others (H.264 and MPEG-4).
        channels: with 2, the right channel is silent.
        video_start, audio_start: seconds at which each stream starts.
        rotation: degrees of the display matrix, as PyAV takes them.
        cover: mark the video stream as a cover picture.
        interleaved: if False, all sound lies behind all pictures in the file.
        faststart: put the index of an MP4 file in front.
        pixels: (height, width, 3) RGB of every picture, instead of flat ones.
    """
    options = {"movflags": "+faststart"} if faststart else {}
    if not interleaved:
        options["max_interleave_delta"] = "1"  # microseconds that the muxer waits to interleave
    with av.open(str(path), "w", container_options=options) as container:
        packets: list[_Packets] = []
        if video_codec is not None:
            video = container.add_stream(video_codec, rate=fps)
            assert isinstance(video, VideoStream)
            video.width, video.height = size
            video.pix_fmt = pix_fmt
            video.time_base = video.codec_context.time_base = Fraction(1, TICKS)
            video.codec_context.thread_count = 1
            video.codec_context.max_b_frames = b_frames
            video.codec_context.gop_size = 12
            if rotation:
                video.set_display_rotation(rotation)
            if cover:
                video.disposition = Disposition.attached_pic
            if times is None:
                times = [i / fps for i in range(round(seconds * fps))]
            packets.append(_encode_pictures(video, [video_start + t for t in times], size, pixels))
        if audio_codec is not None:
            layout = "mono" if channels == 1 else "stereo"
            audio = container.add_stream(audio_codec, rate=rate_hz, layout=layout)
            assert isinstance(audio, AudioStream)
            packets.append(_encode_sound(audio, round(seconds * rate_hz), audio_start))
        _mux(container, packets, interleaved=interleaved)
    return path


def truncate(path: Path, share: float) -> Path:
    """Keep only the first ``share`` of the bytes."""
    os.truncate(path, int(path.stat().st_size * share))
    return path


def damage(path: Path, start: float, end: float, *, seed: int = 1) -> Path:
    """Overwrite the bytes between two shares of the file with noise."""
    content = bytearray(path.read_bytes())
    first, last = int(len(content) * start), int(len(content) * end)
    content[first:last] = np.random.default_rng(seed).bytes(last - first)
    path.write_bytes(content)
    return path


def _encode_pictures(
    stream: VideoStream,
    starts: Sequence[float],
    size: tuple[int, int],
    pixels: npt.NDArray[np.uint8] | None,
) -> _Packets:
    for index, start in enumerate(starts):
        if pixels is not None:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        else:
            frame = av.VideoFrame(*size, "yuv420p")
            for plane, value in zip(frame.planes, (luma_of(index), 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = round(start * TICKS), Fraction(1, TICKS)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _encode_sound(stream: AudioStream, count: int, start: float) -> _Packets:
    rate_hz = stream.rate
    left = sine(count, rate_hz)
    channels = [left] if stream.layout.nb_channels == 1 else [left, np.zeros_like(left)]
    layout = stream.layout.name
    resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate_hz)
    step = stream.codec_context.frame_size or 1024
    for first in range(0, count, step):
        block = np.stack([channel[first : first + step] for channel in channels])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate = rate_hz
        frame.pts, frame.time_base = round(start * rate_hz) + first, Fraction(1, rate_hz)
        for converted in resampler.resample(frame):
            yield from stream.encode(converted)
    yield from stream.encode(None)


def _mux(container: OutputContainer, streams: list[_Packets], *, interleaved: bool) -> None:
    if not interleaved:
        for packets in streams:
            for packet in packets:
                container.mux_one(packet)
        return
    everything = [packet for packets in streams for packet in packets]
    container.mux(sorted(everything, key=lambda p: (p.dts or 0) * (p.time_base or 0)))
