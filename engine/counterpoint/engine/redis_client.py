"""One connection to Redis, and what publisher, subscriber and embedded server share.

All contact with redis-py is here. Its connection class is used bare: no pool, no retries and no
timeouts of its own, so that each of these exists once, in our code, on our clock. Replies are
RESP2 as Redis sent them, without redis-py's rewriting, which differs between its versions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from counterpoint.streams.errors import UnavailableError, UsageError

logger = logging.getLogger(__name__)

EVENTS_KEY = "counterpoint:events"
"""Stream and channel of the sessions' lifecycle events."""

DATA_FIELD = "data"
"""The one field of every stream entry: a JSON document."""

URL_SCHEMES = ("redis", "rediss", "unix")

TIMEOUT_S = 2.0
"""Longest wait for a connection or an answer, unless told otherwise."""

Command: TypeAlias = tuple[str | int, ...]

StreamId: TypeAlias = tuple[int, int]
"""Milliseconds and sequence number; compares as Redis compares stream IDs."""

ORIGIN: StreamId = (0, 0)
"""Before every entry."""


def predictions_key(session: str) -> str:
    """Stream and channel of a session's predictions."""
    return f"counterpoint:predictions:{session}"


def parse_stream_id(text: str) -> StreamId:
    """``"1700000000000-3"`` -> (1700000000000, 3); a missing sequence number is 0.

    Raises:
        ValueError: not a stream ID.
    """
    ms, _, sequence = text.partition("-")
    if not (ms.isdecimal() and (sequence.isdecimal() or "-" not in text)):
        raise ValueError(f"{text!r} is not a stream ID such as 1700000000000-0")
    return int(ms), int(sequence or 0)


def format_stream_id(stream_id: StreamId) -> str:
    return f"{stream_id[0]}-{stream_id[1]}"


_TRANSIENT_TYPES = (ReadOnlyError, OutOfMemoryError, ClusterDownError, TryAgainError)
_TRANSIENT_CODES = ("BUSY ", "MISCONF ", "NOREPLICAS ")


def last_generated_id(info: Sequence[Any]) -> StreamId:
    """The ID that the next entry must exceed, from the answer to XINFO STREAM.

    It is the last entry's ID, or a greater one where that entry was deleted.
    """
    return parse_stream_id(str(info[info.index("last-generated-id") + 1]))


class RedisLostError(Exception):
    """The connection is of no use any more, or Redis cannot serve now. Connect again later."""


class RedisTimeoutError(RedisLostError):
    """Redis did not answer in time."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Redis's answer to one command was an error.

    Fields:
        message: what Redis said; a leading ``ERR`` is left out.
        transient: True if the same command may work later: Redis is full, a replica, busy.
    """

    message: str
    transient: bool = False


class Link(Protocol):
    """A connection to Redis at the level that publisher and subscriber need."""

    async def execute(self, commands: Sequence[Command], *, block_s: float = 0.0) -> list[Any]:
        """Send all commands in one write and give a reply for each, `ErrorReply` among them.

        ``block_s`` is how long the commands themselves may block; it adds to the timeout.

        Raises:
            RedisLostError: no reply to some command; any of them may have been applied.
        """
        ...

    async def close(self) -> None:
        """Let the connection go at once. May be called twice."""
        ...


Connect: TypeAlias = Callable[[], Awaitable[Link]]
"""Opens a link, or raises `RedisLostError`."""


