"""Live sessions for tests of the server: no media, everything said to them kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from counterpoint.engine.prediction import Prediction
from counterpoint.engine.server.port import Joined, RefusedError, SignalError, UnknownError

OFFER = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
ANSWER = "v=0\r\no=- 3 4 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"


class FakeLiveSessions:
    """Implements `counterpoint.engine.server.port.LiveSessions`.

    Attributes:
        joined, trickled, left, chats, erased: what was asked, in order.
        failure: raised by every method that may raise, instead of what it does.
        gate: where set, `join` waits for it.
        readers: how many follow now.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, set[str]] = {}
        self.joined: list[tuple[str, str, str]] = []
        self.trickled: list[tuple[str, str, str]] = []
        self.left: list[tuple[str, str]] = []
        self.chats: list[tuple[str, str, str]] = []
        self.erased: list[str] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.joining = asyncio.Event()
        self.readers = 0
        self.readers_changed = asyncio.Condition()
        self.series: dict[str, float] = {
            "sessions": 1,
            'dropped_total{reason="late"}': 2,
            'dropped_total{reason="full"}': 3,
        }
        self._queues: dict[str, list[asyncio.Queue[Prediction | None]]] = {}

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _known(self, session: str) -> set[str]:
        if session not in self.sessions:
            raise UnknownError(f"no session {session}")
        return self.sessions[session]

    def _connection(self, session: str, connection: str) -> None:
        if connection not in self._known(session):
            raise UnknownError(f"session {session} has no such connection")

    async def join(self, session: str, participant: str, offer: str) -> Joined:
        self.joining.set()
        if self.gate is not None:
            await self.gate.wait()
        self._fail()
        if not offer.startswith("v=0"):
            raise SignalError("the offer is no SDP: it does not begin with v=0")
        self.joined.append((session, participant, offer))
        connection = f"c{len(self.joined)}"
        self.sessions.setdefault(session, set()).add(connection)
        return Joined(connection=connection, answer=ANSWER, etag=f"ice{len(self.joined)}")

    async def trickle(self, session: str, connection: str, fragment: str) -> None:
        self._fail()
        self._connection(session, connection)
        self.trickled.append((session, connection, fragment))

    async def leave(self, session: str, connection: str) -> None:
        self._fail()
        self._connection(session, connection)
        self.sessions[session].remove(connection)
        self.left.append((session, connection))

    def chat(self, session: str, author: str, text: str) -> None:
        self._fail()
        self._known(session)
        if len(self.chats) >= 1_000:
            raise RefusedError("too many lines", reason="rate")
        self.chats.append((session, author, text))

    def names(self) -> list[str]:
        return sorted(self.sessions)

    def describe(self, session: str) -> Mapping[str, Any]:
        return {"session": session, "connections": sorted(self._known(session))}

    async def erase(self, session: str) -> Mapping[str, Any]:
        self._fail()
        self._known(session)
        del self.sessions[session]
        self.erased.append(session)
        self.end(session)
        return {"erased": [session]}

    async def follow(self, session: str) -> AsyncGenerator[Prediction, None]:
        self._known(session)
        queue: asyncio.Queue[Prediction | None] = asyncio.Queue(maxsize=1_000)
        self._queues.setdefault(session, []).append(queue)
        await self._count_readers(1)
        try:
            while (prediction := await queue.get()) is not None:
                yield prediction
        finally:
            self._queues[session].remove(queue)
            await self._count_readers(-1)

    def counters(self) -> Mapping[str, float]:
        return self.series

    # -- the test's side -----------------------------------------------------------------------

    def say(self, prediction: Prediction) -> None:
        """Give a prediction to all readers of its session; one that is behind loses the oldest."""
        for queue in self._queues.get(prediction.session, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(prediction)

    def end(self, session: str) -> None:
        """End a session for its readers."""
        for queue in self._queues.get(session, ()):
            queue.put_nowait(None)

    async def until_readers(self, count: int) -> None:
        """Wait until so many follow."""
        async with asyncio.timeout(30), self.readers_changed:
            await self.readers_changed.wait_for(lambda: self.readers == count)

    async def _count_readers(self, change: int) -> None:
        self.readers += change
        async with self.readers_changed:
            self.readers_changed.notify_all()
