"""One live session: its participants, what they say together, and who hears of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from counterpoint.engine.chat_redis import RedisChat, chat_key
from counterpoint.engine.config import NS_PER_MS
from counterpoint.engine.engine import Engine
from counterpoint.engine.live import messages
from counterpoint.engine.live.fanout import Fanout
from counterpoint.engine.live.mixer import Mixer
from counterpoint.engine.live.participant import Connection, Participant
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.redact import redact
from counterpoint.engine.server.port import (
    Joined,
    RefusedError,
    SignalError,
    UnknownError,
)
from counterpoint.streams.chat_inbox import TooManyLinesError
from counterpoint.streams.errors import CounterpointError, FailedError, UsageError
from counterpoint.streams.types import NS_PER_S, Modality
from counterpoint.streams.webrtc.peer import Peer
from counterpoint.streams.webrtc.settings import PeerSettings
from counterpoint.streams.webrtc.signalling import CandidateError, OfferError

log = logging.getLogger(__name__)


class Room:
    """A session while somebody is there. `run` it once; it returns when it is over.

    Args:
        name: of the session.
        peers: how peers are treated.
    """

    def __init__(self, name: str, engine: Engine, peers: PeerSettings) -> None:
        self.name = name
        self._engine = engine
        self._runtime = engine.runtime
        self._peers = peers
        manifest, config = engine.models.bundle.manifest, engine.config
        self._hop_ns = config.time.stride(manifest.hop_ns) * manifest.hop_ns
        self._mixer = Mixer.of(name, config.time, self._hop_ns)
        told = config.purpose.allowed_heads(manifest.tasks)
        self._heads = {head: spec.labels for head, spec in manifest.heads.items() if head in told}
        self._numbers = {
            name: (spec.low, spec.high) for name, spec in manifest.numbers.items() if name in told
        }
        self._origin_ns = self._runtime.now_ns()
        self._participants: dict[str, Participant] = {}
        self._predictions = Fanout()
        self._group: asyncio.TaskGroup | None = None
        self._wanted = asyncio.Event()  # somebody waits for `run` to have begun
        self._over = asyncio.Event()
        self.ended = asyncio.Event()
        """Set once all is over and has been offered to Redis."""
        self._timer_set = False
        self.reason = "done"

    # -- its life ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until nobody is left, or `end`."""
        publisher = self._engine.publisher
        publisher.session_started(self.name)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._wanted.set()
                limit = self._engine.config.live.max_minutes
                timer = (
                    self._runtime.call_at(
                        self._origin_ns + limit * 60 * NS_PER_S,
                        lambda: self.end(f"{limit} minutes are over", for_good=True),
                    )
                    if limit
                    else None
                )
                try:
                    await self._over.wait()
                finally:
                    if timer is not None:
                        timer.cancel()
                    for participant in self._participants.values():
                        participant.lineup.close()
        finally:
            self._over.set()
            self._predictions.close()
            publisher.session_ended(self.name, self.reason)
            self.ended.set()

    def end(self, reason: str, *, for_good: bool) -> None:
        """End all participants, and with them the session; peers are told why.

        Args:
            for_good: peers are asked not to come back by themselves.
        """
        if self._over.is_set():
            return
        self.reason = reason
        text = f"The session is over: {reason}."
        self.tell(messages.over(reason) if for_good else messages.notice("info", text))
        self._over.set()

    @property
    def over(self) -> bool:
        """Whether nobody can join any more."""
        return self._over.is_set()

    @property
    def participants(self) -> tuple[str, ...]:
        return tuple(self._participants)

    # -- coming and going ----------------------------------------------------------------------

    async def join(self, name: str, offer: str) -> Joined:
        """Take a peer in as ``name``; one that feeds the same is replaced by it.

        Raises:
            SignalError, RefusedError.
        """
        await self._wanted.wait()
        # Before the offer is read: the name is taken for as long as that takes.
        participant = self._participants.get(name) or self._new_participant(name)
        self._check_open(participant)
        participant.check_room()
        participant.joining += 1
        try:
            return await self._connect(participant, offer)
        finally:
            participant.joining -= 1
            self._look_after(participant)

    async def _connect(self, participant: Participant, offer: str) -> Joined:
        key = self._runtime.new_id()
        peer = Peer(
            f"peer-{key[:6]}",
            self._runtime,
            self._peers,
            on_text=lambda text: self._hear(participant, key, text),
            on_open=lambda: self._greet(participant, key),
        )
        try:
            answer = await peer.answer(offer)
        except OfferError as error:
            raise SignalError(str(error)) from error
        except FailedError as error:
            raise RefusedError(str(error), reason="unreachable") from error
        try:
            await self._take_over(participant, peer)
            self._check_open(participant)
            seat = participant.lineup.add(
                peer, modalities=peer.modalities & participant.lineup.modalities, retry=False
            )
        except BaseException:
            await peer.close()
            raise
        connection = Connection(key=key, peer=peer, seat=seat)
        participant.connections[key] = connection
        assert self._group is not None
        self._runtime.spawn(self._group, f"{peer.name}/end", self._until_gone(participant, key))
        return Joined(connection=key, answer=answer, etag=peer.ice_session)

    def _check_open(self, participant: Participant) -> None:
        """
        Raises:
            RefusedError: who comes back finds their last windows still on their way out.
        """
        if participant.lineup.closing:
            raise RefusedError(
                f"{participant.key} is ending; try again", reason="closing", retry_after_s=1
            )

    async def _take_over(self, participant: Participant, peer: Peer) -> None:
        """A reconnect: who fed the same goes first. One without media, a second page, may stay."""
        for connection in list(participant.connections.values()):
            if connection.peer.modalities & peer.modalities:
                await participant.lineup.remove(connection.seat)

    def _new_participant(self, name: str) -> Participant:
        most = self._engine.config.live.max_participants
        if len(self._participants) >= most:
            raise RefusedError(
                f"session {self.name} has its {most} participants; somebody has to leave first",
                reason="participants",
            )
        if self._over.is_set() or self._group is None:
            raise RefusedError(f"session {self.name} is closing", reason="closing", retry_after_s=1)
        shift = (self._runtime.now_ns() - self._origin_ns) // self._hop_ns
        participant = Participant(
            self.name,
            name,
            self._engine,
            shift=shift,
            origin_ns=self._origin_ns + shift * self._hop_ns,
        )
        if self._engine.config.live.chat_redis and Modality.CHAT in participant.lineup.modalities:
            participant.lineup.add(
                RedisChat(self._engine.redis_url, chat_key(self.name), self._runtime)
            )
        self._participants[name] = participant
        self._mixer.join(name, shift + 1)
        self._runtime.spawn(self._group, participant.key, self._keep(participant))
        self._tell_participants()
        return participant

    async def _keep(self, participant: Participant) -> None:
        """A participant from its first connection to its end."""
        try:
            async with self._engine.session(
                participant.key, participant.sources, origin_ns=participant.origin_ns
            ) as session:
                participant.session = session
                async for prediction in session.predictions():
                    self._predicted(participant, prediction)
        except Exception as error:
            # Its reason is published; the other participants and sessions do not notice.
            expected = isinstance(error, CounterpointError)
            log.warning("session %s failed: %s", participant.key, error, exc_info=not expected)
            text = f"{participant.name} cannot be understood any more: {error}"
            self.tell(messages.notice("error", text))
        finally:
            self._left(participant)

    def _left(self, participant: Participant) -> None:
        participant.inbox.close()
        participant.lineup.close()
        del self._participants[participant.name]
        for mixed in self._mixer.leave(participant.name, self._runtime.wall_ns()):
            self._give(mixed)
        self._tell_participants()
        if not self._participants:
            self._over.set()

    async def leave(self, key: str) -> None:
        """A peer goes.

        Raises:
            UnknownError.
        """
        participant, connection = self._find(key)
        await participant.lineup.remove(connection.seat)
        self._gone(participant, key)

    async def trickle(self, key: str, fragment: str) -> None:
        """More candidates of a peer.

        Raises:
            UnknownError, SignalError.
        """
        _, connection = self._find(key)
        try:
            await connection.peer.add_candidates(fragment)
        except CandidateError as error:
            raise SignalError(str(error)) from error

    def _find(self, key: str) -> tuple[Participant, Connection]:
        for participant in self._participants.values():
            if (connection := participant.connections.get(key)) is not None:
                return participant, connection
        raise UnknownError(f"session {self.name} has no such connection")

    async def _until_gone(self, participant: Participant, key: str) -> None:
        connection = participant.connections[key]
        await connection.seat.done.wait()
        if connection.seat.error is not None:
            log.info("session %s: %s", participant.key, connection.seat.error)
        self._gone(participant, key)

    def _gone(self, participant: Participant, key: str) -> None:
        if participant.connections.pop(key, None) is not None:
            participant.alone_since_ns = self._runtime.now_ns()
            self._look_after(participant)

    def _look_after(self, participant: Participant) -> None:
        """End a participant who has been without a connection for `linger_ms`."""
        linger_ns = self._engine.config.live.linger_ms * NS_PER_MS

        def look() -> None:
            alone = not participant.connections and not participant.joining
            if alone and self._runtime.now_ns() >= participant.alone_since_ns + linger_ns:
                participant.lineup.close()

        self._runtime.call_at(self._runtime.now_ns() + linger_ns, look)

    # -- predictions ---------------------------------------------------------------------------

    def _predicted(self, participant: Participant, prediction: Prediction) -> None:
        self._predictions.put(prediction)
        self.tell(messages.prediction(participant.name, prediction))
        placed = participant.on_the_session(prediction)
        for mixed in self._mixer.take(participant.name, placed, self._runtime.wall_ns()):
            self._give(mixed)
        self._set_timer()

    def _give(self, mixed: Prediction) -> None:
        self._engine.publisher.offer(mixed)
        self._predictions.put(mixed)
        self.tell(messages.prediction(None, mixed))

    def _set_timer(self) -> None:
        """The session's window leaves in time, also when a participant's does not."""
        due_ns = self._mixer.due_ns()
        if due_ns is None or self._timer_set:
            return
        self._timer_set = True

        def due() -> None:
            self._timer_set = False
            if self._over.is_set():
                return
            now_ns = self._runtime.now_ns() - self._origin_ns
            for mixed in self._mixer.advance(now_ns, self._runtime.wall_ns()):
                self._give(mixed)
            self._set_timer()

        self._runtime.call_at(self._origin_ns + due_ns, due)

    @property
    def predictions(self) -> Fanout:
        """For readers beside the peers."""
        return self._predictions

    # -- the data channel and the chat ---------------------------------------------------------

    def tell(self, text: str) -> None:
        """Tell all peers; who cannot take it misses it, counted at the peer."""
        for participant in self._participants.values():
            for connection in participant.connections.values():
                if connection.peer.channel_open:
                    connection.peer.send(text)

    def _tell_participants(self) -> None:
        self.tell(messages.participants(self._participants))

    def _greet(self, participant: Participant, key: str) -> None:
        connection = participant.connections.get(key)
        if connection is not None:
            connection.peer.send(
                messages.hello(
                    self.name,
                    participant.name,
                    self._heads,
                    self._participants,
                    numbers=self._numbers,
                )
            )

    def _hear(self, participant: Participant, key: str, text: str) -> None:
        connection = participant.connections.get(key)
        if connection is None or not connection.takes_message(self._runtime.now_ns()):
            return
        try:
            said = messages.read(text)
            if isinstance(said, messages.Asked):
                connection.peer.send(messages.pong(said.number, self._runtime.wall_ns()))
            else:
                self.chat(participant.name, said.text)
        except (UsageError, FailedError) as error:
            connection.peer.complain(str(error))

    def chat(self, author: str, text: str) -> None:
        """A participant's line is their own voice; anybody else's is heard by all.

        Raises:
            RefusedError: ``rate``, or ``purpose`` where chat is not taken in.
            UsageError: an empty line or author.
        """
        if Modality.CHAT not in self._engine.config.purpose.modalities:
            raise RefusedError("chat is not taken in here", reason="purpose")
        own = self._participants.get(author)
        to: Iterable[Participant] = list(self._participants.values()) if own is None else (own,)
        try:
            for participant in to:
                participant.inbox.post(author, text)
        except TooManyLinesError as error:
            wait_s = -(-error.retry_after_ns // NS_PER_S)
            raise RefusedError(str(error), reason="rate", retry_after_s=wait_s) from error
        self.tell(messages.chat(author, redact(text)))

    # -- what it is doing ----------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {
            "session": self.name,
            "seconds": (self._runtime.now_ns() - self._origin_ns) / NS_PER_S,
            "heads": sorted([*self._heads, *self._numbers]),
            "participants": [participant.describe() for participant in self._participants.values()],
            "late_for_the_session": self._mixer.late,
            "readers": self._predictions.readers,
        }

    def skipped(self) -> int:
        """Windows of all participants that the models could not keep up with."""
        return sum(
            participant.session.summary().skipped
            for participant in self._participants.values()
            if participant.session is not None
        )
