"""What the server refuses before the engine hears of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from counterpoint.engine.server.limits import (
    PUT_OFF_NS,
    TOO_LARGE_COSTS,
    Slots,
    counted_address,
    host_name,
)
from tests.support.http_server import SDP, Served, refusal, request_head, served, until_cut_off
from tests.support.live_sessions import OFFER
from tests.support.predictions import make_prediction


def other_client(server: Served) -> httpx2.AsyncClient:
    """A client with an address of its own."""
    transport = httpx2.AsyncHTTPTransport(local_address="127.0.0.2")
    return httpx2.AsyncClient(base_url=server.url, transport=transport, timeout=30)


# -- rate and room -----------------------------------------------------------------------------


def test_a_flood_from_one_client_is_put_off_and_others_are_not() -> None:
    async def run() -> None:
        async with served(requests_per_s=5.0, request_burst=20) as server:
            server.sessions.sessions["show"] = set()
            line = {"author": "ann", "text": "hi"}

            async def post(client: httpx2.AsyncClient) -> httpx2.Response:
                return await client.post("/sessions/show/chat", json=line)

            clock = asyncio.get_running_loop().time
            start = clock()
            asked_ns = time.monotonic_ns()
            async with other_client(server) as other:
                answers = [await post(server.client) for _ in range(60)]
                calm = [await post(other) for _ in range(20)]
            taken = [answer for answer in answers if answer.status_code == 204]
            put_off = [answer for answer in answers if answer.status_code == 429]
            assert len(taken) + len(put_off) == 60
            assert 20 <= len(taken) <= 20 + 5 * (clock() - start) + 1
            # An answer that puts off is kept back, so that asking at once gains nothing.
            assert time.monotonic_ns() - asked_ns >= len(put_off) * PUT_OFF_NS
            assert refusal(put_off[0]) == (429, "rate")
            assert put_off[0].headers["retry-after"] == "1"
            assert {answer.status_code for answer in calm} == {204}
            assert len(server.sessions.chats) == len(taken) + 20
            series = server.app.state.counters.series()
            assert series['http_refused_total{reason="rate"}'] == len(put_off)

    asyncio.run(run())


def test_bodies_too_large_use_up_a_clients_requests_sooner() -> None:
    async def run() -> None:
        burst = 2 * (1 + TOO_LARGE_COSTS)
        async with served(
            requests_per_s=0.001, request_burst=burst, max_body_bytes=1_024
        ) as server:

            async def pieces() -> AsyncIterator[bytes]:
                yield b"x" * 1_025

            # Whether the length is said before or not; the third is one too many.
            answers = [
                await server.client.post("/whip/show", content=body, headers=SDP)
                for body in (b"x" * 1_025, pieces(), OFFER.encode())
            ]
            assert [refusal(answer) for answer in answers] == [
                (413, "size"),
                (413, "size"),
                (429, "rate"),
            ]

    asyncio.run(run())


@pytest.mark.parametrize(("proxies", "believed"), [((), False), (("127.0.0.1",), True)])
def test_a_proxy_is_believed_where_it_is_named(proxies: tuple[str, ...], believed: bool) -> None:
    async def run() -> None:
        async with served(requests_per_s=0.001, request_burst=1, proxies=proxies) as server:
            statuses = [
                (
                    await server.client.get("/healthz", headers={"X-Forwarded-For": f"192.0.2.{n}"})
                ).status_code
                for n in range(3)
            ]
            assert statuses == ([200, 200, 200] if believed else [200, 429, 429])

    asyncio.run(run())


def test_requests_in_work_are_bounded() -> None:
    async def run() -> None:
        async with served(max_requests=1) as server:
            server.sessions.gate = asyncio.Event()
            first = asyncio.ensure_future(
                server.client.post("/whip/show", content=OFFER, headers=SDP)
            )
            async with asyncio.timeout(30):
                await server.sessions.joining.wait()
            busy = await server.client.get("/sessions")
            assert refusal(busy) == (503, "busy")
            assert busy.headers["retry-after"] == "1"
            server.sessions.gate.set()
            assert (await first).status_code == 201
            assert (await server.client.get("/sessions")).status_code == 200

    asyncio.run(run())


def test_one_address_gets_half_the_room_of_an_open_server() -> None:
    async def run() -> None:
        async with served(host="0.0.0.0", open=True, max_requests=2) as wide:
            server = Served(
                url=wide.url.replace("0.0.0.0", "127.0.0.1"),
                sessions=wide.sessions,
                client=wide.client,
                app=wide.app,
            )
            server.sessions.gate = asyncio.Event()
            async with other_client(server) as one, other_client(server) as same:
                first = asyncio.ensure_future(one.post("/whip/a", content=OFFER, headers=SDP))
                async with asyncio.timeout(30):
                    await server.sessions.joining.wait()
                assert refusal(await same.get("/sessions")) == (503, "busy")
                async with httpx2.AsyncClient(base_url=server.url) as another:
                    assert (await another.get("/sessions")).status_code == 200
                server.sessions.gate.set()
                assert (await first).status_code == 201

    asyncio.run(run())


def test_connections_are_bounded() -> None:
    async def run() -> None:
        async with served(max_connections=2) as server, asyncio.timeout(30):
            one = await asyncio.open_connection("127.0.0.1", server.port)
            two = await asyncio.open_connection("127.0.0.1", server.port)
            for _, writer in (one, two):
                writer.write(request_head("GET", "/healthz"))
            for reader, _ in (one, two):
                assert b" 200 " in await reader.readline()
            _, third = await asyncio.open_connection("127.0.0.1", server.port)
            await until_cut_off(third, request_head("GET", "/healthz"))
            assert server.app.state.counters.series()["http_connections_refused_total"] == 1
            one[1].close()
            two[1].close()

    asyncio.run(run())


def test_a_reader_that_reads_nothing_is_cut_off() -> None:
    async def run() -> None:
        async with served(stall_timeout_s=0.1) as server, asyncio.timeout(60):
            server.sessions.sessions["show"] = set()
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1_024)
            writer.write(request_head("GET", "/sessions/show/predictions"))
            await server.sessions.until_readers(1)
            window = 0
            while server.sessions.readers:
                window += 1
                server.sessions.say(make_prediction(window, session="show"))
                await asyncio.sleep(0)
            writer.close()

    asyncio.run(run())


def test_room_is_given_back() -> None:
    slots = Slots(total=3, per_address=2)
    assert [slots.take("a"), slots.take("a"), slots.take("a")] == [True, True, False]
    assert [slots.take("b"), slots.take("b")] == [True, False]
    slots.give("a")
    assert [slots.take("b"), slots.take("c")] == [True, False]
    assert slots.in_use == 3
    for address in ("a", "b", "b"):
        slots.give(address)
    assert slots.in_use == 0


# -- hosts and origins -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("studio.example", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("[::2]", 403),
    ],
)
def test_on_loopback_it_answers_to_its_own_names_only(host: str, status: int) -> None:
    """A page elsewhere may have its own name resolve to 127.0.0.1 (DNS rebinding)."""

    async def run() -> None:
        async with served(hosts=frozenset({"studio.example"})) as server:
            answer = await server.client.get("/healthz", headers={"Host": host})
            assert answer.status_code == status
            if status == 403:
                assert refusal(answer) == (403, "host")

    asyncio.run(run())


def test_a_rebound_page_is_of_the_same_origin_and_still_refused() -> None:
    async def run() -> None:
        async with served() as server:
            headers = {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}
            answer = await server.client.post("/whip/show", content=OFFER, headers=SDP | headers)
            assert refusal(answer) == (403, "host")
            assert server.sessions.joined == []

    asyncio.run(run())


def test_its_own_page_and_named_origins_may_others_may_not() -> None:
    async def run() -> None:
        async with served(origins=frozenset({"https://studio.example"})) as server:

            async def post(origin: str) -> httpx2.Response:
                headers = SDP | {"Origin": origin}
                return await server.client.post("/whip/show", content=OFFER, headers=headers)

            own = await post(server.url)
            assert own.status_code == 201
            assert "access-control-allow-origin" not in own.headers
            named = await post("https://studio.example")
            assert named.status_code == 201
            assert named.headers["access-control-allow-origin"] == "https://studio.example"
            assert "Location" in named.headers["access-control-expose-headers"]
            assert "Origin" in named.headers["vary"]
            assert "access-control-allow-credentials" not in named.headers
            joined = len(server.sessions.joined)
            for origin in (
                "https://evil.example",
                "http://studio.example",
                "https://studio.example:8443",
                "https://studio.example.evil.example",
                server.url.replace("http:", "https:"),
                "null",
                "",
            ):
                answer = await post(origin)
                assert refusal(answer) == (403, "origin"), origin
                assert "access-control-allow-origin" not in answer.headers
            assert len(server.sessions.joined) == joined

    asyncio.run(run())


def test_preflights_are_answered_for_named_origins() -> None:
    async def run() -> None:
        async with served(origins=frozenset({"https://studio.example"})) as server:

            async def preflight(origin: str, path: str, method: str) -> httpx2.Response:
                return await server.client.options(
                    path,
                    headers={
                        "Origin": origin,
                        "Access-Control-Request-Method": method,
                        "Access-Control-Request-Headers": "authorization,content-type,if-match",
                    },
                )

            for path, method in (
                ("/whip/show", "POST"),
                ("/whip/show/c1", "PATCH"),
                ("/sessions/show/chat", "POST"),
                ("/sessions/show", "DELETE"),
            ):
                answer = await preflight("https://studio.example", path, method)
                assert answer.status_code == 200
                assert answer.headers["access-control-allow-origin"] == "https://studio.example"
                assert method in answer.headers["access-control-allow-methods"]
                allowed = answer.headers["access-control-allow-headers"].lower()
                assert all(
                    name in allowed for name in ("authorization", "content-type", "if-match")
                )
            first = await preflight("https://studio.example", "/whip/show", "POST")
            assert first.headers["accept-post"] == "application/sdp"
            refused = await preflight("https://evil.example", "/whip/show", "POST")
            assert refusal(refused) == (403, "origin")

    asyncio.run(run())


def test_addresses_are_counted_as_one_machine_has_them() -> None:
    assert counted_address("192.0.2.7") == "192.0.2.7"
    assert counted_address("::ffff:192.0.2.7") == "192.0.2.7"
    assert counted_address("2001:db8:1:2:3::4") == counted_address("2001:db8:1:2::ffff")
    assert counted_address("2001:db8:1:2::1") != counted_address("2001:db8:1:3::1")
    assert counted_address("fe80::1%eth0") == counted_address("fe80::2")
    assert counted_address("a socket") == "a socket"
    assert [host_name(host) for host in ("A.example.:80", "[::1]:80", "[::1", "")] == [
        "a.example",
        "::1",
        "::1",
        "",
    ]
