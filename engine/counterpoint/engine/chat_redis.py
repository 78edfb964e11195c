"""A chat that others write into a Redis stream: ``XADD KEY * author ann text hello``."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any, Final

from counterpoint.engine.redis_client import (
    ORIGIN,
    TIMEOUT_S,
    Backoff,
    ErrorReply,
    Link,
    RedisLostError,
    StreamId,
    connector,
    format_stream_id,
    last_generated_id,
    parse_stream_id,
    redact,
)
from counterpoint.streams.chat_file import HEARTBEAT_NS
from counterpoint.streams.chat_outlet import ChatOutlet
from counterpoint.streams.errors import SourceError
from counterpoint.streams.feed import Feed
from counterpoint.streams.rate import TokenBucket
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import NS_PER_S, DropCounter, Modality

logger = logging.getLogger(__name__)

BLOCK_MS: Final = HEARTBEAT_NS // 1_000_000
PAGE_SIZE: Final = 256
PROBES_AT_FIRST: Final = 3
PROBE_EVERY_NS: Final = 10 * NS_PER_S
ID_GRAIN_NS: Final = 1_000_000  # the IDs of entries are in milliseconds

MALFORMED: Final = "malformed chat entry"


def chat_key(session: str) -> str:
    """The stream of a session's chat."""
    return f"counterpoint:chat:{session}"


class RedisChat:
    """A `LiveSource` of the lines that are added to a stream while it runs.

    An entry has the fields ``author`` and ``text``, both UTF-8, and an ID that Redis chose
    (``XADD KEY *``): its time is the line's, and the offset of Redis's clock is probed with TIME.
    Entries of IDs that are no time of now are left out and counted.

    A run begins at the end of the stream. A connection that is lost is made anew, for as long as
    it takes, and the entries added meanwhile are read; those older than 30 s are too old by then.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        key: of the stream; `chat_key` gives the usual one. It need not exist.
        runtime: clock and chance.
        name: of the source within its session.
        timeout_s: longest wait for a connection or an answer.
        lines_per_s, lines_burst: what is beyond is counted and left out.

    Raises:
        UsageError: not a Redis URL.
    """

    def __init__(
        self,
        url: str,
        key: str,
        runtime: Runtime,
        *,
        name: str = "chat",
        timeout_s: float = TIMEOUT_S,
        lines_per_s: float = 100,
        lines_burst: int = 400,
    ) -> None:
        self._connect = connector(url, timeout_s=timeout_s)
        self._where = f"chat in {key} of Redis at {redact(url)}"
        self._key = key
        self._runtime = runtime
        self._name = name
        self._drops = DropCounter()
        self._numbers = itertools.count()
        self._lines_per_s, self._lines_burst = lines_per_s, lines_burst

    @property
    def name(self) -> str:
        return self._name

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset({Modality.CHAT})

    @property
    def drops(self) -> DropCounter:
        """Lines left out or cut, by reason."""
        return self._drops

    async def run(self, feed: Feed) -> None:
        """Give the lines that are added from now on, until cancelled.

        Raises:
            SourceError: Redis cannot be reached at first, or refuses the reading for good (no
                permission, the key holds something else).
        """
        backoff = Backoff(self._runtime.rng(f"chat/{self._name}").random)
        rate = TokenBucket(per_s=self._lines_per_s, burst=self._lines_burst)
        outlet = ChatOutlet(self._name, feed, self._drops, self._numbers, rate)
        place: StreamId | None = None
        lost = False
        while True:
            try:
                link = await self._connect()
                try:
                    reading = _Reading(self._key, link, feed, outlet)
                    place = await reading.begin(place)
                    if lost:
                        logger.warning("%s: back", self._where)
                    lost = False
                    backoff.reset()
                    while True:
                        page = await reading.read()
                        place = reading.place
                        for stream_id, fields in page:
                            self._give(outlet, feed, stream_id, fields)
                        if len(page) < PAGE_SIZE:
                            outlet.beat()
                finally:
                    await link.close()
            except RedisLostError as error:
                if place is None:
                    raise SourceError(
                        f"{self._where}: cannot be reached ({error}); start it or correct the URL"
                    ) from error
                wait_ns = backoff.next_ns()
                # A connection that comes back at once is not worth a word.
                if wait_ns and not lost:
                    lost = True
                    logger.warning("%s: lost (%s)", self._where, error)
                await self._runtime.sleep_until(self._runtime.now_ns() + wait_ns)
            except _RefusedError as error:
                raise SourceError(f"{self._where}: refused ({error})") from error

    def _give(
        self, outlet: ChatOutlet, feed: Feed, stream_id: StreamId, fields: Sequence[str] | None
    ) -> None:
        said = dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}
        author, text = said.get("author"), said.get("text")
        if author is None or text is None:
            self._drops.add(MALFORMED)
            return
        server_ns = stream_id[0] * ID_GRAIN_NS
        outlet.line(author, text, arrived_ns=feed.now_ns(), server_ns=server_ns)


