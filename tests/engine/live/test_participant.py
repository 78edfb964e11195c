"""A participant's connections: how many, how much is read of each, and what is told of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from counterpoint.engine.config import Config, EngineSection, LiveSection, RedisSection
from counterpoint.engine.live.participant import MAX_CONNECTIONS, MESSAGE_BURST
from counterpoint.engine.live.rooms import Rooms
from counterpoint.engine.server.port import RefusedError
from tests.support.bundles import tiny_bundle
from tests.support.live_server import live_server
from tests.support.redis import redis_server, run_async
from tests.support.webrtc import Client, PatternTrack, ToneTrack, until


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").root


def with_rooms(bundle: Path, use: Callable[[Rooms], Awaitable[None]]) -> None:
    async def main(redis_url: str) -> None:
        config = Config(
            engine=EngineSection(bundle=str(bundle)),
            redis=RedisSection(url=redis_url),
            live=LiveSection(linger_ms=500, media_idle_ms=10_000),
        )
        async with live_server(config) as server:
            await use(server.rooms)

    with redis_server() as redis:
        run_async(lambda: main(redis.url))


async def enter(rooms: Rooms, client: Client) -> None:
    joined = await rooms.join("s", "ann", await client.offer())
    await client.accept(joined.answer)
    await client.until_open()


def test_a_flood_of_messages_is_not_read_and_its_sender_is_told(bundle: Path) -> None:
    async def use(rooms: Rooms) -> None:
        client = Client(channel_label="counterpoint")
        await enter(rooms, client)
        assert client.channel is not None
        flood = 3 * MESSAGE_BURST
        for number in range(flood):
            client.channel.send(json.dumps({"type": "ping", "id": number}))

        def connection() -> dict[str, object]:
            (told,) = rooms.describe("s")["participants"][0]["connections"]
            return dict(told)

        def arrived() -> bool:
            return bool(connection()["channel"]["messages"] == flood)  # type: ignore[index]

        await until(arrived)
        unread = connection()["unread_messages"]
        assert isinstance(unread, int)
        assert 0 < unread <= flood - MESSAGE_BURST
        said = [json.loads(text) for text in client.received]
        answered = [document["id"] for document in said if document["type"] == "pong"]
        assert answered[:MESSAGE_BURST] == list(range(MESSAGE_BURST))
        reasons = {document["reason"] for document in said if document["type"] == "error"}
        assert reasons == {"too many messages: 20 a second are read"}
        await client.close()

    with_rooms(bundle, use)


def test_connections_of_one_participant_are_bounded(bundle: Path) -> None:
    async def use(rooms: Rooms) -> None:
        clients = [Client(channel_label="counterpoint") for _ in range(MAX_CONNECTIONS + 1)]
        offers = [await client.offer() for client in clients]
        # All at once: those that are still being answered count, too.
        answers = await asyncio.gather(
            *(rooms.join("s", "ann", offer) for offer in offers), return_exceptions=True
        )
        (refusal,) = [answer for answer in answers if isinstance(answer, BaseException)]
        assert isinstance(refusal, RefusedError)
        assert refusal.reason == "connections"
        assert len(rooms.describe("s")["participants"][0]["connections"]) == MAX_CONNECTIONS
        for client in clients:
            await client.close()

    with_rooms(bundle, use)


def test_everything_that_came_is_accounted_for(bundle: Path) -> None:
    async def use(rooms: Rooms) -> None:
        video, audio = PatternTrack(160, 120), ToneTrack()
        client = Client(video, audio, channel_label="counterpoint")
        await enter(rooms, client)
        assert client.channel is not None
        client.channel.send(json.dumps({"type": "chat", "text": "hello"}))
        await until(lambda: video.number >= 60)
        described = rooms.describe("s")["participants"][0]
        (connection,) = described["connections"]
        for kind, items in described["items"].items():
            parts = {name: count for name, count in items.items() if name != "received"}
            assert items["received"] == sum(parts.values()), kind
        assert described["items"]["chat"]["received"] == 1
        # The rest of what the peer handed over waits for the session.
        assert 0 < described["items"]["video"]["received"] <= connection["video"]["frames"]
        assert connection["channel"]["messages"] == 1
        await client.close()

    with_rooms(bundle, use)
