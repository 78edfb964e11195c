"""The server on a loopback port, and clients for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette

from counterpoint.engine.server.app import make_app
from counterpoint.engine.server.serve import serving
from counterpoint.engine.server.settings import ServerSettings
from counterpoint.streams.runtime import SystemRuntime
from tests.support.live_sessions import FakeLiveSessions

SDP = {"Content-Type": "application/sdp"}


@dataclass(slots=True)
class Served:
    """A server under test, and a client of it."""

    url: str
    sessions: FakeLiveSessions
    client: httpx2.AsyncClient
    app: Starlette

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def raw(self, request: bytes) -> bytes:
        """Send bytes on a connection of their own, and read one answer, or to the end."""
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(request)
                return await _answer(reader)
            finally:
                writer.close()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (line := await reader.readline()):
            return head
        head += line
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)
    return head + await (reader.readexactly(int(length[1])) if length else reader.read())


@asynccontextmanager
async def served(
    *, sessions: FakeLiveSessions | None = None, verify: Any = True, **changes: Any
) -> AsyncIterator[Served]:
    """Serve with these settings while the body lasts; the rate is out of the way unless given."""
    settings = ServerSettings(**({"requests_per_s": 1e6, "request_burst": 10_000} | changes))
    fake = FakeLiveSessions() if sessions is None else sessions
    with SystemRuntime() as runtime:
        app = make_app(fake, settings, runtime)
        async with (
            serving(app, settings, runtime) as url,
            httpx2.AsyncClient(base_url=url, verify=verify, timeout=30) as client,
        ):
            yield Served(url=url, sessions=fake, client=client, app=app)


def refusal(response: httpx2.Response) -> tuple[int, str]:
    """Status and reason word of an error, whose form is checked."""
    document = response.json()
    assert set(document) == {"error", "message"}
    assert document["message"]
    assert "\n" not in document["message"]
    return response.status_code, document["error"]


def refusal_in(answer: bytes) -> tuple[int, str]:
    """The same of an answer as it came over the wire."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["error"]


def page_folder(tmp_path: Path) -> Path:
    """A small page."""
    (tmp_path / "index.html").write_text("<!doctype html><title>page</title>", encoding="utf-8")
    (tmp_path / "main.js").write_text("export const one = 1\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not for anyone", encoding="utf-8")
    (tmp_path / ".hidden.js").write_text("not for anyone", encoding="utf-8")
    return tmp_path


def request_head(method: str, path: str, *headers: str) -> bytes:
    """A request without a body, or its head."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def until_cut_off(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send that piece over and over until the server ends the connection."""
    async with asyncio.timeout(30):
        while not writer.transport.is_closing():
            writer.write(piece)
            await asyncio.sleep(0.005)
    writer.close()
