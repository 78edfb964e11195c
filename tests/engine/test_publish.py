"""The publisher against a real server that is killed, frozen, emptied and written to by others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from counterpoint.engine.outbox import DROP_QUEUE_FULL, DROP_REFUSED
from counterpoint.engine.prediction import from_json, to_json
from counterpoint.engine.publish import LinkState, Publisher
from counterpoint.engine.redis_client import (
    EVENTS_KEY,
    Command,
    Connect,
    Link,
    RedisLostError,
    RedisTimeoutError,
    connector,
    parse_stream_id,
    predictions_key,
)
from counterpoint.streams.runtime import SystemRuntime
from tests.support.predictions import make_prediction
from tests.support.redis import RedisServer, redis_server, run_async

pytestmark = pytest.mark.redis_server

KEY = predictions_key("demo")
SHORT_S = 0.1
LONG_S = 10.0


class WatchedRuntime(SystemRuntime):
    """Tells when somebody waits between two attempts to connect."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.waiting = asyncio.Event()

    async def sleep_until(self, t_ns: int) -> None:
        if t_ns > self.now_ns():
            self.waiting.set()
        await super().sleep_until(t_ns)


class ImpatientRuntime(SystemRuntime):
    """Waits for nothing; fit for a server that is always there."""

    async def sleep_until(self, t_ns: int) -> None:
        await asyncio.sleep(0)


@pytest.fixture(name="server")
def fixture_server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@asynccontextmanager
async def publishing(
    connect: Connect | RedisServer, runtime: SystemRuntime | None = None, **options: Any
) -> AsyncIterator[Publisher]:
    """A running publisher; cancelled at the end."""
    if isinstance(connect, RedisServer):
        connect = connector(connect.url, timeout_s=LONG_S)
    publisher = Publisher(connect, runtime or SystemRuntime(seed=1), **options)
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert publisher.stats().link is LinkState.CLOSED


def offer(publisher: Publisher, windows: Sequence[int]) -> None:
    for window in windows:
        publisher.offer(make_prediction(window))


def test_the_stream_has_every_document_once_and_in_order(server: RedisServer) -> None:
    async def main() -> None:
        async with publishing(server) as publisher:
            offer(publisher, range(1, 201))
            assert await publisher.drain(LONG_S) == 0
            stats = publisher.stats()
        assert (stats.published, stats.dropped, stats.reconnects) == (200, {}, 0)
        assert stats.peak_backlog == 200
        assert 0 < stats.latency_ms["p50"] <= stats.latency_ms["p99"] <= stats.latency_ms["max"]

    run_async(main)
    assert server.predictions() == [
        from_json(to_json(make_prediction(window))) for window in range(1, 201)
    ]


def test_the_channel_has_the_same_bytes_as_the_stream(server: RedisServer) -> None:
    with server.client() as client:
        channel = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        channel.subscribe(KEY)
        channel.get_message(timeout=LONG_S)  # The confirmation.

        async def main() -> None:
            async with publishing(server) as publisher:
                offer(publisher, [1, 2])
                assert await publisher.drain(LONG_S) == 0

        run_async(main)
        heard = [channel.get_message(timeout=LONG_S) for _ in range(2)]
        entries: Any = client.xrange(KEY)
        assert [m and m["data"] for m in heard] == [fields["data"] for _, fields in entries]
        channel.close()


def test_the_stream_is_cut_to_about_its_length(server: RedisServer) -> None:
    async def main() -> None:
        async with publishing(server, stream_maxlen=100) as publisher:
            offer(publisher, range(1, 1_001))
            assert await publisher.drain(LONG_S) == 0

    run_async(main)
    windows = server.windows()
    assert 100 <= len(windows) < 400
    assert windows[-1] == 1_000


