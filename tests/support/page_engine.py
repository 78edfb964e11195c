"""A small engine for tests of the page: it serves the folder, answers WHIP by aiortc, and says
over the data channel what the test tells it to.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aioice.ice
import uvicorn
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.contrib.media import MediaBlackhole
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from counterpoint.engine.server.answers import SECURITY_HEADERS

PAGE = Path(__file__).parents[2] / "engine/counterpoint/engine/server/page"
WAIT_S = 20

HEADS = {
    "emotion": ["neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"],
    "sentiment": ["negative", "neutral", "positive"],
}

TERMS: dict[str, Any] = {
    "version": "1",
    "purpose": {
        "profile": "research",
        "text": "Emotion and sentiment are inferred to show how the engine works.",
        "heads": ["emotion", "sentiment"],
        "media_stored": False,
    },
    "consent": "Camera, microphone and chat are analysed by this engine while you are connected.",
    "ice_servers": [],
    "token_required": False,
}


@dataclass(slots=True, kw_only=True)
class Peer:
    """One page that joined, as the engine sees it."""

    number: int
    session: str
    participant: str
    authorization: str | None
    connection: RTCPeerConnection
    offer: str
    inbox: list[dict[str, Any]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    channel: RTCDataChannel | None = None
    sink: MediaBlackhole = field(default_factory=MediaBlackhole)

    def send(self, message: Mapping[str, Any] | str | bytes) -> None:
        assert self.channel is not None, "the channel is not open yet"
        self.channel.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def close(self) -> None:
        await self.sink.stop()
        await self.connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What WHIP answers instead of 201."""

    status: int
    error: str = "refused"
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class PageEngine:
    """Everything happens on the loop that `open` was called on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[tuple[str, str]] = []
        self.deleted: list[tuple[str, str | None]] = []
        self.peers: list[Peer] = []
        self.refuse: Refusal | None = None
        self.terms = TERMS
        self.pongs = True
        self.clock_ahead_ms = 0.0
        self.echo = True
        self._changed = asyncio.Condition()

    def now_ms(self) -> float:
        """The engine's wall clock, which may differ from the page's."""
        return time.time() * 1e3 + self.clock_ahead_ms

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until something is so, looked at whenever anything has happened."""
        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(done)

    async def peer(self, number: int = 0) -> Peer:
        """The page's connection of that number, its channel open."""
        await self.until(
            lambda: len(self.peers) > number and self.peers[number].channel is not None
        )
        return self.peers[number]

    def said(self, kind: str) -> list[dict[str, Any]]:
        """Messages of a type that pages sent, in order of connections."""
        return [m for peer in self.peers for m in peer.inbox if m.get("type") == kind]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _terms(self, _: Request) -> Response:
        return JSONResponse(self.terms)

    async def _join(self, request: Request) -> Response:
        if self.refuse is not None:
            body = {"error": self.refuse.error, "message": self.refuse.message}
            await self._notify()
            return JSONResponse(body, self.refuse.status, headers=self.refuse.headers)
        assert request.headers["content-type"] == "application/sdp"
        offer = (await request.body()).decode()
        peer = Peer(
            number=len(self.peers),
            session=request.path_params["session"],
            participant=request.query_params["participant"],
            authorization=request.headers.get("authorization"),
            connection=RTCPeerConnection(RTCConfiguration(iceServers=[])),
            offer=offer,
        )
        self._listen(peer)
        await peer.connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await peer.connection.setLocalDescription(await peer.connection.createAnswer())
        await peer.sink.start()
        self.peers.append(peer)
        await self._notify()
        location = f"{request.url.path}/{peer.number}"
        answer = peer.connection.localDescription.sdp
        return Response(answer, 201, headers={"Location": location}, media_type="application/sdp")

    def _listen(self, peer: Peer) -> None:
        @peer.connection.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            peer.kinds.append(track.kind)
            peer.sink.addTrack(track)

        @peer.connection.on("datachannel")
        async def on_channel(channel: RTCDataChannel) -> None:
            peer.channel = channel
            names = [*dict.fromkeys(other.participant for other in [*self.peers, peer])]
            peer.send(
                {
                    "type": "hello",
                    "session": peer.session,
                    "participant": peer.participant,
                    "heads": HEADS,
                    "participants": names,
                }
            )

            @channel.on("message")
            async def on_message(data: str | bytes) -> None:
                self._answer(peer, json.loads(data))
                await self._notify()

            await self._notify()

    def _answer(self, peer: Peer, message: dict[str, Any]) -> None:
        peer.inbox.append(message)
        if message["type"] == "ping" and self.pongs:
            pong = {"type": "pong", "id": message["id"], "engine_wall_ms": self.now_ms()}
            peer.send(pong)
        if message["type"] == "chat" and self.echo:
            line = {"type": "chat", "author": peer.participant, "text": message["text"]}
            peer.send(line)

    async def _leave(self, request: Request) -> Response:
        self.deleted.append((request.url.path, request.headers.get("authorization")))
        peer = self.peers[request.path_params["number"]]
        await peer.close()
        await self._notify()
        return Response(status_code=200)

    async def _watch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        self.requests.append((request.method, request.url.path))
        response = await call_next(request)
        response.headers.update(SECURITY_HEADERS)
        return response

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/terms", self._terms),
                Route("/whip/{session}", self._join, methods=["POST"]),
                Route("/whip/{session}/{number:int}", self._leave, methods=["DELETE"]),
                Mount("/page", StaticFiles(directory=PAGE)),
                Route("/", lambda _: FileResponse(PAGE / "index.html")),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._watch)],
        )

    async def close(self) -> None:
        for peer in self.peers:
            await peer.close()


