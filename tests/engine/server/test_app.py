"""Routes over a real server: what each asks of the sessions, and what it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import numpy as np
import pytest

from counterpoint.engine.server.port import RefusedError
from counterpoint.streams.errors import FailedError, UsageError
from tests.support.http_server import SDP, page_folder, refusal, served
from tests.support.live_sessions import ANSWER, OFFER


def test_page_files_come_with_strict_headers(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(page=page_folder(tmp_path)) as server:
            index = await server.client.get("/")
            assert (index.status_code, index.text) == (200, "<!doctype html><title>page</title>")
            assert index.headers["content-type"] == "text/html; charset=utf-8"
            assert index.headers["cache-control"] == "no-cache"
            policy = index.headers["content-security-policy"]
            assert "default-src 'self'" in policy
            assert "media-src 'self' blob:" in policy
            assert "unsafe" not in policy
            assert index.headers["x-content-type-options"] == "nosniff"
            assert index.headers["referrer-policy"] == "no-referrer"
            assert index.headers["permissions-policy"] == "camera=(self), microphone=(self)"
            assert "server" not in index.headers

            script = await server.client.get("/page/main.js")
            assert script.headers["content-type"] == "text/javascript; charset=utf-8"
            again = await server.client.get(
                "/page/main.js", headers={"If-None-Match": script.headers["etag"]}
            )
            assert (again.status_code, again.content) == (304, b"")
            (tmp_path / "main.js").write_text("export const one = 2\n", encoding="utf-8")
            changed = await server.client.get(
                "/page/main.js", headers={"If-None-Match": script.headers["etag"]}
            )
            assert changed.text == "export const one = 2\n"
            assert (await server.client.head("/page/main.js")).content == b""

    asyncio.run(run())


@pytest.mark.parametrize(
    "name",
    ["notes.txt", ".hidden.js", "absent.js", "..%2Fmain.js", "%2e%2e/main.js", "a%00.js", "", "js"],
)
def test_page_gives_nothing_but_its_files(tmp_path: Path, name: str) -> None:
    async def run() -> None:
        folder = tmp_path / "page"
        folder.mkdir()
        (tmp_path / "main.js").write_text("outside", encoding="utf-8")
        async with served(page=page_folder(folder)) as server:
            head = f"GET /page/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            answer = await server.raw(head.encode())
            assert b" 404 " in answer.splitlines()[0]

    asyncio.run(run())


def test_whip_takes_a_peer_in_and_lets_it_go() -> None:
    async def run() -> None:
        async with served(
            terms={
                "ice_servers": [
                    {"urls": ["stun:s.example"]},
                    {"urls": "turn:t.example", "username": "u", "credential": 'p"q'},
                ]
            }
        ) as server:
            answer = await server.client.post("/whip/show", content=OFFER, headers=SDP)
            assert (answer.status_code, answer.text) == (201, ANSWER)
            assert answer.headers["content-type"].startswith("application/sdp")
            assert answer.headers["location"] == "/whip/show/c1"
            assert answer.headers["etag"] == '"ice1"'
            stun, turn = answer.headers.get_list("link")
            assert stun == '<stun:s.example>; rel="ice-server"'
            assert turn == (
                '<turn:t.example>; rel="ice-server"; username="u"; credential="p\\"q"; '
                'credential-type="password"'
            )
            await server.client.post("/whip/show?participant=ann", content=OFFER, headers=SDP)
            assert server.sessions.joined == [("show", "main", OFFER), ("show", "ann", OFFER)]

            assert (await server.client.delete("/whip/show/c1")).status_code == 200
            assert refusal(await server.client.delete("/whip/show/c1")) == (404, "unknown")
            assert server.sessions.left == [("show", "c1")]

    asyncio.run(run())


def test_candidates_name_their_ice_session() -> None:
    async def run() -> None:
        async with served() as server:
            await server.client.post("/whip/show", content=OFFER, headers=SDP)
            fragment = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n"
            kind = {"content-type": "application/trickle-ice-sdpfrag"}

            async def patch(where: str, **headers: str) -> httpx2.Response:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                return await server.client.patch(where, content=fragment, headers=kind | named)

            assert refusal(await patch("/whip/show/c1")) == (428, "if-match")
            assert refusal(await patch("/whip/show/c1", if_match='"old"')) == (412, "if-match")
            assert refusal(await patch("/whip/show/c1", if_match='W/"ice1"')) == (412, "if-match")
            assert refusal(await patch("/whip/show/c1", if_match="*")) == (422, "ice-restart")
            assert refusal(await patch("/whip/show/c2", if_match='"ice1"')) == (404, "unknown")
            assert refusal(await patch("/whip/other/c1", if_match='"ice1"')) == (404, "unknown")
            assert server.sessions.trickled == []

            good = await patch("/whip/show/c1", if_match='"x", "ice1"')
            assert (good.status_code, good.content) == (204, b"")
            assert server.sessions.trickled == [("show", "c1", fragment)]

            other = await patch("/whip/show/c1", if_match='"ice1"', content_type="application/sdp")
            assert refusal(other) == (415, "media-type")

            # A connection that ended by itself is forgotten once the sessions say so.
            server.sessions.sessions["show"].clear()
            assert refusal(await patch("/whip/show/c1", if_match='"ice1"')) == (404, "unknown")

    asyncio.run(run())


def test_whip_answers_other_methods_as_it_should() -> None:
    async def run() -> None:
        async with served() as server:
            for method in ("GET", "HEAD", "PUT", "PROPFIND"):
                answer = await server.client.request(method, "/whip/show")
                assert answer.status_code == 405
                assert answer.headers["allow"] == "POST, OPTIONS"
            options = await server.client.options("/whip/show")
            assert (options.status_code, options.content) == (200, b"")
            assert options.headers["accept-post"] == "application/sdp"
            options = await server.client.options("/whip/show/c1")
            assert options.headers["accept-patch"] == "application/trickle-ice-sdpfrag"
            assert options.headers["allow"] == "PATCH, DELETE, OPTIONS"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (b"v=1\r\n", "application/sdp", (400, "signal")),
        (b"", "application/sdp", (400, "binary")),
        (b"v=0\r\n\0", "application/sdp", (400, "binary")),
        (b"v=0\xff", "application/sdp", (400, "binary")),
        (OFFER.encode(), "text/plain", (415, "media-type")),
        (OFFER.encode(), "application/sdp2", (415, "media-type")),
    ],
)
def test_an_offer_that_is_none_is_refused(
    content: bytes, kind: str, expected: tuple[int, str]
) -> None:
    async def run() -> None:
        async with served() as server:
            answer = await server.client.post(
                "/whip/show", content=content, headers={"Content-Type": kind}
            )
            assert refusal(answer) == expected
            assert server.sessions.joined == []

    asyncio.run(run())


@pytest.mark.parametrize(
    "path",
    [
        "/whip/.hidden",
        "/whip/a%2Fb",
        "/whip/a%0Ab",
        "/whip/" + "a" * 65,
        "/whip/gr%C3%BC%C3%9Fe",
        "/whip/show?participant=a%20b",
        "/whip/show?participant=",
    ],
)
def test_names_are_plain(path: str) -> None:
    async def run() -> None:
        async with served() as server:
            answer = await server.client.post(path, content=OFFER, headers=SDP)
            # An encoded slash makes another path, which is nobody's.
            assert refusal(answer) in ((400, "name"), (405, "method"))
            assert server.sessions.joined == []

    asyncio.run(run())


def test_chat_goes_to_its_session() -> None:
    async def run() -> None:
        async with served() as server:
            await server.client.post("/whip/show", content=OFFER, headers=SDP)
            line = {"author": "ann", "text": "wie schön 🎉"}
            answer = await server.client.post("/sessions/show/chat", json=line)
            assert (answer.status_code, answer.content) == (204, b"")
            assert server.sessions.chats == [("show", "ann", "wie schön 🎉")]
            unknown = await server.client.post("/sessions/none/chat", json=line)
            assert refusal(unknown) == (404, "unknown")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{", (400, "json")),
        ("[" * 50_000, (400, "json")),
        ('["author", "text"]', (400, "json")),
        ('{"author": "ann"}', (400, "json")),
        ('{"author": "ann", "text": "x", "admin": true}', (400, "json")),
        ('{"author": "ann", "text": 7}', (400, "usage")),
        ('{"author": " ", "text": "x"}', (400, "usage")),
        ('{"author": "ann", "text": "\\ud800"}', (400, "json")),
        ('{"author": "ann", "text": "' + "x" * 2_001 + '"}', (413, "size")),
        ('{"author": "' + "x" * 201 + '", "text": "x"}', (413, "size")),
        ("\0\1\2", (400, "binary")),
    ],
)
def test_chat_that_is_none_is_refused(body: str, expected: tuple[int, str]) -> None:
    async def run() -> None:
        async with served() as server:
            server.sessions.sessions["show"] = set()
            answer = await server.client.post(
                "/sessions/show/chat", content=body, headers={"Content-Type": "application/json"}
            )
            assert refusal(answer) == expected
            assert server.sessions.chats == []

    asyncio.run(run())


def test_sessions_are_listed_described_and_erased() -> None:
    async def run() -> None:
        async with served() as server:
            for name in ("b", "a"):
                await server.client.post(f"/whip/{name}", content=OFFER, headers=SDP)
            assert (await server.client.get("/sessions")).json() == {"sessions": ["a", "b"]}
            assert (await server.client.get("/sessions/a")).json() == {
                "session": "a",
                "connections": ["c2"],
            }
            assert (await server.client.delete("/sessions/a")).json() == {"erased": ["a"]}
            assert refusal(await server.client.delete("/sessions/a")) == (404, "unknown")
            assert refusal(await server.client.get("/sessions/a")) == (404, "unknown")
            assert server.sessions.erased == ["a"]

    asyncio.run(run())


def test_errors_of_the_engine_say_what_a_client_needs_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with served() as server:

            async def post(failure: Exception) -> httpx2.Response:
                server.sessions.failure = failure
                return await server.client.post("/whip/show", content=OFFER, headers=SDP)

            busy = await post(RefusedError("no room", reason="capacity", retry_after_s=7))
            assert refusal(busy) == (503, "capacity")
            assert busy.headers["retry-after"] == "7"
            assert refusal(await post(RefusedError("slower", reason="rate"))) == (429, "rate")
            assert refusal(await post(UsageError("odd"))) == (400, "usage")

            secret = "the secret part"
            for failure, expected in (
                (FailedError(secret), (500, "failed")),
                (KeyError(secret), (500, "internal")),
            ):
                caplog.clear()
                answer = await post(failure)
                assert refusal(answer) == expected
                assert secret not in answer.text
                assert secret in caplog.text
                assert answer.headers["x-content-type-options"] == "nosniff"

            server.sessions.failure = None
            assert (await post_ok(server.client)).status_code == 201

    async def post_ok(client: httpx2.AsyncClient) -> httpx2.Response:
        return await client.post("/whip/show", content=OFFER, headers=SDP)

    asyncio.run(run())


def test_a_request_that_takes_the_engine_too_long_is_given_up() -> None:
    async def run() -> None:
        async with served(work_timeout_s=0.05) as server:
            server.sessions.gate = asyncio.Event()
            answer = await server.client.post("/whip/show", content=OFFER, headers=SDP)
            assert refusal(answer) == (503, "timeout")
            assert answer.headers["retry-after"] == "5"

    asyncio.run(run())


def test_operations_are_told_how_it_is() -> None:
    async def run() -> None:
        async with served() as server:
            assert (await server.client.get("/healthz")).text == "ok\n"
            assert (await server.client.get("/readyz")).status_code == 200
            await server.client.request("BREW", "/sessions")
            server.sessions.series["lag_seconds"] = np.float64(0.25)
            metrics = await server.client.get("/metrics")
            assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
            lines = metrics.text.splitlines()
            kind = lines.index("# TYPE counterpoint_dropped_total counter")
            assert lines[kind + 1 : kind + 3] == [
                'counterpoint_dropped_total{reason="full"} 3',
                'counterpoint_dropped_total{reason="late"} 2',
            ]
            assert "# TYPE counterpoint_sessions gauge" in lines
            assert 'counterpoint_http_requests_total{method="other",status="405"} 1' in lines
            assert "counterpoint_http_requests_in_work 1" in lines
            assert "counterpoint_lag_seconds 0.25" in lines

            server.app.state.closing.set()
            assert refusal(await server.client.get("/readyz")) == (503, "closing")
            assert (await server.client.get("/healthz")).status_code == 200

    asyncio.run(run())


def test_terms_are_told_to_the_page() -> None:
    async def run() -> None:
        terms = {"purpose": "a test", "ice_servers": [{"urls": "stun:s.example"}]}
        async with served(terms=terms) as server:
            told = (await server.client.get("/api/terms")).json()
            assert told == terms | {"token_required": False}
            assert refusal(await server.client.get("/nothing")) == (404, "unknown")
            assert refusal(await server.client.get("/api/terms/")) == (404, "unknown")

    asyncio.run(run())