def test_nothing_is_lost_when_connections_are_killed_in_mid_stream(server: RedisServer) -> None:
    async def main() -> None:
        killed = 0
        async with publishing(server) as publisher:
            for start in range(1, 1_001, 20):
                offer(publisher, range(start, start + 20))
                await asyncio.sleep(0)  # Some are under way now.
                killed += server.kill_clients()
                if start % 100 == 1:
                    assert await publisher.drain(LONG_S) == 0
            assert await publisher.drain(LONG_S) == 0
            assert publisher.stats().reconnects >= 5
        assert killed >= 5

    run_async(main)
    assert server.windows() == list(range(1, 1_001))


@pytest.mark.parametrize("appendonly", [True, False])
def test_publishing_goes_on_when_redis_is_stopped_and_started_again(appendonly: bool) -> None:
    async def main() -> None:
        runtime = WatchedRuntime()
        connect = connector(server.url, timeout_s=LONG_S)
        async with publishing(connect, runtime) as publisher:
            offer(publisher, range(1, 101))
            assert await publisher.drain(LONG_S) == 0
            server.kill()
            offer(publisher, range(101, 201))
            await runtime.waiting.wait()
            assert publisher.stats().link is LinkState.DOWN
            assert publisher.backlog == 100
            server.start()
            offer(publisher, range(201, 301))
            assert await publisher.drain(LONG_S) == 0
            assert publisher.stats().reconnects == 1

    with redis_server(appendonly=appendonly) as server:
        run_async(main)
        assert server.windows() == list(range(1 if appendonly else 101, 301))


def test_a_redis_that_comes_up_late_gets_everything(server: RedisServer) -> None:
    server.stop()

    async def main() -> None:
        runtime = WatchedRuntime()
        async with publishing(connector(server.url), runtime) as publisher:
            offer(publisher, [1, 2, 3])
            await runtime.waiting.wait()
            server.start()
            assert await publisher.drain(LONG_S) == 0
            assert publisher.stats().reconnects == 0

    run_async(main)
    assert server.windows() == [1, 2, 3]


def test_a_frozen_redis_costs_the_oldest_and_the_next_document_says_so(
    server: RedisServer,
) -> None:
    async def main() -> None:
        connect = connector(server.url, timeout_s=SHORT_S)
        runtime = WatchedRuntime()
        async with publishing(connect, runtime, queue_size=100) as publisher:
            offer(publisher, [1])
            assert await publisher.drain(LONG_S) == 0
            server.freeze()
            for window in range(2, 1_002):
                publisher.offer(make_prediction(window))
                if window % 100 == 0:
                    await asyncio.sleep(0)
            assert publisher.backlog == 100
            await runtime.waiting.wait()
            await publisher.wait_room()  # Must not wait: Redis is not there.
            assert publisher.stats().link is LinkState.DOWN
            server.thaw()
            assert await publisher.drain(LONG_S) == 0
            stats = publisher.stats()
            assert stats.published + stats.dropped[DROP_QUEUE_FULL] == 1_001
            assert stats.peak_backlog == 100

    run_async(main)
    predictions = server.predictions()
    windows = [p.window for p in predictions]
    assert windows == sorted(set(windows))
    assert windows[-1] == 1_001
    assert sum(p.dropped.get(DROP_QUEUE_FULL, 0) for p in predictions) == 1_001 - len(windows)
    # Each jump is accounted for by the very document behind it.
    for before, after in itertools.pairwise(predictions):
        assert after.window - before.window - 1 == after.dropped.get(DROP_QUEUE_FULL, 0)


def test_silence_counts_as_an_outage_at_once() -> None:
    async def main() -> None:
        connecting_again = asyncio.Event()

        class SilentLink:
            async def execute(
                self, commands: Sequence[Command], *, block_s: float = 0.0
            ) -> list[Any]:
                if commands == [("PING",)]:
                    return ["PONG"]
                raise RedisTimeoutError("no answer")

            async def close(self) -> None:
                pass

        links = [SilentLink()]

        async def connect() -> Link:
            if links:
                return links.pop()
            connecting_again.set()
            return await asyncio.Future()  # A kernel that accepts for a server that is frozen.

        async with publishing(connect, queue_size=2) as publisher:
            offer(publisher, [1, 2])
            await connecting_again.wait()
            await publisher.wait_room()
            assert publisher.backlog == 2

    run_async(main)


