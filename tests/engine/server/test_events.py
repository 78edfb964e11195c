"""Predictions as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import httpx2
import pytest

from counterpoint.engine.prediction import Prediction, to_json
from counterpoint.streams.errors import FailedError
from tests.support.http_server import refusal, served
from tests.support.predictions import make_prediction


async def events_of(answer: httpx2.Response) -> list[dict[str, str]]:
    """All events up to the end; comments stand under ``""``."""
    text = "".join([part async for part in answer.aiter_text()])
    blocks = [block for block in text.split("\n\n") if block]
    return [dict(line.partition(":")[::2] for line in block.split("\n")) for block in blocks]


def test_each_prediction_is_an_event_and_the_end_is_said() -> None:
    async def run() -> None:
        async with served() as server:
            server.sessions.sessions["show"] = set()
            predictions = [
                make_prediction(1, session="show"),
                make_prediction(1, session="show", revision=2),
                make_prediction(2, session="show"),
            ]
            async with server.client.stream("GET", "/sessions/show/predictions") as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert "content-length" not in answer.headers
                assert answer.headers["x-content-type-options"] == "nosniff"
                await server.sessions.until_readers(1)
                for prediction in predictions:
                    server.sessions.say(prediction)
                server.sessions.end("show")
                first, *events, last = await events_of(answer)
            assert first == {"retry": " 2000"}
            assert [event["id"] for event in events] == [" 1.0", " 1.2", " 2.0"]
            assert {event["event"] for event in events} == {" prediction"}
            assert [event["data"].strip() for event in events] == list(map(to_json, predictions))
            assert last["event"] == " end"
            assert json.loads(last["data"]) == {"reason": "ended"}
            await server.sessions.until_readers(0)

    asyncio.run(run())


def test_an_unknown_session_is_no_stream() -> None:
    async def run() -> None:
        async with served() as server:
            assert refusal(await server.client.get("/sessions/none/predictions")) == (
                404,
                "unknown",
            )
            head = await server.client.head("/sessions/none/predictions")
            assert head.status_code == 405
            assert server.app.state.counters.series()["http_streams"] == 0

    asyncio.run(run())


def test_a_quiet_session_is_kept_alive_by_comments() -> None:
    async def run() -> None:
        async with served(heartbeat_s=0.01) as server:
            server.sessions.sessions["show"] = set()
            async with server.client.stream("GET", "/sessions/show/predictions") as answer:
                comments = 0
                async for line in answer.aiter_lines():
                    comments += line.startswith(":")
                    if comments == 3:
                        break
            await server.sessions.until_readers(0)

    asyncio.run(run())


def test_a_client_that_goes_frees_its_place() -> None:
    async def run() -> None:
        async with served(max_streams=1) as server:
            server.sessions.sessions["show"] = set()
            where = "/sessions/show/predictions"
            async with server.client.stream("GET", where) as answer:
                assert answer.status_code == 200
                await server.sessions.until_readers(1)
                full = await server.client.get(where)
                assert refusal(full) == (503, "streams")
                assert full.headers["retry-after"] == "5"
            await server.sessions.until_readers(0)
            async with asyncio.timeout(30):
                status = 503
                while status == 503:
                    async with server.client.stream("GET", where) as answer:
                        status = answer.status_code
            assert status == 200

    asyncio.run(run())


def test_streams_hold_no_place_of_requests() -> None:
    async def run() -> None:
        async with served(max_requests=1, max_streams=2) as server:
            server.sessions.sessions["show"] = set()
            where = "/sessions/show/predictions"
            async with server.client.stream("GET", where), server.client.stream("GET", where):
                await server.sessions.until_readers(2)
                assert (await server.client.get("/sessions")).status_code == 200
                assert server.app.state.counters.series()["http_requests_in_work"] == 0

    asyncio.run(run())


def test_the_end_of_the_server_is_told_to_its_readers() -> None:
    async def run() -> None:
        async with served() as server:
            server.sessions.sessions["show"] = set()
            async with server.client.stream("GET", "/sessions/show/predictions") as answer:
                await server.sessions.until_readers(1)
                server.app.state.closing.set()
                last = (await events_of(answer))[-1]
            assert json.loads(last["data"]) == {"reason": "closing"}
            refused = await server.client.get("/sessions/show/predictions")
            assert refusal(refused)[0] == 503

    asyncio.run(run())


def test_a_session_that_ends_before_it_is_read_ends_the_stream() -> None:
    async def run() -> None:
        async with served() as server:
            server.sessions.sessions["show"] = set()
            known = server.sessions.describe

            def describe_once(session: str) -> object:
                answer = known(session)
                del server.sessions.sessions[session]
                return answer

            server.sessions.describe = describe_once  # type: ignore[method-assign, assignment]
            async with server.client.stream("GET", "/sessions/show/predictions") as answer:
                assert [event.get("event") for event in await events_of(answer)] == [None, " end"]

    asyncio.run(run())


def test_a_stream_that_fails_says_so_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with served() as server:
            server.sessions.sessions["show"] = set()

            async def broken(session: str) -> AsyncGenerator[Prediction, None]:
                yield make_prediction(1, session=session)
                raise FailedError("what exactly")

            server.sessions.follow = broken  # type: ignore[method-assign]
            async with server.client.stream("GET", "/sessions/show/predictions") as answer:
                events = await events_of(answer)
            assert [event.get("event") for event in events] == [None, " prediction", " end"]
            assert json.loads(events[-1]["data"]) == {"reason": "failed"}
            assert (await server.client.get("/healthz")).status_code == 200

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records if record.name != "httpx2"] == [
        "a stream of predictions ends: what exactly"
    ]
