"""A chat whose lines others hand in: HTTP, a data channel."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Final

from counterpoint.streams.chat_file import HEARTBEAT_NS, MAX_AUTHOR_CHARACTERS
from counterpoint.streams.chat_outlet import (
    MAX_KEPT_CHARACTERS,
    TOO_MANY,
    ChatOutlet,
    tidy,
)
from counterpoint.streams.errors import FailedError, UsageError
from counterpoint.streams.feed import Feed
from counterpoint.streams.rate import TokenBucket, TokenBuckets
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import NS_PER_S, DropCounter, Modality

MAX_WAITING: Final = 256
MAX_AUTHORS: Final = 1_024

TOO_MANY_OF_AUTHOR: Final = "too many chat lines of one author"
NOT_YET_RUNNING: Final = "chat line handed in long before the chat ran"


class TooManyLinesError(FailedError):
    """A line was refused since its author, or all of them together, write too much.

    Args:
        retry_after_ns: when a line would be taken, if no other comes before it.
    """

    def __init__(self, message: str, *, retry_after_ns: int) -> None:
        super().__init__(message)
        self.retry_after_ns = retry_after_ns


class ChatInbox:
    """A `LiveSource` of lines that are handed in by `post`, each stamped with its arrival.

    Lines handed in while it does not run wait, the newest 256 of them, and keep the instant at
    which they came. Everything here belongs to the loop that runs it.

    Args:
        runtime: clock.
        name: of the source within its session.
        author_per_s, author_burst: lines one author may hand in.
        all_per_s, all_burst: lines all authors may hand in together.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        name: str = "chat",
        author_per_s: float = 5,
        author_burst: int = 20,
        all_per_s: float = 50,
        all_burst: int = 200,
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._drops = DropCounter()
        self._numbers = itertools.count()
        self._of_author = TokenBuckets(per_s=author_per_s, burst=author_burst, keys=MAX_AUTHORS)
        self._of_all = TokenBucket(per_s=all_per_s, burst=all_burst)
        self._waiting: deque[tuple[int, str, str]] = deque(maxlen=MAX_WAITING)
        self._running: tuple[Feed, ChatOutlet] | None = None
        self._closed = False
        self._woken = asyncio.Event()

    @property
    def name(self) -> str:
        return self._name

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset({Modality.CHAT})

    @property
    def drops(self) -> DropCounter:
        """Lines refused, cut, or pushed out while it did not run, by reason."""
        return self._drops

    def post(self, author: str, text: str) -> None:
        """Take a line; it arrives now. A text of more than 2,000 characters is cut and counted.

        Raises:
            UsageError: an empty author or text.
            TooManyLinesError: beyond the limits; the line is counted and gone.
            FailedError: the chat is closed.
        """
        author = tidy(author)[:MAX_AUTHOR_CHARACTERS]
        if not author:
            raise UsageError("chat: a line needs an author; give a name")
        if not tidy(text):
            raise UsageError("chat: the line is empty; write something")
        if self._closed:
            raise FailedError(f"{self._name}: closed, no more lines are taken")
        now_ns = self._runtime.now_ns()
        self._hold_to_limits(author, now_ns)
        if self._running is not None:
            feed, outlet = self._running
            outlet.line(author, text, arrived_ns=feed.session_ns(now_ns))
            return
        if len(self._waiting) == MAX_WAITING:
            self._drops.add(NOT_YET_RUNNING)
        self._waiting.append((now_ns, author, text[:MAX_KEPT_CHARACTERS]))

    def close(self) -> None:
        """No more lines: `run` returns. May be called twice."""
        self._closed = True
        self._woken.set()

    async def run(self, feed: Feed) -> None:
        """Give lines as they are handed in, and heartbeats, until closed or cancelled."""
        if self._running is not None:
            raise RuntimeError(f"{self._name} runs already")
        outlet = ChatOutlet(self._name, feed, self._drops, self._numbers)
        self._running = feed, outlet
        try:
            outlet.start(self._first_waiting_ns(feed))
            while self._waiting:
                came_ns, author, text = self._waiting.popleft()
                outlet.line(author, text, arrived_ns=feed.session_ns(came_ns))
            while not self._closed:
                outlet.beat()
                self._woken.clear()
                timer = self._runtime.call_at(
                    self._runtime.now_ns() + HEARTBEAT_NS, self._woken.set
                )
                try:
                    await self._woken.wait()
                finally:
                    timer.cancel()
        finally:
            self._running = None

    def _first_waiting_ns(self, feed: Feed) -> int:
        return feed.session_ns(self._waiting[0][0]) if self._waiting else feed.now_ns()

    def _hold_to_limits(self, author: str, now_ns: int) -> None:
        wait_ns = self._of_author.wait_ns(author, now_ns)
        if wait_ns:
            self._drops.add(TOO_MANY_OF_AUTHOR)
            raise TooManyLinesError(
                f"chat: too many lines of this author; wait {_seconds(wait_ns)}",
                retry_after_ns=wait_ns,
            )
        wait_ns = self._of_all.wait_ns(now_ns)
        if wait_ns:
            self._drops.add(TOO_MANY)
            raise TooManyLinesError(
                f"chat: too many lines in this session; wait {_seconds(wait_ns)}",
                retry_after_ns=wait_ns,
            )
        self._of_author.take(author, now_ns)
        self._of_all.take(now_ns)


def _seconds(wait_ns: int) -> str:
    return f"{wait_ns / NS_PER_S:.1f} s"