def _addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    return ["127.0.0.1"]


@asynccontextmanager
async def open_page_engine() -> AsyncIterator[PageEngine]:
    """The engine, serving on a free port of 127.0.0.1 until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        engine = PageEngine(f"http://127.0.0.1:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            engine.app(), lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(config)
        # aioice never offers 127.0.0.1 by itself; here it is all that is needed.
        with patch.object(aioice.ice, "get_host_addresses", _addresses):
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield engine
            finally:
                await engine.close()
                server.should_exit = True
                await serving


def wall(ms: float) -> str:
    """Milliseconds since the Unix epoch as the schema writes them."""
    whole = int(ms)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole // 1000)) + f".{whole % 1000:03d}Z"


def document(window: int, end_ms: float, **changes: Any) -> dict[str, Any]:
    """A prediction document that ends at that instant of the engine's wall clock."""
    shares = {
        "emotion": [0.52, 0.3, 0.05, 0.04, 0.03, 0.02, 0.04],
        "sentiment": [0.1, 0.25, 0.65],
    }
    report = {"state": "present", "reason": None, "coverage": 1.0, "age_ns": 20_000_000}
    fields: dict[str, Any] = {
        "schema_version": 1,
        "session": "demo",
        "epoch": 0,
        "window": window,
        "start_ns": (window - 12) * 250_000_000,
        "end_ns": window * 250_000_000,
        "start_wall": wall(end_ms - 3_000),
        "end_wall": wall(end_ms),
        "emitted_wall": wall(end_ms + 18),
        "status": "final",
        "revision": 0,
        "heads": {
            name: {"labels": labels, "probabilities": shares[name]}
            for name, labels in HEADS.items()
        },
        "modalities": {
            "video": {
                **report,
                "contributions": {
                    "emotion": [1.2, 3.1, -0.5, -1.0, -0.2, -0.4, 0.6],
                    "sentiment": [-1.2, 0.2, 2.1],
                },
            },
            "audio": {
                **report,
                "state": "partial",
                "reason": "gaps",
                "coverage": 2 / 3,
                "age_ns": 0,
                "contributions": {
                    "emotion": [0.4, -0.3, 0.1, 0.8, 0.0, -0.2, 0.1],
                    "sentiment": [0.7, -0.1, -0.2],
                },
            },
            "chat": {
                **report,
                "state": "silent",
                "reason": "no lines",
                "age_ns": None,
                "contributions": {"emotion": [0.0] * 7, "sentiment": [0.0] * 3},
            },
        },
        "align_error_ms": 5.0,
        "align_tier": "sr",
        "skipped_windows": 0,
        "dropped": {},
        "stages_ms": {"models": 9.5},
        "bundle": {"id": "affect", "digest": "0123456789ab"},
    }
    return fields | changes


def prediction(
    window: int, end_ms: float, participant: str | None = None, **changes: Any
) -> dict[str, Any]:
    """The message that carries a document."""
    body = document(window, end_ms, **changes)
    return {"type": "prediction", "participant": participant, "document": body}
