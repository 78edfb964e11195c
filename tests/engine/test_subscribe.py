"""The subscriber against a real server: order, resuming, gaps, restarts, ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from counterpoint.engine.align import Status
from counterpoint.engine.outbox import DROP_QUEUE_FULL
from counterpoint.engine.prediction import Prediction, to_json
from counterpoint.engine.publish import Publisher
from counterpoint.engine.redis_client import EVENTS_KEY, connector, predictions_key
from counterpoint.engine.subscribe import (
    Followed,
    Gap,
    GapCause,
    StateChange,
    StateKind,
    Subscriber,
)
from counterpoint.streams.errors import FailedError, UsageError
from counterpoint.streams.runtime import SystemRuntime
from tests.support.predictions import make_prediction
from tests.support.redis import RedisServer, redis_server, run_async

pytestmark = pytest.mark.redis_server

KEY = predictions_key("demo")


@pytest.fixture(name="server")
def fixture_server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def write(server: RedisServer, *predictions: Prediction, first_id: int = 1) -> None:
    """Put predictions into their session's stream under the IDs first_id-1, first_id-2, …"""
    with server.client() as client:
        for number, prediction in enumerate(predictions, 1):
            client.xadd(
                predictions_key(prediction.session),
                {"data": to_json(prediction)},
                id=f"{first_id}-{number}",
            )


def write_event(server: RedisServer, event: str, session: str = "demo", **more: Any) -> None:
    document = {"schema_version": 1, "event": event, "session": session, "reason": None} | more
    with server.client() as client:
        client.xadd(EVENTS_KEY, {"data": json.dumps(document)})


class Follower:
    """Follows a session in a task of its own and hands over what comes."""

    def __init__(self, server: RedisServer, **options: Any) -> None:
        self.subscriber = Subscriber(server.url, SystemRuntime(seed=1), timeout_s=1.0)
        self._options = options
        self._came: asyncio.Queue[Followed | None] = asyncio.Queue(10_000)

    async def run(self) -> None:
        async with aclosing(self.subscriber.follow("demo", **self._options)) as follow:
            async for followed in follow:
                await self._came.put(followed)
        await self._came.put(None)

    async def next(self) -> Followed | None:
        async with asyncio.timeout(10):
            return await self._came.get()

    async def take(self, count: int) -> list[object]:
        """The next ``count`` things, predictions as their window index."""
        return [brief(await self.next()) for _ in range(count)]

    async def until(self, kind: StateKind) -> list[object]:
        """Everything up to a change of that kind."""
        came: list[object] = []
        while not (
            isinstance(followed := await self.next(), StateChange) and followed.kind is kind
        ):
            came.append(brief(followed))
        return came

    @property
    def nothing_waits(self) -> bool:
        return self._came.empty()


def brief(followed: Followed | None) -> object:
    match followed:
        case Prediction():
            return followed.window
        case StateChange():
            return followed.kind
        case Gap():
            return (followed.first_window, followed.last_window, followed.cause)
        case None:
            return None


@asynccontextmanager
async def following(server: RedisServer, **options: Any) -> AsyncIterator[Follower]:
    follower = Follower(server, **options)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run())
        assert brief(await follower.next()) is StateKind.CONNECTED
        yield follower
        task.cancel()


async def follow_to_end(server: RedisServer, **options: Any) -> list[object]:
    """Follow a session that has ended; everything that came, without ``connected``."""
    follow = Subscriber(server.url).follow("demo", until_end=True, **options)
    came = [brief(followed) async for followed in follow]
    assert came[0] is StateKind.CONNECTED
    return came[1:]


def test_what_the_stream_holds_comes_first_and_then_what_is_new(server: RedisServer) -> None:
    async def main() -> None:
        write(server, *(make_prediction(window) for window in range(1, 601)))
        async with following(server) as follower:
            assert await follower.take(600) == list(range(1, 601))
            write(server, make_prediction(601), first_id=2)
            assert await follower.take(1) == [601]

    run_async(main)


