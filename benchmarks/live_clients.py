"""Browser-like clients without a browser: what they send is encoded before, so they cost little.

Each sends VP8 pictures and Opus sound in a loop at the pace of real time, writes lines of chat over
a data channel and notes when predictions come back there, and how long after their window's end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx2
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from counterpoint.engine.sources import DEMO_FOLDER
from counterpoint.streams.webrtc.adapter import offering_loopback

FPS = 30
WIDTH, HEIGHT = 640, 480
VIDEO_HZ, SOUND_HZ = 90_000, 48_000
PACKET = SOUND_HZ // 50
BIT_RATE = 800_000
CHAT_EVERY_S = 5.0
JOIN_S = 30.0
LINES = ("this is going well", "I do not like that", "wow", "could you say that again?", "no :(")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What every client sends, again and again.

    Fields:
        pictures: VP8 frames, 30 a second; the first of each second needs no other.
        sound: Opus packets of 20 ms.
    """

    pictures: list[bytes]
    sound: list[bytes]


def encode(seconds: int, clip: Path = DEMO_FOLDER / "session.mp4") -> Encoded:
    """The beginning of a clip as a browser would send it: 640x480 at 30 a second."""
    with av.open(str(clip)) as container:
        frames = _at_rate(container, seconds)
    encoder = av.CodecContext.create("libvpx", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base, encoder.bit_rate = Fraction(1, FPS), BIT_RATE
    encoder.options = {"lag-in-frames": "0", "deadline": "realtime", "cpu-used": "-8"}
    pictures: list[bytes] = []
    for number, frame in enumerate(frames):
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        frame.pict_type = PictureType.NONE if number % FPS else PictureType.I
        pictures += [bytes(packet) for packet in encoder.encode(frame)]
    return Encoded(pictures=pictures, sound=_sound(clip, seconds))


def _at_rate(container: Any, seconds: int) -> list[av.VideoFrame]:
    """Pictures of the wanted size, one each thirtieth of a second."""
    frames: list[av.VideoFrame] = []
    for frame in container.decode(video=0):
        while len(frames) < seconds * FPS and len(frames) / FPS <= frame.time:
            frames.append(frame.reformat(width=WIDTH, height=HEIGHT, format="yuv420p"))
        if len(frames) >= seconds * FPS:
            break
    # One picture may stand for several instants, and each is to have a time of its own.
    return [av.VideoFrame.from_ndarray(f.to_ndarray(), format="yuv420p") for f in frames]


def _sound(clip: Path, seconds: int) -> list[bytes]:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SOUND_HZ, frame_size=PACKET)
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = SOUND_HZ, "mono", "s16"
    encoder.time_base, encoder.bit_rate = Fraction(1, SOUND_HZ), 32_000
    packets: list[bytes] = []
    with av.open(str(clip)) as container:
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                packets += [bytes(packet) for packet in encoder.encode(part)]
                if len(packets) >= seconds * 50:
                    return packets
    return packets


class LoopTrack(MediaStreamTrack):
    """Encoded media at the pace of real time, until `pause`."""

    def __init__(self, kind: str, packets: list[bytes], rate_hz: int, step: int) -> None:
        super().__init__()
        self.kind = kind
        self.sent = 0
        self._packets = packets
        self._rate_hz = rate_hz
        self._step = step
        self._began = 0.0
        self._going = asyncio.Event()
        self._going.set()

    def pause(self) -> None:
        """Send nothing more."""
        self._going.clear()

    async def recv(self) -> Any:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        self._began = self._began or loop.time()
        await asyncio.sleep(self._began + self.sent * self._step / self._rate_hz - loop.time())
        await self._going.wait()
        packet = av.Packet(self._packets[self.sent % len(self._packets)])
        packet.pts, packet.time_base = self.sent * self._step, Fraction(1, self._rate_hz)
        self.sent += 1
        return packet


