"""What Redis keeps of a session, erased."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from counterpoint.engine.chat_redis import chat_key
from counterpoint.engine.redis_client import (
    DATA_FIELD,
    EVENTS_KEY,
    ErrorReply,
    Link,
    RedisLostError,
    connector,
    predictions_key,
)
from counterpoint.streams.errors import FailedError

SCAN_COUNT: Final = 500
PAGE: Final = 1_000


async def erase_session(url: str, session: str, names: Callable[[str], bool]) -> dict[str, int]:
    """Delete a session's predictions, those of its participants, its chat and its events.

    Args:
        url: of the Redis.
        names: whether an event's document speaks of the session.

    Returns:
        Entries that were deleted, by kind.

    Raises:
        FailedError: Redis cannot be reached, or refuses; some may have been erased.
    """
    try:
        link = await connector(url)()
        try:
            keys = await _keys(link, session)
            erased = {"predictions": 0, "chat": 0, "events": 0}
            for key in keys:
                kind = "chat" if key == chat_key(session) else "predictions"
                count, _ = await _all(link, ("XLEN", key), ("UNLINK", key))
                erased[kind] += int(count)
            erased["events"] = await _events(link, names)
        finally:
            await link.close()
    except RedisLostError as error:
        raise FailedError(f"session {session} is not erased: Redis: {error}") from error
    return erased


async def _keys(link: Link, session: str) -> list[str]:
    """The streams that there are; participants' keys are found by their pattern."""
    # Names hold nothing that a pattern would read as more than itself, see `server.names`.
    pattern = predictions_key(f"{session}/*")
    found = {predictions_key(session), chat_key(session)}
    cursor = "0"
    while True:
        (reply,) = await _all(link, ("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT))
        cursor, page = str(reply[0]), reply[1]
        found.update(str(key) for key in page)
        if cursor == "0":
            break
    there = await _all(link, *(("EXISTS", key) for key in sorted(found)))
    return [key for key, is_there in zip(sorted(found), there, strict=True) if is_there]


async def _events(link: Link, names: Callable[[str], bool]) -> int:
    erased, start = 0, "-"
    while True:
        (page,) = await _all(link, ("XRANGE", EVENTS_KEY, start, "+", "COUNT", PAGE))
        ids = []
        for entry_id, fields in page:
            pairs = dict(zip(fields[::2], fields[1::2], strict=True))
            if names(str(pairs.get(DATA_FIELD, ""))):
                ids.append(str(entry_id))
        if ids:
            (count,) = await _all(link, ("XDEL", EVENTS_KEY, *ids))
            erased += int(count)
        if len(page) < PAGE:
            return erased
        start = f"({page[-1][0]}"


async def _all(link: Link, *commands: tuple[str | int, ...]) -> list[Any]:
    replies = await link.execute(commands)
    for reply in replies:
        if isinstance(reply, ErrorReply):
            raise FailedError(f"not erased: Redis refuses: {reply.message}")
    return replies