def test_since_now_leaves_out_what_was_there(server: RedisServer) -> None:
    async def main() -> None:
        write(server, make_prediction(1), make_prediction(2))
        async with following(server, since="now") as follower:
            write(server, make_prediction(7), first_id=2)
            assert await follower.take(1) == [7]

    run_async(main)


def test_the_last_id_of_one_follower_is_where_a_later_one_goes_on(server: RedisServer) -> None:
    async def main() -> None:
        write(server, *(make_prediction(window) for window in (1, 2, 3, 5)))
        subscriber = Subscriber(server.url)
        assert subscriber.last_id("demo") is None
        async with aclosing(subscriber.follow("demo")) as follow:
            came = [brief(await anext(follow)) for _ in range(3)]
        assert came == [StateKind.CONNECTED, 1, 2]
        assert subscriber.last_id("demo") == "1-2"
        async with following(server, since="1-2") as later:
            assert await later.take(3) == [3, (4, 4, GapCause.UNKNOWN), 5]

    run_async(main)


def test_starting_behind_an_id_knows_which_window_comes_next(server: RedisServer) -> None:
    async def main() -> None:
        write(server, make_prediction(4), make_prediction(9))
        async with following(server, since="1-1") as follower:
            assert await follower.take(2) == [(5, 8, GapCause.UNKNOWN), 9]

    run_async(main)


@pytest.mark.parametrize("since", ["yesterday", "1-x", "-1", ""])
def test_a_since_that_is_none_is_refused(server: RedisServer, since: str) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match="neither start nor now"):
            await anext(Subscriber(server.url).follow("demo", since=since))

    run_async(main)


def test_a_session_that_does_not_exist_yet_is_waited_for(server: RedisServer) -> None:
    async def main() -> None:
        async with following(server) as follower:
            write(server, make_prediction(1))
            assert await follower.take(1) == [1]

    run_async(main)


def test_gaps_say_why_as_far_as_it_was_stated(server: RedisServer) -> None:
    async def main() -> None:
        write(
            server,
            make_prediction(1),
            make_prediction(4, skipped_windows=2),
            make_prediction(8, skipped_windows=1, dropped={DROP_QUEUE_FULL: 2, "video:late": 9}),
            make_prediction(11, dropped={"video:late": 9}),
        )
        async with following(server) as follower:
            assert await follower.take(7) == [
                1,
                (2, 3, GapCause.SKIPPED),
                4,
                (5, 7, GapCause.DROPPED),
                8,
                (9, 10, GapCause.UNKNOWN),
                11,
            ]

    run_async(main)


def test_windows_that_were_cut_off_before_they_were_read_are_named(server: RedisServer) -> None:
    async def main() -> None:
        write(server, *(make_prediction(window) for window in range(1, 11)))
        with server.client() as client:
            client.xtrim(KEY, maxlen=4, approximate=False)
        async with following(server) as follower:
            assert await follower.take(2) == [(1, 6, GapCause.GONE), 7]
        async with following(server, since="1-2") as follower:
            # Which window stood at that ID nobody can say any more.
            assert await follower.take(4) == [7, 8, 9, 10]

    run_async(main)


def test_windows_cut_off_while_the_follower_was_away_are_named(server: RedisServer) -> None:
    async def main() -> None:
        write(server, make_prediction(1))
        async with following(server) as follower:
            assert await follower.take(1) == [1]
            with server.client() as client:
                # All in one step, so that the follower cannot read in between.
                pipe = client.pipeline(transaction=True)
                for window in range(2, 11):
                    pipe.xadd(KEY, {"data": to_json(make_prediction(window))}, id=f"2-{window}")
                pipe.xtrim(KEY, maxlen=3, approximate=False)
                pipe.execute()
            came = await follower.take(4)
        assert came == [(2, 7, GapCause.GONE), 8, 9, 10]

    run_async(main)


