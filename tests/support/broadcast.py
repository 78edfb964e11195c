"""A live stream over HTTP on loopback: pictures and sound muxed by PyAV, sent as time goes by.

Two seconds in, one picture is bright and 40 ms of sound are a beep, and again every two seconds:
where both lie in the session says whether they were kept together. Every connection gets the
stream from its beginning.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

FPS = 25
RATE = 48_000
SIZE = (64, 48)
DARK, BRIGHT = 60, 200
EVERY_S = 2
"""Seconds from flash to flash; the first is after as much."""
BEEP_S = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a stream, and at which second of its media they are due."""

    at_s: float
    content: bytes


class _Pipe(io.BytesIO):
    """A muxer cannot go back in it, as in a socket."""

    def seekable(self) -> bool:
        return False


def mux_live(
    kind: str, *, video_codec: str | None, audio_codec: str | None, seconds: float
) -> list[Piece]:
    """A stream in pieces, one for each packet.

    Args:
        kind: FFmpeg's name of the container.
        video_codec, audio_codec: None leaves the stream out.
    """
    sink = _Pipe()
    options = {"live": "1", "flush_packets": "1"} if kind == "matroska" else {"flush_packets": "1"}
    pieces: list[Piece] = []
    with av.open(sink, "w", format=kind, container_options=options) as container:
        packets: list[av.Packet[Any]] = []
        if video_codec is not None:
            packets += _pictures(container.add_stream(video_codec, rate=FPS), seconds)
        if audio_codec is not None:
            packets += _sound(container.add_stream(audio_codec, rate=RATE, layout="mono"), seconds)
        for packet in sorted(packets, key=_due):
            due_s = float(_due(packet))
            container.mux_one(packet)
            if content := sink.getvalue():
                pieces.append(Piece(at_s=max(0.0, due_s), content=content))
                sink.seek(0)
                sink.truncate()
    return pieces


def _due(packet: av.Packet[Any]) -> Fraction:
    ticks = packet.dts if packet.dts is not None else packet.pts
    return (ticks or 0) * (packet.time_base or Fraction(1))


def _pictures(stream: Any, seconds: float) -> list[av.Packet[Any]]:
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = SIZE
    stream.pix_fmt = "yuv420p"
    stream.codec_context.gop_size = FPS // 5
    stream.codec_context.thread_count = 1
    packets: list[av.Packet[Any]] = []
    for index in range(round(seconds * FPS)):
        bright = index > 0 and index % (EVERY_S * FPS) == 0
        frame = av.VideoFrame(*SIZE, "yuv420p")
        for plane, value in zip(frame.planes, (BRIGHT if bright else DARK, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = index, Fraction(1, FPS)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _sound(stream: Any, seconds: float) -> list[av.Packet[Any]]:
    assert isinstance(stream, AudioStream)
    at_s = np.arange(round(seconds * RATE)) / RATE
    sound = (0.5 * np.sin(2 * np.pi * 1_000 * at_s)).astype(np.float32)
    sound[(at_s < EVERY_S) | (at_s % EVERY_S >= BEEP_S)] = 0
    step = stream.codec_context.frame_size or 960
    resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=RATE)
    packets: list[av.Packet[Any]] = []
    for first in range(0, len(sound), step):
        frame = av.AudioFrame.from_ndarray(sound[None, first : first + step], "fltp", "mono")
        frame.sample_rate = RATE
        frame.pts, frame.time_base = first, Fraction(1, RATE)
        for converted in resampler.resample(frame):
            packets += stream.encode(converted)
    return packets + stream.encode(None)


class BroadcastServer:
    """Sends pieces to whoever connects, each when it is due since that connection began.

    Args:
        burst_s: what is due before this second is sent at once, as by a server that keeps the
            last key frame and what followed; the rest as if that had begun so long ago.
        pace: media seconds for each second; 0 sends all at once.
        port: 0 for any that is free.
    """

    def __init__(
        self, pieces: list[Piece], *, burst_s: float = 0.0, pace: float = 1.0, port: int = 0
    ) -> None:
        self._pieces, self._burst_s, self._pace = pieces, burst_s, pace
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/live"
        self.began_ns: list[int] = []
        """By ``time.monotonic_ns``: when media second 0 of each connection was due."""
        self._threads = [threading.Thread(target=self._accept, name="broadcast")]
        self._threads[0].start()

    def close(self) -> None:
        """Cut all connections, and refuse new ones from now on."""
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="broadcast")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(5)
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                self._send(connection)
        except OSError:
            return  # whoever listened has gone

    def _send(self, connection: socket.socket) -> None:
        began_s = time.monotonic() - self._burst_s
        self.began_ns.append(round(began_s * 1e9))
        for piece in self._pieces:
            wait_s = began_s + piece.at_s / self._pace - time.monotonic() if self._pace else 0.0
            if self._stop.wait(max(0.0, wait_s)):
                return
            connection.sendall(piece.content)