@dataclass(slots=True)
class Windows:
    """What came of one voice: a participant, or the session.

    Fields:
        came: windows whose prediction came; revisions are not counted.
        stated: windows that predictions said were skipped.
        missing: windows between two that came that nobody spoke of; repeats count negative.
    """

    came: int = 0
    stated: int = 0
    missing: int = 0
    last: int | None = None
    dropped: Counter[str] = field(default_factory=Counter)

    def take(self, document: dict[str, Any]) -> bool:
        """Note a prediction. False for a revision of a window that was there before."""
        self.dropped.update(document["dropped"])
        if document["revision"]:
            return False
        window, skipped = document["window"], document["skipped_windows"]
        self.came += 1
        if self.last is not None:
            self.stated += skipped
            self.missing += window - self.last - 1 - skipped
        self.last = window
        return True


class LiveClient:
    """One participant of one session.

    Attributes:
        delays: (seconds from window end until the engine made it, until it arrived here), of the
            participant's own predictions; who reads them may empty it.
        gone: the data channel was closed, and not by `leave`.
        own, whole: windows of the participant and of the session.
        answered: what came other than predictions, by type.
    """

    def __init__(
        self, url: str, session: str, encoded: Encoded, *, token: str | None = None
    ) -> None:
        self.session = session
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.video = LoopTrack("video", encoded.pictures, VIDEO_HZ, VIDEO_HZ // FPS)
        self.audio = LoopTrack("audio", encoded.sound, SOUND_HZ, PACKET)
        self.pc.addTrack(self.video)
        self.pc.addTrack(self.audio)
        self.channel = self.pc.createDataChannel("counterpoint")
        self.channel.on("message", self._take)
        self.delays: list[tuple[float, float]] = []
        self.own = Windows()
        self.whole = Windows()
        self.answered: Counter[str] = Counter()
        self.lines = 0
        self._url = url
        self._headers = {"Content-Type": "application/sdp"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._opened = asyncio.Event()
        self.channel.on("open", self._opened.set)
        self._location = ""

    async def join(self, http: httpx2.AsyncClient) -> httpx2.Response:
        """Connect. The answer of the server, which may be a refusal."""
        with offering_loopback(False):
            await self.pc.setLocalDescription(await self.pc.createOffer())
        answer = await http.post(
            f"{self._url}/whip/{self.session}?participant=ann",
            content=self.pc.localDescription.sdp,
            headers=self._headers,
        )
        if answer.status_code == 201:
            self._location = answer.headers["Location"]
            described = RTCSessionDescription(sdp=answer.text, type="answer")
            await self.pc.setRemoteDescription(described)
            async with asyncio.timeout(JOIN_S):
                await self._opened.wait()
        return answer

    async def chat(self) -> None:
        """A line each few seconds, until cancelled or gone."""
        while not self.gone:
            line = LINES[self.lines % len(LINES)]
            self.channel.send(json.dumps({"type": "chat", "text": line}))
            self.lines += 1
            await asyncio.sleep(CHAT_EVERY_S)

    @property
    def gone(self) -> bool:
        return self.channel.readyState != "open"

    def pause(self) -> None:
        """Send no more media; the connection stays."""
        self.video.pause()
        self.audio.pause()

    async def rtp_sent(self) -> dict[str, int]:
        """RTP packets sent so far, by kind."""
        sent: dict[str, int] = {}
        for stats in (await self.pc.getStats()).values():
            if stats.type == "outbound-rtp":
                sent[stats.kind] = stats.packetsSent
        return sent

    async def leave(self, http: httpx2.AsyncClient) -> None:
        """Say good-bye and close."""
        if self._location:
            await http.delete(self._url + self._location, headers=self._headers)
        await self.pc.close()

    def _take(self, message: str | bytes) -> None:
        came = time.time()
        said = json.loads(message)
        if said["type"] != "prediction":
            self.answered[said["type"]] += 1
            return
        document = said["document"]
        if said["participant"] is None:
            self.whole.take(document)
        elif self.own.take(document):
            ended = datetime.fromisoformat(document["end_wall"]).timestamp()
            made = datetime.fromisoformat(document["emitted_wall"]).timestamp()
            self.delays.append((made - ended, came - ended))


def percentiles_ms(seconds: list[float]) -> dict[str, float | None]:
    """p50, p99 and the greatest, milliseconds; None of nothing."""
    if not seconds:
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = np.percentile(seconds, [50, 99]) * 1_000
    return {
        "p50": round(float(p50), 1),
        "p99": round(float(p99), 1),
        "max": round(max(seconds) * 1_000, 1),
    }
