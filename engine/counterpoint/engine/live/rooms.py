"""All live sessions of this process; what the server talks to."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from counterpoint.engine.background import background, unwrapped
from counterpoint.engine.config import NS_PER_MS, LiveSection, PurposeSection
from counterpoint.engine.engine import Engine
from counterpoint.engine.live.admission import Admission, expected_cores
from counterpoint.engine.live.erase import erase_session
from counterpoint.engine.live.room import Room
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.server.port import Joined, RefusedError, SignalError, UnknownError
from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import Modality
from counterpoint.streams.webrtc.descriptions import check_description
from counterpoint.streams.webrtc.settings import IceServer, PeerSettings
from counterpoint.streams.webrtc.signalling import OfferError, read_offer

log = logging.getLogger(__name__)

ERASE_DRAIN_S: Final = 2.0


def peer_settings(section: LiveSection, purpose: PurposeSection) -> PeerSettings:
    """How peers are treated, by the configuration: what the purpose forbids is not even sent.

    Raises:
        UsageError: an ICE server that cannot be read.
    """
    return PeerSettings(
        ice_servers=tuple(
            _ice_server(text.strip()) for text in section.ice_servers.split(",") if text.strip()
        ),
        modalities=purpose.modalities - {Modality.CHAT},
        media_idle_ns=section.media_idle_ms * NS_PER_MS,
        connect_timeout_ns=section.connect_ms * NS_PER_MS,
    )


def _ice_server(text: str) -> IceServer:
    """``stun:host:port``, or ``turn:user:password@host:port?transport=udp``."""
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in ("stun", "stuns", "turn", "turns") or not rest:
        raise UsageError(
            f"live.ice_servers: {scheme}:…: write stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT"
        )
    account, at, host = rest.rpartition("@")
    if not at:
        return IceServer(url=text)
    user, colon, password = account.partition(":")
    if not colon:
        raise UsageError(f"live.ice_servers: {scheme}:…@{host}: a TURN account is USER:PASSWORD")
    return IceServer(url=f"{scheme}:{host}", username=user, credential=password)


class Rooms:
    """Live sessions by name. Made by `Rooms.open`; implements `server.port.LiveSessions`."""

    def __init__(
        self,
        engine: Engine,
        peers: PeerSettings,
        group: asyncio.TaskGroup,
        *,
        participant_cores: float,
    ) -> None:
        self._engine = engine
        self._peers = peers
        self._group = group
        self._rooms: dict[str, Room] = {}
        self._closing = False
        self._joined = 0
        self._begun = 0
        self.admission = Admission(
            engine.runtime,
            capacity=engine.config.live.capacity,
            expected_cores=participant_cores,
            participants=lambda: sum(len(room.participants) for room in self._rooms.values()),
            skipped=lambda: sum(room.skipped() for room in self._rooms.values()),
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls, engine: Engine, *, peers: PeerSettings | None = None
    ) -> AsyncIterator[Rooms]:
        """Take sessions in while the block lasts; leaving it ends them, and they are told.

        Args:
            peers: by default as the configuration has it.
        """
        runtime = engine.runtime
        each = await runtime.lane("load").submit(lambda: expected_cores(engine.models, runtime))
        settings = peers or peer_settings(engine.config.live, engine.config.purpose)
        try:
            async with asyncio.TaskGroup() as group:
                rooms = cls(engine, settings, group, participant_cores=each)
                async with background(runtime, "admission", rooms.admission.run()):
                    try:
                        yield rooms
                    finally:
                        rooms.close()
        except BaseExceptionGroup as failed:
            raise unwrapped(failed) from None

    def close(self) -> None:
        """Take nobody in any more, and end all sessions."""
        self._closing = True
        for room in self._rooms.values():
            room.end("the engine stops", for_good=False)

    # -- LiveSessions --------------------------------------------------------------------------

    async def join(self, session: str, participant: str, offer: str) -> Joined:
        if self._closing:
            raise RefusedError("the engine stops", reason="closing")
        try:
            # Nothing is begun for an offer that cannot be read, no certificate made.
            check_description(read_offer(offer).sdp)
        except OfferError as error:
            raise SignalError(str(error)) from error
        room = self._rooms.get(session)
        if room is not None and room.over:
            raise RefusedError(
                f"session {session} is ending; try again", reason="closing", retry_after_s=1
            )
        if room is None or participant not in room.participants:
            self.admission.admit()
        if room is None:
            room = self._new_room(session)
        joined = await room.join(participant, offer)
        self._joined += 1
        return joined

    def _new_room(self, session: str) -> Room:
        most = self._engine.config.live.max_sessions
        if len(self._rooms) >= most:
            raise RefusedError(f"{most} sessions run, and more are not allowed", reason="sessions")
        room = Room(session, self._engine, self._peers)
        self._rooms[session] = room
        self._begun += 1
        self._engine.runtime.spawn(self._group, f"room/{session}", self._keep(room))
        return room

    async def _keep(self, room: Room) -> None:
        try:
            await room.run()
        finally:
            del self._rooms[room.name]

    async def trickle(self, session: str, connection: str, fragment: str) -> None:
        await self._room(session).trickle(connection, fragment)

    async def leave(self, session: str, connection: str) -> None:
        await self._room(session).leave(connection)

    def chat(self, session: str, author: str, text: str) -> None:
        self._room(session).chat(author, text)

    def names(self) -> list[str]:
        return sorted(self._rooms)

    def describe(self, session: str) -> Mapping[str, Any]:
        return self._room(session).describe()

    async def erase(self, session: str) -> Mapping[str, Any]:
        room = self._rooms.get(session)
        if room is not None:
            room.end("erased", for_good=True)
            await room.ended.wait()
            # What waits for Redis must be there before it can be erased.
            await self._engine.publisher.drain(ERASE_DRAIN_S)

        def speaks_of(document: str) -> bool:
            try:
                name = json.loads(document)["session"]
            except (ValueError, KeyError, TypeError):
                return False
            return name == session or str(name).startswith(f"{session}/")

        erased = await erase_session(self._engine.redis_url, session, speaks_of)
        if room is None and not any(erased.values()):
            raise UnknownError(f"there is no session {session}, and nothing was kept of it")
        return {"session": session, "erased": erased}

    async def follow(self, session: str) -> AsyncIterator[Prediction]:
        fanout = self._room(session).predictions
        reader = fanout.open()
        try:
            async for prediction in reader:
                yield prediction
        finally:
            fanout.leave(reader)

    def counters(self) -> Mapping[str, float]:
        publisher = self._engine.publisher.stats()
        return {
            "sessions": float(len(self._rooms)),
            "participants": float(sum(len(room.participants) for room in self._rooms.values())),
            "sessions_begun_total": float(self._begun),
            "connections_taken_total": float(self._joined),
            "windows_skipped": float(sum(room.skipped() for room in self._rooms.values())),
            "predictions_published_total": float(publisher.published),
            "publish_backlog": float(publisher.backlog),
            "predictions_dropped_total": float(sum(publisher.dropped.values())),
            **self.admission.counters(),
        }

    def _room(self, session: str) -> Room:
        room = self._rooms.get(session)
        if room is None:
            raise UnknownError(f"there is no session {session}")
        return room
