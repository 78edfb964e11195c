"""`RedisChat` against a real server: order, time, resuming, what is left out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from counterpoint.engine.chat_redis import MALFORMED, PAGE_SIZE, RedisChat, chat_key
from counterpoint.streams.chat_file import CUT
from counterpoint.streams.chat_inbox import ChatInbox
from counterpoint.streams.chat_outlet import EMPTY, TOO_MANY, TOO_OLD
from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.feed import LiveSource
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import NS_PER_S, Modality, Tier
from tests.support.chat_feed import KeepingFeed, check_items, running
from tests.support.redis import RedisServer, redis_server, run_async

pytestmark = pytest.mark.redis_server

KEY = chat_key("demo")
MS = NS_PER_S // 1_000


@pytest.fixture(name="server")
def fixture_server() -> Iterator[RedisServer]:
    with redis_server(appendonly=True) as server:
        yield server


@pytest.fixture(name="runtime")
def fixture_runtime() -> Iterator[SystemRuntime]:
    with SystemRuntime(seed=1) as runtime:
        yield runtime


def add(server: RedisServer, *texts: str, stream_id: str = "*", **more: Any) -> None:
    with server.client() as client:
        for text in texts:
            client.xadd(KEY, {"author": "ann", "text": text} | more, id=stream_id)


def test_lines_in_order_from_now_on_with_the_servers_time(
    server: RedisServer, runtime: SystemRuntime
) -> None:
    async def main() -> None:
        add(server, "before")
        chat, feed = RedisChat(server.url, KEY, runtime), KeepingFeed(runtime)
        assert isinstance(chat, LiveSource)
        assert chat.modalities == {Modality.CHAT}
        spans = []
        async with running(chat, feed):
            await feed.until_bounds(1)
            for number in range(5):
                before_ns = feed.now_ns()
                add(server, f"line {number}")
                spans.append((before_ns, feed.now_ns()))
                await feed.until_lines(number + 1)
            await feed.until_bounds(2)
        assert feed.said == [("ann", f"line {number}") for number in range(5)]
        assert {clock.tier for clock in feed.clocks} == {Tier.SERVER}
        error_ns = max(clock.error_ns for clock in feed.clocks)
        assert error_ns < 100 * MS
        for line, (before_ns, after_ns) in zip(feed.lines, spans, strict=True):
            # IDs are rounded down to milliseconds.
            assert before_ns - error_ns - MS <= line.t_ns <= after_ns + error_ns
        assert chat.drops.total == 0
        check_items(feed, "chat")

    run_async(main)


def test_the_stream_need_not_exist(server: RedisServer, runtime: SystemRuntime) -> None:
    async def main() -> None:
        chat, feed = RedisChat(server.url, KEY, runtime), KeepingFeed(runtime)
        async with running(chat, feed):
            await feed.until_bounds(2)
            add(server, "first")
            await feed.until_lines(1)

    run_async(main)


def test_what_was_added_while_the_connection_was_lost_is_read(
    server: RedisServer, runtime: SystemRuntime
) -> None:
    async def main() -> None:
        chat, feed = RedisChat(server.url, KEY, runtime), KeepingFeed(runtime)
        async with running(chat, feed):
            await feed.until_bounds(1)
            add(server, "one")
            await feed.until_lines(1)
            assert server.kill_clients() == 1
            add(server, "two")
            await feed.until_lines(2)
            server.kill()
            server.start()
            add(server, "three")
            await feed.until_lines(3)
            await feed.until_bounds(1)
        assert [text for _, text in feed.said] == ["one", "two", "three"]
        assert chat.drops.total == 0
        check_items(feed, "chat")

    run_async(main)


def test_an_outage_says_no_bounds_and_is_said_once(
    server: RedisServer, runtime: SystemRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        chat = RedisChat(server.url, KEY, runtime, timeout_s=0.2)
        feed, other_feed = KeepingFeed(runtime), KeepingFeed(runtime)
        async with running(chat, feed), running(ChatInbox(runtime), other_feed):
            await feed.until_bounds(2)
            with logged(caplog, "lost") as lost:
                server.kill()
                await lost
            bounds = len(feed.bounds)
            await other_feed.until_bounds(4)  # another chat says four of them meanwhile
            assert len(feed.bounds) == bounds
            with logged(caplog, "back") as back:
                server.start()
                await back
            await feed.until_bounds(1)

    with caplog.at_level(logging.WARNING):
        run_async(main)
    assert [record.message.split(": ")[-1][:4] for record in caplog.records] == ["lost", "back"]


@contextmanager
def logged(caplog: pytest.LogCaptureFixture, words: str) -> Iterator[asyncio.Future[None]]:
    """Done once a record with these words was logged."""
    seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def look(record: logging.LogRecord) -> bool:
        if words in record.getMessage() and not seen.done():
            seen.set_result(None)
        return True

    caplog.handler.addFilter(look)
    try:
        yield seen
    finally:
        caplog.handler.removeFilter(look)


def test_a_frozen_server_is_noticed(
    server: RedisServer, runtime: SystemRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        chat = RedisChat(server.url, KEY, runtime, timeout_s=0.3)
        feed = KeepingFeed(runtime)
        async with running(chat, feed):
            await feed.until_bounds(1)
            with logged(caplog, "lost (no answer within 0.3 s)") as lost:
                server.freeze()
                await lost
            server.thaw()
            add(server, "thawed")
            await feed.until_lines(1)
            await feed.until_bounds(1)

    with caplog.at_level(logging.WARNING):
        run_async(main)


def test_malformed_old_and_long_entries_are_counted(
    server: RedisServer, runtime: SystemRuntime
) -> None:
    async def main() -> None:
        chat, feed = RedisChat(server.url, KEY, runtime), KeepingFeed(runtime)
        async with running(chat, feed):
            await feed.until_bounds(1)
            add(server, "by hand", stream_id="5-1")
            with server.client() as client:
                client.xadd(KEY, {"text": "no author"})
                client.xadd(KEY, {"author": "ann"})
                client.xadd(KEY, {"data": "{}"})
                client.xadd(KEY, {"author": "ann", "text": b"\xff\xfe h\xc3\xa4"})
                client.xadd(KEY, {"author": " ", "text": "x"})
                client.xadd(KEY, {"author": "ann", "text": " \n"})
                client.xadd(KEY, {"author": "b" * 300, "text": "x" * 1_000_000, "more": "1"})
            said = await feed.until_lines(2)
        assert said == [("ann", "\ufffd\ufffd hä"), ("b" * 200, "x" * 2_000)]
        assert chat.drops.by_reason == {TOO_OLD: 1, MALFORMED: 3, EMPTY: 2, CUT: 1}

    run_async(main)


def test_a_stamp_from_the_future_counts_as_it_arrives(
    server: RedisServer, runtime: SystemRuntime
) -> None:
    async def main() -> None:
        chat, feed = RedisChat(server.url, KEY, runtime), KeepingFeed(runtime)
        async with running(chat, feed):
            await feed.until_bounds(1)
            add(server, "tomorrow", stream_id=f"{(runtime.wall_ns() // MS) + 86_400_000}-0")
            await feed.until_lines(1)
            assert feed.lines[0].t_ns <= feed.now_ns()
            assert feed.clocks[-1].tier is Tier.ARRIVAL

    run_async(main)


def test_a_flood_is_limited_and_the_rest_counted(
    server: RedisServer, runtime: SystemRuntime
) -> None:
    async def main() -> None:
        chat = RedisChat(server.url, KEY, runtime, lines_per_s=0.001, lines_burst=50)
        feed = KeepingFeed(runtime)
        async with running(chat, feed):
            await feed.until_bounds(1)
            with server.client() as client:
                pipeline = client.pipeline()
                for number in range(4 * PAGE_SIZE):
                    pipeline.xadd(KEY, {"author": "ann", "text": str(number)})
                pipeline.execute()
            await feed.until(lambda: chat.drops.total == 4 * PAGE_SIZE - 50)
            await feed.until_bounds(2)
        assert [text for _, text in feed.said] == [str(number) for number in range(50)]
        assert chat.drops.by_reason == {TOO_MANY: 4 * PAGE_SIZE - 50}

    run_async(main)


def test_a_stream_that_is_deleted_begins_anew(server: RedisServer, runtime: SystemRuntime) -> None:
    async def main() -> None:
        chat, feed = RedisChat(server.url, KEY, runtime), KeepingFeed(runtime)
        async with running(chat, feed):
            await feed.until_bounds(1)
            now_ms = runtime.wall_ns() // MS
            add(server, "one", stream_id=f"{now_ms}-9")
            await feed.until_lines(1)
            with server.client() as client:
                client.delete(KEY)
            await feed.until_bounds(3)
            # Before the ID of what was read: the clock was set, or it is another server's.
            add(server, "two", stream_id=f"{now_ms}-1")
            await feed.until_lines(2)
        assert [text for _, text in feed.said] == ["one", "two"]

    run_async(main)


def test_a_key_that_holds_something_else_is_an_error(
    server: RedisServer, runtime: SystemRuntime
) -> None:
    async def main() -> None:
        with server.client() as client:
            client.set(KEY, "x")
        chat = RedisChat(server.url, KEY, runtime)
        with pytest.raises(SourceError, match=f"chat in {KEY} of Redis at .*: refused .*WRONGTYPE"):
            await chat.run(KeepingFeed(runtime))

    run_async(main)


def test_a_redis_that_is_not_there_is_an_error_at_first(runtime: SystemRuntime) -> None:
    async def main() -> None:
        chat = RedisChat("redis://:hunter2@127.0.0.1:1/0", KEY, runtime)
        with pytest.raises(SourceError, match="cannot be reached") as error:
            await chat.run(KeepingFeed(runtime))
        assert "hunter2" not in str(error.value)
        assert "\n" not in str(error.value)

    run_async(main)


def test_it_may_be_run_again(server: RedisServer, runtime: SystemRuntime) -> None:
    async def main() -> None:
        chat, feed = RedisChat(server.url, KEY, runtime), KeepingFeed(runtime)
        for number in range(2):
            async with running(chat, feed):
                await feed.until_bounds(1)
                add(server, f"line {number}")
                await feed.until_lines(number + 1)
            add(server, "while nobody listened")
        assert [text for _, text in feed.said] == ["line 0", "line 1"]
        assert [line.sequence for line in feed.lines] == [0, 1]

    run_async(main)


def test_what_is_no_address_is_refused(runtime: SystemRuntime) -> None:
    with pytest.raises(UsageError, match="not a Redis address"):
        RedisChat("http://h", KEY, runtime)
