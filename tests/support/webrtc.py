"""A real WebRTC client in the test's own process: aiortc's sending side, over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcdtlstransport import RTCCertificate
from aiortc.rtp import is_rtcp

from counterpoint.streams.feed import Feed
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import AudioChunk, Bound, ClockUpdate, Item, Modality, VideoFrame
from counterpoint.streams.webrtc import Peer
from counterpoint.streams.webrtc.adapter import CERTIFICATES, offering_loopback

WAIT_S = 20.0


class CollectingFeed:
    """A `Feed` that keeps all, and wakes who waits for something in it."""

    def __init__(self, runtime: SystemRuntime) -> None:
        self.items: list[Item] = []
        self.arrived_ns: list[int] = []
        self._runtime = runtime
        self._origin_ns = runtime.now_ns() - 1_000_000_000
        self._changed = asyncio.Event()

    def now_ns(self) -> int:
        return self._runtime.now_ns() - self._origin_ns

    def session_ns(self, monotonic_ns: int) -> int:
        return monotonic_ns - self._origin_ns

    def wanted_ns(self, modality: Modality) -> int:
        return 0

    def put(self, item: Item) -> None:
        self.items.append(item)
        self.arrived_ns.append(self.now_ns())
        self._changed.set()

    @property
    def frames(self) -> list[VideoFrame]:
        return [item for item in self.items if isinstance(item, VideoFrame)]

    @property
    def chunks(self) -> list[AudioChunk]:
        return [item for item in self.items if isinstance(item, AudioChunk)]

    @property
    def updates(self) -> list[ClockUpdate]:
        return [item for item in self.items if isinstance(item, ClockUpdate)]

    @property
    def bounds(self) -> list[Bound]:
        return [item for item in self.items if isinstance(item, Bound)]

    async def until(self, *, frames: int = 0, chunks: int = 0) -> None:
        """Return once there are as many."""
        await self.until_true(lambda: len(self.frames) >= frames and len(self.chunks) >= chunks)

    async def until_true(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds; it is looked at after each item."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class PatternTrack(MediaStreamTrack):
    """Grey pictures, each a little brighter than the one before: ``16 + number % 200``."""

    kind = "video"

    def __init__(self, width: int = 320, height: int = 240, rate: int = 30) -> None:
        super().__init__()
        self.size = (width, height)
        self.number = 0
        self._rate = rate
        self._start: float | None = None

    async def recv(self) -> av.VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        self._start = self._start or loop.time()
        await asyncio.sleep(self._start + self.number / self._rate - loop.time())
        width, height = self.size
        grey = np.full((height * 3 // 2, width), 128, np.uint8)
        grey[:height] = 16 + self.number % 200
        frame = av.VideoFrame.from_ndarray(grey, format="yuv420p")
        frame.pts = self.number * 90_000 // self._rate
        frame.time_base = Fraction(1, 90_000)
        self.number += 1
        return frame


class ToneTrack(MediaStreamTrack):
    """A tone of 440 Hz, 20 ms at a time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self._start: float | None = None

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        self._start = self._start or loop.time()
        await asyncio.sleep(self._start + self.number * 0.02 - loop.time())
        at = np.arange(960) + self.number * 960
        tone = (np.sin(2 * np.pi * 440 * at / 48_000) * 16_000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = 48_000
        frame.pts = self.number * 960
        frame.time_base = Fraction(1, 48_000)
        self.number += 1
        return frame


@dataclass
class Client:
    """A client with the tracks and channels that it was given."""

    video: MediaStreamTrack | None = None
    audio: MediaStreamTrack | None = None
    channel_label: str | None = None
    received: list[str | bytes] = field(default_factory=list)
    channel: RTCDataChannel | None = None
    certificate: RTCCertificate | None = None

    def __post_init__(self) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        if self.certificate is not None:
            setattr(self.pc, CERTIFICATES, [self.certificate])
        self.opened = asyncio.Event()
        self._changed = asyncio.Event()
        for track in (self.video, self.audio):
            if track is not None:
                self.pc.addTrack(track)
        if self.channel_label is not None:
            self.channel = self.pc.createDataChannel(self.channel_label)
            self.channel.on("open", self.opened.set)
            self.channel.on("message", self._take)

    def _take(self, message: str | bytes) -> None:
        self.received.append(message)
        self._changed.set()

    async def until_received(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.received) < count:
                self._changed.clear()
                await self._changed.wait()

    async def offer(self) -> str:
        with offering_loopback(True):
            await self.pc.setLocalDescription(await self.pc.createOffer())
        return self.pc.localDescription.sdp

    async def connect(self, peer: Peer) -> None:
        await self.accept(await peer.answer(await self.offer()))

    async def accept(self, answer: str) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))

    async def until_open(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.opened.wait()

    def ssrc(self, kind: str) -> int:
        return next(s._ssrc for s in self.pc.getSenders() if s.kind == kind)

    def filter(self, keeps: Callable[[int, int], bool]) -> None:
        """Let only those packets out of which ``keeps(ssrc, sequence)`` is true."""
        transport = self.pc.getSenders()[0].transport
        send = transport._send_rtp

        async def filtered(data: bytes) -> None:
            ssrc, sequence = int.from_bytes(data[8:12], "big"), int.from_bytes(data[2:4], "big")
            if is_rtcp(data) or keeps(ssrc, sequence):
                await send(data)

        setattr(transport, "_send_rtp", filtered)  # noqa: B010 - mypy forbids the assignment

    async def send_raw(self, data: bytes) -> None:
        """Send what may be no proper packet, encrypted as one."""
        await self.pc.getSenders()[0].transport._send_rtp(data)

    def kill(self) -> None:
        """Vanish without a word, as a client does whose machine is switched off."""
        for transceiver in self.pc.getTransceivers():
            ice = transceiver.receiver.transport.transport._connection
            for protocol in ice._protocols:
                protocol.transport.abort()

    async def close(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.pc.close()


@asynccontextmanager
async def running(
    peer: Peer, client: Client, feed: Feed, *, connecting: bool = True
) -> AsyncIterator[asyncio.Task[None]]:
    """``peer.run(feed)`` beside the block, which ends it and its client.

    What the peer raises is for the test to find in the task.
    """
    try:
        if connecting:
            await client.connect(peer)
        task = asyncio.create_task(peer.run(feed))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})
    finally:
        await peer.close()
        await client.close()


async def ends(task: asyncio.Task[None]) -> None:
    """Wait for the end of a peer; raises what it raised."""
    async with asyncio.timeout(WAIT_S):
        await task


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; for what tells nobody when it changes."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