def test_revisions_and_epochs_and_a_session_begun_anew_are_no_gaps(server: RedisServer) -> None:
    async def main() -> None:
        write(
            server,
            make_prediction(1, status=Status.PROVISIONAL),
            make_prediction(1, revision=1),
            make_prediction(2),
            make_prediction(1, status=Status.AMENDED, revision=2),
            make_prediction(3),
            make_prediction(9, epoch=1),
            make_prediction(10, epoch=1),
            make_prediction(1),
            make_prediction(2),
            make_prediction(1),
        )
        async with following(server) as follower:
            assert await follower.take(10) == [1, 1, 2, 1, 3, 9, 10, 1, 2, 1]

    run_async(main)


def test_malformed_entries_are_reported_and_passed_over(server: RedisServer) -> None:
    async def main() -> None:
        write(server, make_prediction(1))
        with server.client() as client:
            client.xadd(KEY, {"data": "{broken"}, id="2-0")
            client.xadd(KEY, {"other": "field"}, id="2-1")
            client.xadd(KEY, {"data": to_json(make_prediction(2, session="x"))}, id="2-2")
            client.xadd(KEY, {"data": b"\xff\xfe"}, id="2-3")
            client.xadd(EVENTS_KEY, {"data": "[]"})
        write(server, make_prediction(2), first_id=3)
        follower = Subscriber(server.url).follow("demo")
        async with aclosing(follower):
            came = [await anext(follower) for _ in range(7)]
        assert [brief(followed) for followed in came[1:]] == [1, *[StateKind.MALFORMED] * 4, 2]
        broken, other, foreign, _ = (c for c in came[2:6] if isinstance(c, StateChange))
        assert broken.detail.startswith("not JSON")
        assert broken.stream_id == "2-0"
        assert other.detail == "no field 'data'"
        assert foreign.detail == "is of session 'x'"

    run_async(main)


def test_a_follower_goes_on_where_it_was_when_connections_are_killed(server: RedisServer) -> None:
    async def main() -> None:
        async with following(server) as follower:
            expected = 1
            for round_ in range(1, 21):
                predictions = [make_prediction(expected + i) for i in range(10)]
                write(server, *predictions[:5], first_id=2 * round_)
                server.kill_clients()
                write(server, *predictions[5:], first_id=2 * round_ + 1)
                assert await follower.take(10) == list(range(expected, expected + 10))
                expected += 10

    run_async(main)


def test_a_follower_resumes_after_redis_is_restarted_with_its_data() -> None:
    async def main() -> None:
        async with following(server) as follower:
            write(server, make_prediction(1), make_prediction(2))
            assert await follower.take(2) == [1, 2]
            server.stop()
            assert await follower.take(1) == [StateKind.DISCONNECTED]
            server.start()
            write(server, make_prediction(3), first_id=2)
            assert await follower.take(2) == [StateKind.CONNECTED, 3]

    with redis_server(appendonly=True) as server:
        run_async(main)


@pytest.mark.parametrize("later_id", [1, 9])
def test_a_follower_resumes_after_redis_came_back_empty(server: RedisServer, later_id: int) -> None:
    async def main() -> None:
        async with following(server) as follower:
            write(server, make_prediction(1), make_prediction(2), first_id=5)
            assert await follower.take(2) == [1, 2]
            server.stop()
            server.start()
            write(server, make_prediction(3), make_prediction(4), first_id=later_id)
            came = [c for c in await follower.take(2) if not isinstance(c, StateKind)]
            while len(came) < 2:
                came += [c for c in await follower.take(1) if not isinstance(c, StateKind)]
            assert came == [3, 4]

    run_async(main)


def test_a_stream_that_fell_back_is_read_from_its_beginning_without_repeating(
    server: RedisServer,
) -> None:
    async def main() -> None:
        early = [make_prediction(window) for window in (1, 2, 3)]
        write(server, *early, first_id=10)
        write(server, make_prediction(4), make_prediction(5), first_id=20)
        async with following(server) as follower:
            assert await follower.take(5) == [1, 2, 3, 4, 5]
            # As if restored from an older copy, to which a writer with a slow clock then added.
            with server.client() as client:
                client.delete(KEY)
            write(server, *early, first_id=10)
            write(server, make_prediction(6), first_id=15)
            server.kill_clients()
            came = await follower.until(StateKind.REWOUND)
            came += await follower.take(1)
            assert [c for c in came if not isinstance(c, StateKind)] == [6]
            write(server, make_prediction(8), first_id=16)
            assert await follower.take(2) == [(7, 7, GapCause.UNKNOWN), 8]

    run_async(main)


