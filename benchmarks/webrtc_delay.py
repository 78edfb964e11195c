"""From a frame's last packet to the frame in the engine: ours beside aiortc's own path.

A sender in another process (aiortc: VP8, ``--width`` × ``--height`` at 30 a second, and Opus in
packets of 20 ms) sends over loopback, after the other to a `Peer` and to a plain aiortc connection
whose ``track.recv`` is read at once. Both are measured alike: from the instant at which the last
packet of a frame is in aiortc's hands until the frame is (``feed.put``, or ``recv`` returning).

Then the sender leaves out one packet of sound, every ``--loss-every`` seconds, and it is measured
how long it takes until the delay of sound (the median of ten packets) is within 5 ms of what it was
before the first loss; aiortc's own path may never get there (``never``).

    python -m benchmarks.webrtc_delay [--seconds 30] [--out FILE]

The last line of output is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import is_rtcp

from benchmarks.machine import circumstances, finish
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import AudioChunk, Item, Modality, VideoFrame
from counterpoint.streams.webrtc import Peer, PeerSettings
from counterpoint.streams.webrtc.adapter import offering_loopback

MS = 1_000_000
S = 1_000 * MS
WARM_UP_NS = 2 * S
CLOSE_TO_NS = 5 * MS
RUN = 10  # frames whose median has to be back: one may be late by itself


# -- the sender's process ------------------------------------------------------------------------


class Camera(MediaStreamTrack):
    """A picture with noise that moves, so that frames take several packets."""

    kind = "video"

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self._number = 0
        self._start = 0.0
        noise = np.random.default_rng(0).integers(60, 200, (height // 8, width // 8), np.uint8)
        self._noise = np.kron(noise, np.ones((8, 8), np.uint8))
        self._chroma = np.full((height // 2, width), 128, np.uint8)

    async def recv(self) -> av.VideoFrame:
        loop = asyncio.get_running_loop()
        self._start = self._start or loop.time()
        await asyncio.sleep(self._start + self._number / 30 - loop.time())
        luma = np.roll(self._noise, self._number % 64, axis=1)
        frame = av.VideoFrame.from_ndarray(np.vstack([luma, self._chroma]), format="yuv420p")
        frame.pts, frame.time_base = self._number * 3_000, Fraction(1, 90_000)
        self._number += 1
        return frame


class Microphone(MediaStreamTrack):
    """A tone, 20 ms at a time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._number = 0
        self._start = 0.0

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        self._start = self._start or loop.time()
        await asyncio.sleep(self._start + self._number * 0.02 - loop.time())
        at = np.arange(960) + self._number * 960
        tone = (np.sin(2 * np.pi * 440 * at / 48_000) * 16_000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, self._number * 960
        frame.time_base = Fraction(1, 48_000)
        self._number += 1
        return frame


def send(pipe: Pipe, width: int, height: int, loss_every: float) -> None:
    """Offer, take the answer, send until the pipe says something."""
    asyncio.run(_send(pipe, width, height, loss_every))


async def _send(pipe: Pipe, width: int, height: int, loss_every: float) -> None:
    loop = asyncio.get_running_loop()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTrack(Camera(width, height))
    sound = pc.addTrack(Microphone())
    with offering_loopback(True):
        await pc.setLocalDescription(await pc.createOffer())
    pipe.send(pc.localDescription.sdp)
    answer = await loop.run_in_executor(None, pipe.recv)
    await pc.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
    if loss_every:
        _lose(sound, loss_every)
    await loop.run_in_executor(None, pipe.recv)
    await pc.close()


def _lose(sound: Any, every: float) -> None:
    """Leave out one packet of sound each ``every`` seconds."""
    loop = asyncio.get_running_loop()
    transport = sound.transport
    inner: Callable[[bytes], Any] = transport._send_rtp  # noqa: SLF001 - a loss has to come from somewhere
    ssrc: int = sound._ssrc  # noqa: SLF001
    due = [loop.time() + every]

    async def lossy(data: bytes) -> None:
        is_sound = not is_rtcp(data) and int.from_bytes(data[8:12], "big") == ssrc
        if is_sound and loop.time() >= due[0]:
            due[0] += every
        else:
            await inner(data)

    transport._send_rtp = lossy  # noqa: SLF001


# -- the receivers -------------------------------------------------------------------------------


@dataclass
class Delays:
    """Pairs (instant at which a frame came, its delay), and gaps in the sound, by instant."""

    video: list[tuple[int, int]] = field(default_factory=list)
    audio: list[tuple[int, int]] = field(default_factory=list)
    losses: list[int] = field(default_factory=list)


class Arrivals:
    """When the last packet of each frame came, by kind and RTP timestamp."""

    def __init__(self, runtime: SystemRuntime, delays: Delays) -> None:
        self._runtime = runtime
        self._delays = delays
        self._last: dict[tuple[str, int], int] = {}
        self._sequence: int | None = None

    def watch(self, pc: RTCPeerConnection) -> None:
        """Note packets as the receivers of ``pc`` get them."""
        for transceiver in pc.getTransceivers():
            receiver = transceiver.receiver
            inner = receiver._handle_rtp_packet  # noqa: SLF001 - there is no other way to see them
            kind = transceiver.kind

            async def noted(
                packet: Any, arrival_time_ms: int, kind: str = kind, inner: Any = inner
            ) -> None:
                now_ns = self._runtime.now_ns()
                self._last[kind, packet.timestamp] = now_ns
                if kind == "audio":
                    if self._sequence is not None and packet.sequence_number != (
                        (self._sequence + 1) % 65_536
                    ):
                        self._delays.losses.append(now_ns)
                    self._sequence = packet.sequence_number
                await inner(packet, arrival_time_ms=arrival_time_ms)

            setattr(receiver, "_handle_rtp_packet", noted)  # noqa: B010 - a method

    def take(self, kind: str, timestamp: int) -> int | None:
        return self._last.pop((kind, timestamp), None)


async def by_peer(runtime: SystemRuntime, pipe: Pipe, seconds: float) -> Delays:
    """The engine's path."""
    delays = Delays()
    arrivals = Arrivals(runtime, delays)
    peer = Peer("sender", runtime, PeerSettings(loopback=True))

    class Feed:
        """Stamps items as they are put; their packets are known by order."""

        def now_ns(self) -> int:
            return runtime.now_ns()

        def session_ns(self, monotonic_ns: int) -> int:
            return monotonic_ns

        def wanted_ns(self, modality: Modality) -> int:  # noqa: ARG002 - no windows here
            return 0

        def put(self, item: Item) -> None:
            now_ns = runtime.now_ns()
            if isinstance(item, VideoFrame | AudioChunk):
                kind = "video" if isinstance(item, VideoFrame) else "audio"
                arrived_ns = pending[kind].pop(0)
                found = delays.video if kind == "video" else delays.audio
                found.append((now_ns, now_ns - arrived_ns))

    # The track's own queue of what it is about to hand over has the arrivals.
    pending: dict[str, list[int]] = {"video": [], "audio": []}
    answer = await peer.answer(pipe.recv())
    arrivals.watch(peer._connection._pc)  # noqa: SLF001
    for kind, track in (("video", peer._video), ("audio", peer._audio)):  # noqa: SLF001
        assert track is not None
        give = track._give  # noqa: SLF001

        def noted(
            media_ns: int, arrived_ns: int, make: Any, kind: str = kind, give: Any = give
        ) -> None:
            if make is not None:
                pending[kind].append(arrived_ns)
            give(media_ns, arrived_ns, make)

        setattr(track, "_give", noted)  # noqa: B010 - a method
    pipe.send(answer)
    run = asyncio.ensure_future(peer.run(Feed()))
    await asyncio.sleep(seconds)
    run.cancel()
    await asyncio.wait({run})
    return delays


async def by_aiortc(runtime: SystemRuntime, pipe: Pipe, seconds: float) -> Delays:
    """aiortc's own path: its jitter buffers, its decoder, ``track.recv``."""
    delays = Delays()
    arrivals = Arrivals(runtime, delays)
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    await pc.setRemoteDescription(RTCSessionDescription(sdp=pipe.recv(), type="offer"))
    arrivals.watch(pc)
    with offering_loopback(True):
        await pc.setLocalDescription()

    async def read(kind: str, receiver: Any, found: list[tuple[int, int]]) -> None:
        while True:
            try:
                frame = await receiver.track.recv()
            except MediaStreamError:
                return
            now_ns = runtime.now_ns()
            origin = receiver._RTCRtpReceiver__timestamp_mapper._origin  # noqa: SLF001
            arrived_ns = arrivals.take(kind, (frame.pts + origin) % (1 << 32))
            if arrived_ns is not None:
                found.append((now_ns, now_ns - arrived_ns))

    readers = [
        asyncio.ensure_future(
            read(t.kind, t.receiver, delays.video if t.kind == "video" else delays.audio)
        )
        for t in pc.getTransceivers()
    ]
    pipe.send(pc.localDescription.sdp)
    await asyncio.sleep(seconds)
    await pc.close()
    await asyncio.gather(*readers)
    return delays


# -- figures -------------------------------------------------------------------------------------


def summary(found: list[tuple[int, int]]) -> dict[str, float]:
    """p50 and p99 in milliseconds, the first two seconds left out."""
    begin_ns = found[0][0] + WARM_UP_NS
    delays_ms = [delay_ns / MS for at_ns, delay_ns in found if at_ns >= begin_ns]
    p50, p99 = np.percentile(delays_ms, [50, 99])
    return {"frames": len(delays_ms), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


def recovery_ms(delays: Delays) -> list[float | None]:
    """For each loss, until the delay of sound is what it was before the first; None: never."""
    losses = [at_ns for at_ns in delays.losses if at_ns >= delays.audio[0][0] + WARM_UP_NS]
    if not losses:
        return []
    before_ns = median(
        d for at_ns, d in delays.audio if losses[0] - WARM_UP_NS <= at_ns < losses[0]
    )
    found: list[float | None] = []
    for loss_ns, next_ns in zip(losses, [*losses[1:], sys.maxsize], strict=True):
        after = [(at_ns, d) for at_ns, d in delays.audio if loss_ns <= at_ns < next_ns]
        back_ns = next(
            (
                after[n][0]
                for n in range(len(after) - RUN)
                if median(d for _, d in after[n : n + RUN]) <= before_ns + CLOSE_TO_NS
            ),
            None,
        )
        found.append(None if back_ns is None else round((back_ns - loss_ns) / MS, 1))
    return found


def measure(path: str, seconds: float, width: int, height: int, loss_every: float) -> Delays:
    """One path against a sender of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    sender = context.Process(target=send, args=(there, width, height, loss_every), daemon=True)
    sender.start()
    with SystemRuntime() as runtime:
        receive = by_peer if path == "counterpoint" else by_aiortc
        delays = asyncio.run(receive(runtime, here, seconds))
    here.send("end")
    sender.join(timeout=10)
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="each of four runs")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--loss-every", type=float, default=5.0, help="seconds")
    parser.add_argument("--out", type=Path, help="also write the JSON document there")
    arguments = parser.parse_args()
    size = (arguments.width, arguments.height)
    figures: dict[str, dict[str, object]] = {}
    for path in ("aiortc", "counterpoint"):
        calm = measure(path, arguments.seconds, *size, 0.0)
        lossy = measure(path, arguments.seconds, *size, arguments.loss_every)
        video, audio, back = summary(calm.video), summary(calm.audio), recovery_ms(lossy)
        figures[path] = {"video": video, "audio": audio, "audio_back_after_loss_ms": back}
        said = ", ".join("never" if ms is None else f"{ms:.0f}" for ms in back)
        print(
            f"{path:>12}: video p50 {video['p50_ms']:6.2f} p99 {video['p99_ms']:6.2f} ms, "
            f"audio p50 {audio['p50_ms']:6.2f} p99 {audio['p99_ms']:6.2f} ms, "
            f"back after a loss (ms): {said}"
        )
    document: dict[str, object] = {
        "benchmark": "webrtc_delay",
        **circumstances(),
        "seconds": arguments.seconds,
        "size": f"{size[0]}x{size[1]}",
        "loss_every_seconds": arguments.loss_every,
        "paths": figures,
    }
    finish(document, arguments.out)


if __name__ == "__main__":
    main()
