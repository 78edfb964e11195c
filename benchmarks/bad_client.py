"""A client that misbehaves, one way at a time, and what it is answered.

It comes from another address of loopback than well-behaved clients (127.0.0.2), as an attacker
would; its connection for data channels it shares with nobody. It runs only where nothing else
wants to (`sched(7)`, SCHED_IDLE): a client elsewhere would take no time of this machine's.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from multiprocessing.connection import Connection as Pipe
from typing import Any

import httpx2
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from counterpoint.engine.server.auth import mint
from counterpoint.streams.webrtc.adapter import offering_loopback

ADDRESS = "127.0.0.2"
REQUESTS_PER_S = 100
LINES_PER_S = 1_000
BURST = 10  # lines at once
LARGE_PER_S = 5
MEGABYTE = 1_000_000
BUFFERED = 4 * MEGABYTE
SDP = "application/sdp"
Answers = Counter[str]


class BadClient:
    """Made by `bad_client`.

    Args:
        url: of the server.
        secret: what its tokens are signed with.
    """

    def __init__(self, url: str, secret: bytes, http: httpx2.AsyncClient) -> None:
        self.answers: Answers = Counter()
        self._url = url
        self._secret = secret
        self._http = http
        self._begin()
        self.offer = ""
        self.ways: Mapping[str, Callable[[float], Any]] = {
            "nothing": asyncio.sleep,
            "malformed SDP": self._malformed,
            "offers that never connect": self._never_connects,
            "oversized bodies": self._oversized,
            "wrong tokens": self._wrong_tokens,
            "a megabyte of chat, HTTP": self._large_line,
            "a megabyte of chat, data channel": self._large_message,
            "binary on the chat channel": self._binary,
            "1,000 lines a second": self._lines,
        }

    def _token(self, *, key: bytes | None = None, valid_s: int = 3_600, age_s: int = 0) -> str:
        return mint(
            key or self._secret,
            now_ns=time.time_ns() - age_s * 1_000_000_000,
            valid_s=valid_s,
            sessions=["bad"],
            rights=["publish", "chat"],
        )

    def _headers(self, media_type: str, token: str | None = None) -> dict[str, str]:
        return {"Content-Type": media_type, "Authorization": f"Bearer {token or self._token()}"}

    def _begin(self) -> None:
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel = self._pc.createDataChannel("counterpoint")
        self._opened = asyncio.Event()
        self._channel.on("open", self._opened.set)
        self._channel.on("message", self._take)

    async def connect(self) -> None:
        """A data channel of its own, properly joined: no media."""
        with offering_loopback(False):
            await self._pc.setLocalDescription(await self._pc.createOffer())
        self.offer = self._pc.localDescription.sdp
        answer = await self._http.post(
            f"{self._url}/whip/bad", content=self.offer, headers=self._headers(SDP)
        )
        answer.raise_for_status()
        await self._pc.setRemoteDescription(RTCSessionDescription(sdp=answer.text, type="answer"))
        async with asyncio.timeout(30):
            await self._opened.wait()

    async def close(self) -> None:
        await self._pc.close()

    def _take(self, message: str | bytes) -> None:
        said = json.loads(message)
        if said["type"] == "error":
            # How long to wait is another each time.
            self.answers[f"data channel: {said['reason'].partition('; wait')[0]}"] += 1
        elif said["type"] != "prediction":
            self.answers[f"data channel: taken ({said['type']})"] += 1

    async def misbehave(self, way: str, seconds: float) -> dict[str, int]:
        """That way for so long; what it was answered, each with how often."""
        if self._channel.readyState != "open":
            await self._pc.close()
            self._begin()
            await self.connect()
        self.answers.clear()
        await self.ways[way](seconds)
        return dict(self.answers)

    # -- over HTTP -------------------------------------------------------------------------------

    async def _post(self, path: str, content: Any, headers: dict[str, str]) -> None:
        try:
            answer = await self._http.post(self._url + path, content=content, headers=headers)
        except httpx2.TransportError as error:
            self.answers[f"cut off ({type(error).__name__})"] += 1
            return
        reason = "taken" if answer.is_success else answer.json().get("error", "?")
        self.answers[f"{answer.status_code} {reason}"] += 1

    async def _paced(self, seconds: float, per_s: float) -> AsyncIterator[int]:
        loop = asyncio.get_running_loop()
        began, number = loop.time(), 0
        while (at := loop.time() - began) < seconds:
            yield number
            number += 1
            await asyncio.sleep(max(0.0, number / per_s - at))

    async def _malformed(self, seconds: float) -> None:
        half = self.offer[: len(self.offer) // 2]
        bad = (
            "",
            "v=0\r\n",
            "hello\r\n" * 100,
            "\x00\x01\x02" * 1_000,
            half,
            self.offer.replace("a=fingerprint:", "a=finger:"),
            self.offer.replace("a=ice-ufrag", "a=ice-nothing"),
            self.offer + "a=candidate:1 1 udp x x x typ host\r\n",
            self.offer + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n" * 500,
            "v=0\r\n" + "a=x\r\n" * 10_000,
        )
        async for number in self._paced(seconds, REQUESTS_PER_S):
            await self._post("/whip/bad?participant=x", bad[number % len(bad)], self._headers(SDP))

    async def _never_connects(self, seconds: float) -> None:
        async for _ in self._paced(seconds, REQUESTS_PER_S):
            await self._post("/whip/bad?participant=x", self.offer, self._headers(SDP))

    async def _oversized(self, seconds: float) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(16):
                yield b"x" * (MEGABYTE // 16)

        whole = b"v=0\r\n" + b"x" * MEGABYTE
        async for number in self._paced(seconds, REQUESTS_PER_S / 4):
            body = pieces() if number % 2 else whole
            await self._post("/whip/bad?participant=x", body, self._headers(SDP))

    async def _wrong_tokens(self, seconds: float) -> None:
        tokens = (
            self._token(key=b"another secret, just as long as the right one"),
            self._token(age_s=7_200, valid_s=60),
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
            self._token()[:-4] + "AAAA",
            "x" * 4_000,
        )
        async for number in self._paced(seconds, REQUESTS_PER_S):
            session = "bad" if number % 2 else "good-0"
            headers = self._headers(SDP, tokens[number % len(tokens)])
            await self._post(f"/whip/{session}", self.offer, headers)

    async def _large_line(self, seconds: float) -> None:
        body = json.dumps({"author": "x", "text": "x" * MEGABYTE})
        async for _ in self._paced(seconds, REQUESTS_PER_S / 4):
            await self._post("/sessions/bad/chat", body, self._headers("application/json"))

    # -- over the data channel -------------------------------------------------------------------

    async def _large_message(self, seconds: float) -> None:
        # What the engine says that it takes at most, a client that misbehaves does not heed.
        sctp = self._pc.sctp
        assert sctp is not None
        sctp._remote_max_message_size = 0  # noqa: SLF001 - 0: without a limit
        line = json.dumps({"type": "chat", "text": "x" * MEGABYTE})
        async for _ in self._paced(seconds, LARGE_PER_S):
            self._send(line)

    async def _binary(self, seconds: float) -> None:
        async for _ in self._paced(seconds, REQUESTS_PER_S):
            self._send(os.urandom(1_000))

    async def _lines(self, seconds: float) -> None:
        line = json.dumps({"type": "chat", "text": "look at me"})
        async for _ in self._paced(seconds, LINES_PER_S / BURST):
            for _ in range(BURST):
                self._send(line)

    def _send(self, message: str | bytes) -> None:
        if self._channel.readyState != "open":
            self.answers["the channel is closed"] += 1
        elif self._channel.bufferedAmount > BUFFERED:
            self.answers["not sent: the engine takes no more (flow control)"] += 1
        else:
            self._channel.send(message)
            self.answers["sent"] += 1


def bad_client(pipe: Pipe, url: str, secret: bytes) -> None:
    """A process: each pair (way, seconds) over the pipe is done and answered; None ends it."""
    if hasattr(os, "SCHED_IDLE"):
        # What is only nice still takes its turn of some milliseconds.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)
    asyncio.run(_serve(pipe, url, secret))


async def _serve(pipe: Pipe, url: str, secret: bytes) -> None:
    loop = asyncio.get_running_loop()
    transport = httpx2.AsyncHTTPTransport(local_address=ADDRESS)
    async with httpx2.AsyncClient(transport=transport, timeout=30.0) as http:
        client = BadClient(url, secret, http)
        await client.connect()
        pipe.send(list(client.ways))
        while (asked := await loop.run_in_executor(None, pipe.recv)) is not None:
            pipe.send(await client.misbehave(*asked))
        await client.close()