class _RedisLink:
    def __init__(self, pool: ConnectionPool, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        # The pool only reads the URL and knows the connection class that goes with its scheme.
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]

    async def open(self) -> None:
        async with self._bounded(self._timeout_s):
            await self._connection.connect()  # type: ignore[no-untyped-call]

    async def execute(self, commands: Sequence[Command], *, block_s: float = 0.0) -> list[Any]:
        connection = self._connection
        if not connection.is_connected:
            raise RedisLostError("not connected")
        replies: list[Any] = []
        async with self._bounded(self._timeout_s + block_s):
            await connection.send_packed_command(
                connection.pack_commands(commands), check_health=False
            )
            while len(replies) < len(commands):
                try:
                    replies.append(await connection.read_response(disconnect_on_error=False))
                except ResponseError as error:
                    replies.append(_error_reply(error))
        return replies

    @asynccontextmanager
    async def _bounded(self, timeout_s: float) -> AsyncIterator[None]:
        """Contact with Redis: bounded in time, its errors ours, no connection left half-way."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            await self.close()
            raise RedisTimeoutError(f"no answer within {timeout_s:g} s") from error
        except (RedisError, OSError) as error:
            await self.close()
            raise RedisLostError(_one_line(error)) from error
        except BaseException:
            # Cancelled half-way: replies may still come, so the connection cannot be used again.
            await self.close()
            raise

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)


def _error_reply(error: ResponseError) -> ErrorReply:
    message = _one_line(error)
    # redis-py turns some codes into types and leaves the others at the head of the message.
    transient = isinstance(error, _TRANSIENT_TYPES) or message.startswith(_TRANSIENT_CODES)
    return ErrorReply(message, transient)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def connector(url: str, *, timeout_s: float = TIMEOUT_S) -> Connect:
    """A `Connect` for a ``redis://``, ``rediss://`` or ``unix://`` URL.

    ``timeout_s`` bounds the wait for the connection and for each answer.

    Raises:
        UsageError: not such a URL.
    """
    if urlsplit(url).scheme not in URL_SCHEMES:
        raise UsageError(
            f"--redis {redact(url)}: not a Redis address; use embedded, embedded:PORT, "
            "redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"
        )
    try:
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            decode_responses=True,
            encoding_errors="replace",
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
    except (ValueError, TypeError) as error:
        raise UsageError(f"--redis {redact(url)}: {_one_line(error)}") from error

    async def connect() -> Link:
        link = _RedisLink(pool, timeout_s)
        await link.open()
        return link

    return connect


def redact(url: str) -> str:
    """The URL without its password, fit for messages and logs."""
    parts = urlsplit(url)
    if "@" not in parts.netloc and "password=" not in parts.query:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, f"***@{host}", parts.path, "", ""))


async def check_reachable(url: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """Say at the start, not in the middle of a session, that a Redis is not there.

    Raises:
        UnavailableError: it does not answer, or refuses us.
        UsageError: not a Redis URL.
    """
    connect = connector(url, timeout_s=timeout_s)
    try:
        link = await connect()
        try:
            (reply,) = await link.execute([("PING",)])
        finally:
            await link.close()
    except RedisLostError as error:
        if _caused_by(error, BusyLoadingError):
            return  # It is reading its data in and will serve soon; the publisher waits for that.
        if _caused_by(error, AuthenticationError):
            raise _refused(url, str(error)) from error
        raise UnavailableError(
            f"Redis at {redact(url)} cannot be reached ({error}): start it, correct --redis, "
            "or use --redis embedded"
        ) from error
    if isinstance(reply, ErrorReply):
        raise _refused(url, reply.message)


def _caused_by(error: BaseException, kind: type[RedisError]) -> bool:
    # redis-py wraps what happens in the handshake once more than what happens later.
    cause = error.__cause__
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__
    return cause is not None


def _refused(url: str, why: str) -> UnavailableError:
    return UnavailableError(
        f"Redis at {redact(url)} refuses us ({why}): correct user and password in --redis"
    )


class Backoff:
    """Waits between attempts to connect: none after a success, then doubling, with jitter.

    Args:
        draw: gives numbers in [0, 1), e.g. ``runtime.rng(name).random``.
        first_ms, longest_ms: bounds of the wait from the second attempt on.
    """

    def __init__(
        self,
        draw: Callable[[], float],
        *,
        first_ms: float = 50.0,
        longest_ms: float = 5_000.0,
    ) -> None:
        self._draw = draw
        self._first_ms = first_ms
        self._longest_ms = longest_ms
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next_ns(self) -> int:
        """How long to wait before the next attempt, in nanoseconds."""
        self._failures += 1
        if self._failures == 1:
            return 0
        # Half fixed, half drawn: many engines that lost one Redis do not come back in step.
        # The exponent is capped since a long outage would overflow a float.
        ceiling_ms = min(self._longest_ms, self._first_ms * 2.0 ** min(self._failures - 2, 30))
        return int(ceiling_ms * (0.5 + 0.5 * self._draw()) * 1e6)
