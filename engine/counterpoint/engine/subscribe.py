"""Following a session's predictions in Redis, across lost connections and restarts.

A follower reads the session's stream behind the last entry it has seen, so nothing is lost while
it is away, and each entry comes once. What is not there is named: see `Gap` and `StateChange`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from counterpoint.engine.prediction import Prediction
from counterpoint.engine.redis_client import (
    TIMEOUT_S,
    Backoff,
    RedisLostError,
    connector,
    format_stream_id,
    redact,
)
from counterpoint.engine.stream_reader import (
    Followed,
    Gap,
    GapCause,
    ReadRefusedError,
    StateChange,
    StateKind,
    StreamReader,
)
from counterpoint.streams.errors import FailedError
from counterpoint.streams.runtime import Runtime, SystemRuntime

__all__ = ["Followed", "Gap", "GapCause", "StateChange", "StateKind", "Subscriber"]


class Subscriber:
    """Reads predictions from the Redis at ``url``; any number of sessions, one `follow` each.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        runtime: clock and chance; the system's by default.
        timeout_s: longest wait for a connection or an answer.

    Raises:
        UsageError: not a Redis URL.
    """

    def __init__(
        self, url: str, runtime: Runtime | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._url = url
        self._connect = connector(url, timeout_s=timeout_s)
        self._runtime = runtime or SystemRuntime()
        self._last_ids: dict[str, str] = {}

    def last_id(self, session: str) -> str | None:
        """The stream ID of the newest prediction that `follow` gave: ``since`` of a later one."""
        return self._last_ids.get(session)

    async def follow(
        self, session: str, *, since: str = "start", until_end: bool = False
    ) -> AsyncGenerator[Followed, None]:
        """Predictions of a session in stream order, with gaps and changes of state in between.

        Lost connections are made anew for as long as it takes. The session need not exist yet.

        Args:
            session: name of the session.
            since: ``start`` (all that the stream holds), ``now`` (what comes from here on) or a
                stream ID such as ``1700000000000-0`` (what comes behind that entry).
            until_end: return once the session has ended and all its predictions were given. A
                session that had ended before counts, unless ``since`` is ``now``.

        Raises:
            UsageError: ``since`` is none of these.
            FailedError: Redis refuses the reading for good: no permission, or the key holds
                something else.
        """
        reader = StreamReader(session, since)
        backoff = Backoff(self._runtime.rng(f"subscriber/{session}").random)
        connected: bool | None = None
        while True:
            try:
                link = await self._connect()
                try:
                    await reader.begin(link)
                    while True:
                        found = await reader.read(link)
                        backoff.reset()
                        if connected is not True:
                            connected = True
                            yield reader.change(StateKind.CONNECTED)
                        for stream_id, followed in found:
                            if isinstance(followed, Prediction):
                                self._last_ids[session] = format_stream_id(stream_id)
                            yield followed
                        if until_end and reader.over:
                            return
                finally:
                    await link.close()
            except RedisLostError as error:
                wait_ns = backoff.next_ns()
                # A connection that comes back at once is not worth a word.
                if wait_ns and connected is not False:
                    connected = False
                    yield reader.change(StateKind.DISCONNECTED, str(error))
                await self._runtime.sleep_until(self._runtime.now_ns() + wait_ns)
            except ReadRefusedError as error:
                raise FailedError(
                    f"Redis at {redact(self._url)} does not let session {session!r} be followed: "
                    f"{error}"
                ) from error