class _RefusedError(Exception):
    """Redis refuses the reading for good."""


class _Reading:
    """One connection's reading of the stream.

    Attributes:
        place: ID of the entry read last.
    """

    def __init__(self, key: str, link: Link, feed: Feed, outlet: ChatOutlet) -> None:
        self._key = key
        self._link = link
        self._feed = feed
        self._outlet = outlet
        self._probe_at_ns = 0
        self._idle = False
        self.place = ORIGIN

    async def begin(self, place: StreamId | None) -> StreamId:
        """Probe Redis's clock and go to ``place``, or to the stream's end where it is None."""
        self._outlet.forget_clock()
        for _ in range(PROBES_AT_FIRST):
            await self._probe()
        end = await self._end()
        if place is None:
            self.place = end
            self._outlet.start()
        else:
            self._go(place, end)
        return self.place

    async def read(self) -> list[tuple[StreamId, Sequence[str] | None]]:
        """The next entries; waits for them, a heartbeat long at most."""
        if self._idle:
            # Only while nothing comes: the questions must not cost a busy chat its time.
            self._go(self.place, await self._end())
        if self._feed.now_ns() >= self._probe_at_ns:
            await self._probe()
        command = ("XREAD", "COUNT", PAGE_SIZE, "BLOCK", BLOCK_MS, "STREAMS", self._key)
        (reply,) = await self._link.execute(
            [(*command, format_stream_id(self.place))], block_s=BLOCK_MS / 1_000
        )
        entries = [entry for _, page in _checked(reply) or () for entry in page]
        self._idle = not entries
        read = [(parse_stream_id(text), fields) for text, fields in entries]
        if read:
            self.place = read[-1][0]
        return read

    def _go(self, place: StreamId, end: StreamId) -> None:
        """To ``place``, or to the stream's end where that lies before it: the stream was deleted,
        or Redis lost it, and what is added next may have an ID before ``place``."""
        if place > end:
            logger.warning(
                "redis: %s ends before what was read of it; read on from there", self._key
            )
        self.place = min(place, end)

    async def _end(self) -> StreamId:
        (info,) = await self._link.execute([("XINFO", "STREAM", self._key)])
        if isinstance(info, ErrorReply) and "no such key" in info.message:
            return ORIGIN
        return last_generated_id(_checked(info))

    async def _probe(self) -> None:
        sent_ns = self._feed.now_ns()
        (reply,) = await self._link.execute([("TIME",)])
        received_ns = self._feed.now_ns()
        seconds, microseconds = map(int, _checked(reply))
        server_ns = seconds * NS_PER_S + microseconds * 1_000
        self._outlet.probe(sent_ns, server_ns, received_ns, grain_ns=ID_GRAIN_NS)
        self._probe_at_ns = received_ns + PROBE_EVERY_NS


def _checked(reply: Any) -> Any:
    if not isinstance(reply, ErrorReply):
        return reply
    if reply.transient:
        raise RedisLostError(reply.message)
    raise _RefusedError(reply.message)
