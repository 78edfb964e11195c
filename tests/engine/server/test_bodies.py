"""What comes over a connection and is too large, too slow, or no request at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.http_server import (
    SDP,
    refusal,
    refusal_in,
    request_head,
    served,
    until_cut_off,
)
from tests.support.live_sessions import OFFER

MEGABYTE = b"x" * 1_000_000
JSON = {"Content-Type": "application/json"}


def test_a_megabyte_of_chat_is_refused_and_the_server_goes_on() -> None:
    async def run() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(MEGABYTE), 10_000):
                yield MEGABYTE[start : start + 10_000]

        async with served() as server:
            server.sessions.sessions["show"] = set()
            for content in (MEGABYTE, pieces()):
                answer = await server.client.post(
                    "/sessions/show/chat", content=content, headers=JSON
                )
                assert refusal(answer) == (413, "size")
            assert server.sessions.chats == []
            line = {"author": "ann", "text": "still here"}
            assert (await server.client.post("/sessions/show/chat", json=line)).status_code == 204

    asyncio.run(run())


def test_the_limit_is_the_limit() -> None:
    async def run() -> None:
        async with served(max_body_bytes=1_024) as server:
            fitting = OFFER + "a=x" * ((1_024 - len(OFFER)) // 3)
            fitting += "y" * (1_024 - len(fitting))
            answer = await server.client.post("/whip/show", content=fitting, headers=SDP)
            assert answer.status_code == 201
            answer = await server.client.post("/whip/show", content=fitting + "z", headers=SDP)
            assert refusal(answer) == (413, "size")

    asyncio.run(run())


def test_a_body_that_says_too_little_of_itself_is_still_counted() -> None:
    async def run() -> None:
        async with served(max_body_bytes=1_024) as server:
            request = request_head("POST", "/whip/show", "Content-Type: application/sdp")[:-2]
            request += b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"v" * 1_024 + b"\r\n"
            assert refusal_in(await server.raw(request + b"1\r\nv\r\n")) == (413, "size")
            assert server.sessions.joined == []

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"", b"v=0\r\n"])
def test_a_slow_body_is_not_waited_for(body: bytes) -> None:
    async def run() -> None:
        async with served(body_timeout_s=0.1) as server:
            request = request_head(
                "POST", "/whip/show", "Content-Type: application/sdp", "Content-Length: 100"
            )
            assert refusal_in(await server.raw(request + body)) == (408, "slow")
            assert server.sessions.joined == []

    asyncio.run(run())


def test_a_slow_head_is_not_waited_for() -> None:
    async def run() -> None:
        async with served(header_timeout_s=0.1) as server:
            assert await server.raw(b"") == b""
            assert await server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-") == b""
            # One request done, the next one begun.
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(request_head("GET", "/healthz"))
                assert (await reader.readuntil(b"\r\n\r\nok\n")).startswith(b"HTTP/1.1 200 ")
                writer.write(b"GET")
                assert await reader.read() == b""
                writer.close()

    asyncio.run(run())


def test_a_head_that_trickles_gains_no_time() -> None:
    async def run() -> None:
        async with served(header_timeout_s=0.3) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            await until_cut_off(writer, b"G")

    asyncio.run(run())


@pytest.mark.parametrize(("header_timeout_s", "piece"), [(0.3, b"hello"), (30.0, b"x" * 100_000)])
def test_what_nobody_wants_is_read_neither_for_ever_nor_at_any_size(
    header_timeout_s: float, piece: bytes
) -> None:
    async def run() -> None:
        async with served(header_timeout_s=header_timeout_s) as server, asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request_head("POST", "/nothing", "Transfer-Encoding: chunked"))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b" 404 " in answer
            await until_cut_off(writer, b"%x\r\n%s\r\n" % (len(piece), piece))
            assert (await server.client.get("/healthz")).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 20_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"no http at all\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /whip/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_400_and_closed(request_bytes: bytes) -> None:
    async def run() -> None:
        async with served() as server:
            assert (await server.raw(request_bytes)).startswith(b"HTTP/1.1 400 ")
            assert (await server.client.get("/healthz")).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    "request_bytes",
    [
        request_head("GET", "/", "X-Long: " + "x" * 20_000),
        request_head("GET", "/" + "x" * 20_000),
        request_head("GET", "/?" + "x" * 20_000),
        request_head("GET", "/", *["X: yyyyyyyyyyyyy"] * 1_500),
    ],
)
def test_a_long_head_in_one_piece_is_refused(request_bytes: bytes) -> None:
    async def run() -> None:
        async with served() as server:
            assert refusal_in(await server.raw(request_bytes)) == (431, "head")

    asyncio.run(run())


def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with served() as server, asyncio.timeout(30):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                request_head(
                    "POST", "/whip/show", "Content-Type: application/sdp", "Content-Length: 99"
                )
            )
            await writer.drain()
            series = server.app.state.counters.series
            while series()["http_requests_in_work"] != 1:  # noqa: ASYNC110 - a number to watch
                await asyncio.sleep(0.005)
            writer.close()
            while series()["http_requests_in_work"] != 0:  # noqa: ASYNC110 - a number to watch
                await asyncio.sleep(0.005)
            assert server.sessions.joined == []

    asyncio.run(run())
    assert caplog.text == ""