def test_a_paused_redis_loses_nothing_that_fits_the_queue(server: RedisServer) -> None:
    async def main() -> None:
        async with publishing(connector(server.url, timeout_s=SHORT_S)) as publisher:
            offer(publisher, range(1, 51))
            assert await publisher.drain(LONG_S) == 0
            with server.client() as client:
                client.client_pause(300)
            offer(publisher, range(51, 301))
            assert await publisher.drain(LONG_S) == 0
            assert publisher.stats().dropped == {}

    run_async(main)
    assert server.windows() == list(range(1, 301))


def test_a_producer_without_pace_is_held_back_while_redis_is_there(server: RedisServer) -> None:
    async def main() -> None:
        async with publishing(server, queue_size=64) as publisher:
            for window in range(1, 2_001):
                await publisher.wait_room()
                publisher.offer(make_prediction(window))
            assert await publisher.drain(LONG_S) == 0
            assert publisher.stats().dropped == {}
            assert publisher.stats().peak_backlog <= 32

    run_async(main)
    assert server.windows() == list(range(1, 2_001))


class FaultyConnector:
    """Opens real links and breaks their writes as its own dice say."""

    def __init__(self, url: str, rng: random.Random, chance: float) -> None:
        self._connect = connector(url, timeout_s=LONG_S)
        self._rng = rng
        self._chance = chance
        self.happened: set[str] = set()

    async def __call__(self) -> Link:
        return _FaultyLink(await self._connect(), self)

    def fault(self) -> str | None:
        if self._rng.random() >= self._chance:
            return None
        fault = self._rng.choice(["request lost", "answer lost", "half applied"])
        self.happened.add(fault)
        return fault


