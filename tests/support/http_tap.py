"""A relay in front of a server that keeps what went through it: what a client really said."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r\n(.*?)\r\n\r\n", re.DOTALL)
_ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r]*\r\n(.*?)\r\n\r\n", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request that was answered, or not yet (``status`` 0). Names of headers in lower case.

    ``number`` counts the pieces that came from clients, up to that of its first byte.
    """

    number: int
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
        self._kept: list[tuple[_Way, _Way]] = []
        self._pieces = itertools.count()

    def exchanges(self, method: str | None = None) -> list[Exchange]:
        """In the order in which they were asked; those of one method if one is given."""
        found = [e for there, back in self._kept for e in _parse(there, bytes(back.data))]
        found = [e for e in found if method is None or e.method == method]
        return sorted(found, key=lambda exchange: exchange.number)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = _Way(self._pieces), _Way(self._pieces)
        self._kept.append((there, back))
        server_reader, server_writer = await asyncio.open_connection(*self._upstream)
        await asyncio.gather(
            _pass_on(reader, server_writer, there), _pass_on(server_reader, writer, back)
        )


class _Way:
    """One direction of a connection."""

    def __init__(self, pieces: Iterator[int]) -> None:
        self.data = bytearray()
        self._pieces = pieces
        self._starts: list[tuple[int, int]] = []  # of each piece: its offset, its number

    def keep(self, data: bytes) -> None:
        self._starts.append((len(self.data), next(self._pieces)))
        self.data += data

    def number_at(self, offset: int) -> int:
        """Number of the piece that holds that byte."""
        return max(number for start, number in self._starts if start <= offset)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: _Way) -> None:
    try:
        # One side that is gone takes the other with it.
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                kept.keep(data)
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


def _parse(way: _Way, back: bytes) -> list[Exchange]:
    """One connection's requests with their answers, as far as they came; none is in chunks."""
    exchanges = []
    there = bytes(way.data)
    while (request := _REQUEST.match(there)) is not None:
        number = way.number_at(len(way.data) - len(there))
        headers = _headers(request[3])
        body, there = _split(there[request.end() :], headers)
        status, answer_headers, answer_body = 0, dict[str, str](), b""
        if (answer := _ANSWER.match(back)) is not None:
            status, answer_headers = int(answer[1]), _headers(answer[2])
            bare = request[1] == b"HEAD" or status in (204, 304)
            answer_body, back = _split(back[answer.end() :], {} if bare else answer_headers)
        exchanges.append(
            Exchange(
                number=number,
                method=request[1].decode(),
                path=request[2].decode(),
                headers=headers,
                body=body.decode(),
                status=status,
                answer_headers=answer_headers,
                answer_body=answer_body.decode(errors="replace"),
            )
        )
    return exchanges


def _headers(lines: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines.decode("latin-1").split("\r\n"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _split(data: bytes, headers: dict[str, str]) -> tuple[bytes, bytes]:
    """A body, and what comes after it."""
    length = int(headers.get("content-length", "0"))
    return data[:length], data[length:]


@asynccontextmanager
async def http_tap(upstream: str) -> AsyncIterator[HttpTap]:
    """Relay to ``upstream`` (a URL without a path) while the block lasts."""
    tap = HttpTap(upstream)
    server = await asyncio.start_server(tap.relay, "127.0.0.1", 0)
    tap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield tap
