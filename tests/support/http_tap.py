"""A relay in front of a server that keeps what went through it: what a client really said."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"^([A-Z]+) (\S+) HTTP/1\.[01]\r\n(.*?)\r\n\r\n", re.DOTALL | re.MULTILINE)
_ANSWER = re.compile(rb"^HTTP/1\.[01] (\d{3})[^\r]*\r\n(.*?)\r\n\r\n", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request that was answered, or not yet (``status`` 0). Names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: str
    status: int
    answer_headers: dict[str, str]
    answer_body: str


class HttpTap:
    """Attributes: url, of the relay."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self._upstream = (parts.hostname, parts.port)
        self.url = ""
        self._kept: list[tuple[bytearray, bytearray]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def exchanges(self, method: str | None = None) -> list[Exchange]:
        """In the order of their connections; those of one method if one is given."""
        found = [e for there, back in self._kept for e in _parse(bytes(there), bytes(back))]
        return [e for e in found if method is None or e.method == method]

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = bytearray(), bytearray()
        self._kept.append((there, back))
        server_reader, server_writer = await asyncio.open_connection(*self._upstream)
        await asyncio.gather(
            _pass_on(reader, server_writer, there), _pass_on(server_reader, writer, back)
        )


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray
) -> None:
    try:
        while data := await reader.read(65_536):
            kept += data
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        kept += b""  # one side is gone; so is then the other
    finally:
        writer.close()


def _parse(there: bytes, back: bytes) -> list[Exchange]:
    requests, answers = list(_REQUEST.finditer(there)), list(_ANSWER.finditer(back))
    exchanges = []
    for index, request in enumerate(requests):
        answer = answers[index] if index < len(answers) else None
        headers = _headers(request[3])
        answer_headers = {} if answer is None else _headers(answer[2])
        exchanges.append(
            Exchange(
                method=request[1].decode(),
                path=request[2].decode(),
                headers=headers,
                body=_body(there, request.end(), headers),
                status=0 if answer is None else int(answer[1]),
                answer_headers=answer_headers,
                answer_body="" if answer is None else _body(back, answer.end(), answer_headers),
            )
        )
    return exchanges


def _headers(lines: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines.decode("latin-1").split("\r\n"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _body(data: bytes, start: int, headers: dict[str, str]) -> str:
    return data[start : start + int(headers.get("content-length", "0"))].decode()


@asynccontextmanager
async def http_tap(upstream: str) -> AsyncIterator[HttpTap]:
    """Relay to ``upstream`` (a URL without a path) while the block lasts."""
    tap = HttpTap(upstream)
    server = await asyncio.start_server(tap.relay, "127.0.0.1", 0)
    tap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield tap