class _FaultyLink:
    def __init__(self, link: Link, faults: FaultyConnector) -> None:
        self._link = link
        self._faults = faults

    async def execute(self, commands: Sequence[Command], *, block_s: float = 0.0) -> list[Any]:
        fault = self._faults.fault()
        if fault is None:
            return await self._link.execute(commands, block_s=block_s)
        if fault == "half applied":
            commands = commands[: max(1, len(commands) // 2)]
        if fault != "request lost":
            await self._link.execute(commands, block_s=block_s)
        await self._link.close()
        raise RedisLostError(fault)

    async def close(self) -> None:
        await self._link.close()


def test_a_write_whose_answer_was_lost_is_not_written_twice(server: RedisServer) -> None:
    happened: set[str] = set()

    async def main(seed: int) -> None:
        faults = FaultyConnector(server.url, random.Random(seed), chance=0.25)
        with server.client() as client:
            client.flushall()
        async with publishing(faults, ImpatientRuntime(seed=seed)) as publisher:
            for start in range(1, 201, 10):
                offer(publisher, range(start, start + 10))
                await asyncio.sleep(0)
            publisher.session_ended("demo", "done")
            assert await publisher.drain(LONG_S) == 0
            assert publisher.stats().published == 200
            assert publisher.stats().events == 1
        happened.update(faults.happened)

    for seed in range(12):
        run_async(lambda seed=seed: main(seed))  # type: ignore[misc]
        assert server.windows() == list(range(1, 201)), f"seed {seed}"
        with server.client() as client:
            assert client.xlen(EVENTS_KEY) == 1
    assert happened == {"request lost", "answer lost", "half applied"}


@pytest.mark.parametrize("deleted", [False, True])
def test_publishing_continues_behind_another_writers_greater_id(
    server: RedisServer, deleted: bool
) -> None:
    theirs = "9999999999999-7"

    async def main() -> None:
        async with publishing(server) as publisher:
            offer(publisher, [1, 2])
            assert await publisher.drain(LONG_S) == 0
            with server.client() as client:
                client.xadd(KEY, {"data": to_json(make_prediction(99))}, id=theirs)
                if deleted:
                    client.xdel(KEY, theirs)
            offer(publisher, range(3, 103))
            assert await publisher.drain(LONG_S) == 0
            assert publisher.stats().reconnects == 0

    run_async(main)
    windows = server.windows()
    assert [w for w in windows if w != 99 or deleted] == [
        w for w in range(1, 103) if w != 99 or deleted
    ]
    with server.client() as client:
        entries: Any = client.xrange(KEY)
    assert all(parse_stream_id(i) > parse_stream_id(theirs) for i, _ in entries[-100:])


def test_a_write_that_is_refused_for_good_is_dropped_and_others_go_on(
    server: RedisServer,
) -> None:
    async def main() -> None:
        with server.client() as client:
            client.set(predictions_key("broken"), "a string")
        async with publishing(server) as publisher:
            publisher.offer(make_prediction(1, session="broken"))
            publisher.offer(make_prediction(1))
            assert await publisher.drain(LONG_S) == 0
            stats = publisher.stats()
            assert stats.dropped == {DROP_REFUSED: 1}
            assert stats.last_error is not None
            assert "WRONGTYPE" in stats.last_error
            with server.client() as client:
                client.delete(predictions_key("broken"))
            publisher.offer(make_prediction(2, session="broken"))
            assert await publisher.drain(LONG_S) == 0

    run_async(main)
    assert server.windows() == [1]
    (after,) = server.predictions("broken")
    assert (after.window, after.dropped) == (2, {DROP_REFUSED: 1})


def test_a_redis_that_is_full_is_waited_for(server: RedisServer) -> None:
    async def main() -> None:
        runtime = WatchedRuntime()
        async with publishing(connector(server.url), runtime) as publisher:
            with server.client() as client:
                client.config_set("maxmemory", "1")
                offer(publisher, [1, 2, 3])
                await runtime.waiting.wait()
                assert publisher.stats().link is LinkState.DOWN
                client.config_set("maxmemory", "0")
            assert await publisher.drain(LONG_S) == 0
            assert publisher.stats().dropped == {}

    run_async(main)
    assert server.windows() == [1, 2, 3]


def test_a_sessions_events_frame_its_predictions(server: RedisServer) -> None:
    async def main() -> None:
        async with publishing(server) as publisher:
            publisher.session_started("demo")
            offer(publisher, [1, 2])
            publisher.session_ended("demo", "end of file")
            assert await publisher.drain(LONG_S) == 0
            assert publisher.stats().events == 2

    run_async(main)
    with server.client() as client:
        entries: Any = client.xrange(KEY)
        events: Any = client.xrange(EVENTS_KEY)
    started, ended = (json.loads(fields["data"]) for _, fields in events)
    assert (started["event"], started["session"], started["reason"]) == ("started", "demo", None)
    assert (ended["event"], ended["reason"]) == ("ended", "end of file")
    assert ended["last_id"] == entries[-1][0]
    assert ended["dropped"] == {}
    assert ended["id"] != started["id"]


def test_drain_says_how_many_are_left_when_redis_does_not_come_back(server: RedisServer) -> None:
    server.stop()

    async def main() -> None:
        async with publishing(connector(server.url)) as publisher:
            offer(publisher, [1, 2, 3])
            assert await publisher.drain(SHORT_S) == 3

    run_async(main)


def test_drain_does_not_wait_for_a_publisher_that_is_no_longer_running(
    server: RedisServer,
) -> None:
    async def main() -> None:
        async with publishing(server) as publisher:
            publisher.session_started("demo")
            assert await publisher.drain(LONG_S) == 0
        offer(publisher, [1])
        assert await publisher.drain(3_600) == 1

    run_async(main)


def test_a_cancelled_publisher_leaves_no_connection(server: RedisServer) -> None:
    async def main() -> None:
        async with publishing(server) as publisher:
            offer(publisher, [1])
            assert await publisher.drain(LONG_S) == 0
            with server.client() as client:
                assert len(client.client_list()) == 2

    run_async(main)
    with server.client() as client:
        assert len(client.client_list()) == 1