def test_a_session_that_has_ended_ends_a_follower_that_asks_for_it(server: RedisServer) -> None:
    async def main() -> None:
        write_event(server, "started", session="other")
        write_event(server, "started")
        write(server, *(make_prediction(window) for window in range(1, 601)))
        write_event(server, "ended", reason="done", last_id="1-600")
        write_event(server, "started", session="other")
        came = await follow_to_end(server)
        assert came == [StateKind.STARTED, *range(1, 601), StateKind.ENDED]

    run_async(main)


def test_events_of_earlier_runs_come_where_they_belong(server: RedisServer) -> None:
    async def main() -> None:
        write_event(server, "started")
        write(server, *(make_prediction(window) for window in range(1, 301)))
        write_event(server, "ended", last_id="1-300")
        write_event(server, "started")
        write(server, make_prediction(1), make_prediction(2), first_id=2)
        write_event(server, "ended", last_id="2-2")
        assert await follow_to_end(server) == [
            StateKind.STARTED,
            *range(1, 301),
            StateKind.ENDED,
            StateKind.STARTED,
            1,
            2,
            StateKind.ENDED,
        ]

    run_async(main)


def test_a_follower_ends_with_a_live_session_after_its_last_prediction(
    server: RedisServer,
) -> None:
    async def main() -> None:
        publisher = Publisher(connector(server.url), SystemRuntime(seed=1))
        follower = Follower(server, since="now", until_end=True)
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(publisher.run())
            group.create_task(follower.run())
            assert await follower.take(1) == [StateKind.CONNECTED]
            publisher.session_started("demo")
            for window in range(1, 301):
                publisher.offer(make_prediction(window))
            publisher.session_ended("demo", "end of file")
            assert await follower.until(StateKind.ENDED) == [StateKind.STARTED, *range(1, 301)]
            assert await follower.next() is None
            publishing.cancel()

    run_async(main)


def test_since_now_is_not_ended_by_an_end_that_was_before(server: RedisServer) -> None:
    async def main() -> None:
        write_event(server, "ended")
        async with following(server, since="now", until_end=True) as follower:
            write(server, make_prediction(1))
            assert await follower.take(1) == [1]

    run_async(main)


def test_a_publisher_and_a_follower_survive_restarts_together() -> None:
    async def main() -> None:
        runtime = SystemRuntime(seed=1)
        publisher = Publisher(connector(server.url), runtime)
        async with following(server, until_end=True) as follower, asyncio.TaskGroup() as group:
            publishing = group.create_task(publisher.run())
            publisher.session_started("demo")
            for start in range(1, 301, 100):
                for window in range(start, start + 100):
                    publisher.offer(make_prediction(window))
                await asyncio.sleep(0)
                server.kill()
                server.start()
            publisher.session_ended("demo", "done")
            came = await follower.until(StateKind.ENDED)
            publishing.cancel()
        assert [c for c in came if isinstance(c, int)] == list(range(1, 301))
        assert not [c for c in came if isinstance(c, tuple)]

    with redis_server(appendonly=True) as server:
        run_async(main)


def test_a_key_that_holds_something_else_is_an_error(server: RedisServer) -> None:
    async def main() -> None:
        with server.client() as client:
            client.set(KEY, "a string")
        with pytest.raises(FailedError, match="does not let session 'demo' be followed: WRONGTYPE"):
            await anext(Subscriber(server.url).follow("demo"))

    run_async(main)


def test_a_redis_that_is_not_there_is_named_once_and_waited_for(server: RedisServer) -> None:
    server.stop()

    async def main() -> None:
        follower = Follower(server)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(follower.run())
            assert await follower.take(1) == [StateKind.DISCONNECTED]
            assert follower.nothing_waits
            server.start()
            write(server, make_prediction(1))
            assert await follower.take(2) == [StateKind.CONNECTED, 1]
            task.cancel()

    run_async(main)
