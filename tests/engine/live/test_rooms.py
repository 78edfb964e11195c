"""Live sessions with real WebRTC clients, a real Redis and real (tiny) models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterpoint.engine import Engine
from counterpoint.engine.chat_redis import chat_key
from counterpoint.engine.config import (
    Config,
    EngineSection,
    LiveSection,
    PurposeSection,
    RedisSection,
)
from counterpoint.engine.live.rooms import Rooms, peer_settings
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.redis_client import EVENTS_KEY, predictions_key
from counterpoint.engine.server.port import Joined, RefusedError, SignalError, UnknownError
from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import Modality
from tests.support.bundles import tiny_bundle
from tests.support.redis import RedisServer, redis_server, run_async
from tests.support.webrtc import WAIT_S, Client, PatternTrack, ToneTrack

LIVE = LiveSection(media_idle_ms=1_000, linger_ms=1_000)
ANY_PURPOSE = PurposeSection()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").root


class House:
    """Rooms, their engine and the clients that joined."""

    def __init__(self, engine: Engine, rooms: Rooms, server: RedisServer) -> None:
        self.engine = engine
        self.rooms = rooms
        self.server = server
        self._clients: list[Client] = []

    async def enter(self, session: str, name: str, **tracks: Any) -> tuple[Client, Joined]:
        client = Client(channel_label="counterpoint", **tracks)
        self._clients.append(client)
        joined = await self.rooms.join(session, name, await client.offer())
        await client.accept(joined.answer)
        await client.until_open()
        return client, joined

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def until_over(self) -> None:
        """Return once no session runs."""
        async with asyncio.timeout(WAIT_S):
            while self.rooms.names():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)


def config_for(
    bundle: Path, server: RedisServer, live: LiveSection, purpose: PurposeSection
) -> Config:
    return Config(
        engine=EngineSection(bundle=str(bundle)),
        redis=RedisSection(url=server.url),
        live=live,
        purpose=purpose,
    )


def with_rooms(
    bundle: Path,
    use: Callable[[House], Awaitable[None]],
    live: LiveSection = LIVE,
    purpose: PurposeSection = ANY_PURPOSE,
) -> None:
    @asynccontextmanager
    async def house(server: RedisServer) -> AsyncIterator[House]:
        peers = replace(peer_settings(live, purpose), loopback=True)
        async with (
            Engine.open(config_for(bundle, server, live, purpose)) as engine,
            Rooms.open(engine, peers=peers) as rooms,
        ):
            opened = House(engine, rooms, server)
            try:
                yield opened
            finally:
                await opened.close()

    async def main(server: RedisServer) -> None:
        async with house(server) as opened:
            await use(opened)

    with redis_server() as server:
        run_async(lambda: main(server))


def said(client: Client, kind: str) -> list[dict[str, Any]]:
    documents = [json.loads(text) for text in client.received]
    return [document for document in documents if document["type"] == kind]


async def until_said(client: Client, kind: str, count: int = 1) -> list[dict[str, Any]]:
    async with asyncio.timeout(WAIT_S):
        while len(said(client, kind)) < count:
            await client.until_received(len(client.received) + 1)
    return said(client, kind)


def events(server: RedisServer) -> list[tuple[str, str]]:
    with server.client() as client:
        entries: Any = client.xrange(EVENTS_KEY)
    documents = [json.loads(fields["data"]) for _, fields in entries]
    return [(document["session"], document["event"]) for document in documents]


def test_a_client_is_greeted_heard_and_told_what_the_engine_makes_of_it(bundle: Path) -> None:
    async def use(house: House) -> None:
        client, _ = await house.enter("s", "ann", video=PatternTrack(), audio=ToneTrack())
        hello = (await until_said(client, "hello"))[0]
        assert (hello["session"], hello["participant"]) == ("s", "ann")
        assert hello["participants"] == ["ann"]
        assert client.channel is not None
        client.channel.send(json.dumps({"type": "chat", "text": "write to a@example.org"}))
        echoed = (await until_said(client, "chat"))[0]
        assert echoed == {"type": "chat", "author": "ann", "text": "write to [email]"}
        client.channel.send(json.dumps({"type": "ping", "id": 7}))
        assert (await until_said(client, "pong"))[0]["id"] == 7
        async with asyncio.timeout(WAIT_S):
            while not all_heard(said(client, "prediction"), None):
                await client.until_received(len(client.received) + 1)
        told = said(client, "prediction")
        own = [each["document"] for each in told if each["participant"] == "ann"]
        mixed = [each["document"] for each in told if each["participant"] is None]
        assert {document["session"] for document in own} == {"s/ann"}
        assert {document["session"] for document in mixed} == {"s"}
        assert mixed[-1]["participants"] == {"ann": 1.0}
        # One voice alone: the session says what the participant says.
        by_window = {document["window"]: document for document in own}
        assert mixed[-1]["heads"] == by_window[mixed[-1]["window"]]["heads"]
        described = house.rooms.describe("s")
        assert described["participants"][0]["connections"][0]["state"] == "connected"

    with_rooms(bundle, use)


def all_heard(told: list[dict[str, Any]], participant: str | None) -> bool:
    """Whether some window of theirs had all three modalities."""
    return any(
        document["modalities"]["video"]["coverage"] > 0
        and document["modalities"]["audio"]["coverage"] > 0
        and document["modalities"]["chat"]["state"] == "present"
        for document in (each["document"] for each in told if each["participant"] == participant)
    )


def test_participants_have_windows_of_their_own_on_one_grid(bundle: Path) -> None:
    async def use(house: House) -> None:
        ann, _ = await house.enter("s", "ann", audio=ToneTrack())
        await until_said(ann, "prediction", 2)
        bob, _ = await house.enter("s", "bob", audio=ToneTrack())
        async with asyncio.timeout(WAIT_S):
            async for prediction in house.rooms.follow("s"):
                if set(prediction.participants) == {"ann", "bob"}:
                    break
        assert sum(prediction.participants.values()) == pytest.approx(1.0)
        assert (await until_said(bob, "hello"))[0]["participants"] == ["ann", "bob"]
        assert said(ann, "participants")[-1]["names"] == ["ann", "bob"]
        await house.engine.publisher.drain(5.0)
        with house.server.client() as client:
            for key in ("s", "s/ann", "s/bob"):
                assert client.xlen(predictions_key(key)) > 0, key
        windows = [p.window for p in house.server.predictions("s") if p.revision == 0]
        assert windows == sorted(set(windows))
        hop_ns = house.engine.models.bundle.manifest.hop_ns
        assert all(p.end_ns == p.window * hop_ns for p in house.server.predictions("s"))

    with_rooms(bundle, use)


def test_a_line_of_somebody_else_is_heard_by_all_and_a_participants_by_themselves(
    bundle: Path,
) -> None:
    async def use(house: House) -> None:
        await house.enter("s", "ann", audio=ToneTrack())
        bob, _ = await house.enter("s", "bob", audio=ToneTrack())
        house.rooms.chat("s", "ann", "mine alone")

        async def chat_state(name: str, state: str) -> None:
            async with asyncio.timeout(WAIT_S):
                async for prediction in house.rooms.follow("s"):
                    chat = prediction.modalities[Modality.CHAT]
                    if prediction.session == f"s/{name}" and chat.state.value == state:
                        return

        await chat_state("ann", "present")
        await chat_state("bob", "silent")
        house.rooms.chat("s", "moderator", "to all of you")
        await chat_state("bob", "present")
        assert len(await until_said(bob, "chat", 2)) == 2

    with_rooms(bundle, use)


def test_a_client_that_comes_back_goes_on_in_the_same_session_with_a_new_epoch(
    bundle: Path,
) -> None:
    async def use(house: House) -> None:
        first, _ = await house.enter("s", "ann", audio=ToneTrack())
        before = (await until_said(first, "prediction", 4))[-1]["document"]
        second, _ = await house.enter("s", "ann", audio=ToneTrack())
        after = (await until_said(second, "prediction", 4))[-1]["document"]
        assert after["window"] > before["window"]
        assert after["epoch"] == before["epoch"] + 1
        assert house.rooms.describe("s")["participants"][0]["name"] == "ann"
        assert events(house.server).count(("s", "started")) == 1

    with_rooms(bundle, use)


def test_a_client_that_leaves_may_come_back_within_the_linger_time(bundle: Path) -> None:
    async def use(house: House) -> None:
        client, joined = await house.enter("s", "ann", audio=ToneTrack())
        await until_said(client, "prediction")
        await house.rooms.leave("s", joined.connection)
        with pytest.raises(UnknownError):
            await house.rooms.leave("s", joined.connection)
        again, _ = await house.enter("s", "ann", audio=ToneTrack())
        await until_said(again, "prediction")
        assert events(house.server).count(("s", "started")) == 1

    with_rooms(bundle, use, replace(LIVE, linger_ms=10_000))


def test_who_comes_back_while_their_end_is_under_way_is_told_to_try_again(bundle: Path) -> None:
    async def use(house: House) -> None:
        await house.enter("s", "bob", audio=ToneTrack())
        _, joined = await house.enter("s", "ann", audio=ToneTrack())
        other = Client(audio=ToneTrack())
        offer = await other.offer()
        (room,) = house.rooms._rooms.values()
        participant = room._participants["ann"]
        await house.rooms.leave("s", joined.connection)
        participant.lineup.close()  # as it is when nobody came back in time
        with pytest.raises(RefusedError, match="is ending") as refused:
            await house.rooms.join("s", "ann", offer)
        assert (refused.value.reason, refused.value.retry_after_s) == ("closing", 1)
        await other.close()

    with_rooms(bundle, use)


def test_a_killed_client_ends_its_session_which_is_told(bundle: Path) -> None:
    async def use(house: House) -> None:
        client, _ = await house.enter("s", "ann", video=PatternTrack(), audio=ToneTrack())
        await until_said(client, "prediction")
        client.kill()
        await house.until_over()
        await house.engine.publisher.drain(5.0)
        told = events(house.server)
        assert ("s", "ended") in told
        assert ("s/ann", "ended") in told

    with_rooms(bundle, use)


def test_a_camera_that_stalls_marks_its_modality_and_ends_nothing(bundle: Path) -> None:
    async def use(house: House) -> None:
        video = PatternTrack()
        client, _ = await house.enter("s", "ann", video=video, audio=ToneTrack())
        await until_said(client, "prediction")
        ssrc = client.ssrc("video")
        client.filter(lambda packet_ssrc, _: packet_ssrc != ssrc)
        async with asyncio.timeout(WAIT_S):
            async for prediction in house.rooms.follow("s"):
                state = prediction.modalities[Modality.VIDEO].state.value
                if state == "stalled" and prediction.session == "s/ann":
                    break
        assert prediction.modalities[Modality.AUDIO].coverage > 0
        assert house.rooms.names() == ["s"]

    with_rooms(bundle, use)


def test_what_cannot_be_taken_in_is_refused_and_begins_nothing(bundle: Path) -> None:
    async def use(house: House) -> None:
        with pytest.raises(SignalError):
            await house.rooms.join("s", "ann", "v=0\r\nnot an offer\r\n")
        assert house.rooms.names() == []
        await house.enter("s", "ann", audio=ToneTrack())
        other = Client(audio=ToneTrack())
        offer = await other.offer()
        with pytest.raises(RefusedError, match="participants") as refused:
            await house.rooms.join("s", "bob", offer)
        assert refused.value.reason == "participants"
        with pytest.raises(RefusedError, match="sessions run") as refused:
            await house.rooms.join("t", "bob", offer)
        assert refused.value.reason == "sessions"
        await other.close()
        with pytest.raises(UsageError):
            house.rooms.chat("s", "ann", "  ")
        with pytest.raises(UnknownError):
            house.rooms.chat("nobody", "ann", "hello")

        def flood() -> None:
            for _ in range(100):
                house.rooms.chat("s", "ann", "hello")

        with pytest.raises(RefusedError) as refused:
            flood()
        assert refused.value.reason == "rate"

    with_rooms(bundle, use, replace(LIVE, max_participants=1, max_sessions=1))


def test_bad_messages_on_the_data_channel_are_answered_with_the_reason(bundle: Path) -> None:
    async def use(house: House) -> None:
        client, _ = await house.enter("s", "ann", audio=ToneTrack())
        assert client.channel is not None
        for message in ("not json", "[]", '{"type":"dance"}', '{"type":"chat","text":7}'):
            client.channel.send(message)
        client.channel.send(b"\x00\x01")
        client.channel.send(json.dumps({"type": "chat", "text": "x" * 10_000}))
        errors = await until_said(client, "error", 6)
        assert all(error["reason"] for error in errors)
        assert not said(client, "chat")

    with_rooms(bundle, use)


def test_erase_leaves_nothing_of_a_session_in_redis(bundle: Path) -> None:
    async def use(house: House) -> None:
        client, _ = await house.enter("s", "ann", audio=ToneTrack())
        other, _ = await house.enter("sister", "bob", audio=ToneTrack())
        await until_said(client, "prediction", 3)
        await until_said(other, "prediction", 1)
        with house.server.client() as redis:
            redis.xadd(chat_key("s"), {"author": "ann", "text": "hello"})
        erased = await house.rooms.erase("s")
        assert erased["erased"]["predictions"] > 0
        assert erased["erased"]["chat"] == 1
        assert erased["erased"]["events"] == 4  # two started, two ended
        with house.server.client() as redis:
            keys: Any = redis.scan_iter()
            assert {key.split(":")[-1].split("/")[0] for key in keys} == {"events", "sister"}
        assert {name.split("/")[0] for name, _ in events(house.server)} == {"sister"}
        assert (await until_said(client, "over"))[0]["reason"] == "erased"
        assert house.rooms.names() == ["sister"]
        with pytest.raises(UnknownError):
            await house.rooms.erase("s")

    with_rooms(bundle, use)


def test_lines_from_redis_are_heard(bundle: Path) -> None:
    async def use(house: House) -> None:
        await house.enter("s", "ann", audio=ToneTrack())
        heard: list[Prediction] = []
        async with asyncio.timeout(WAIT_S):
            async for prediction in house.rooms.follow("s"):
                # Again and again, since it is read from the moment on at which it is read.
                with house.server.client() as redis:
                    redis.xadd(chat_key("s"), {"author": "eve", "text": "hello from Redis"})
                if prediction.modalities[Modality.CHAT].state.value == "present":
                    heard.append(prediction)
                    break
        assert heard

    with_rooms(bundle, use, replace(LIVE, chat_redis=True))


def test_a_number_is_announced_told_and_mixed(tmp_path: Path) -> None:
    async def use(house: House) -> None:
        client, _ = await house.enter("s", "ann", video=PatternTrack(), audio=ToneTrack())
        hello = (await until_said(client, "hello"))[0]
        assert hello["numbers"] == {"arousal": [10.0, 90.0]}
        assert set(hello["heads"]) == {"emotion", "sentiment"}
        house.rooms.chat("s", "ann", "so good")
        async with asyncio.timeout(WAIT_S):
            async for prediction in house.rooms.follow("s"):
                if prediction.modalities[Modality.CHAT].state.value == "present":
                    break
        number = prediction.numbers["arousal"]
        assert (number.low, number.high) == (10.0, 90.0)
        assert number.contributions[Modality.CHAT] != 0
        assert "arousal" in house.rooms.describe("s")["heads"]

    with_rooms(tiny_bundle(tmp_path / "numbers", numbers=True).root, use)


def test_at_work_pictures_and_sound_are_not_even_sent_and_words_are_heard(bundle: Path) -> None:
    async def use(house: House) -> None:
        client, _ = await house.enter("s", "ann", video=PatternTrack(), audio=ToneTrack())
        directions = [t.currentDirection for t in client.pc.getTransceivers()]
        assert directions == ["inactive", "inactive"]
        hello = (await until_said(client, "hello"))[0]
        assert set(hello["heads"]) == {"sentiment"}
        house.rooms.chat("s", "ann", "what a day")
        async with asyncio.timeout(WAIT_S):
            async for prediction in house.rooms.follow("s"):
                if prediction.modalities[Modality.CHAT].state.value == "present":
                    break
        assert set(prediction.heads) == {"sentiment"}
        for modality in (Modality.VIDEO, Modality.AUDIO):
            assert prediction.modalities[modality].state.value == "missing"
        (connection,) = house.rooms.describe("s")["participants"][0]["connections"]
        assert (connection["video"], connection["audio"]) == (None, None)

    with_rooms(bundle, use, purpose=PurposeSection(profile="workplace"))
