"""Live sources: what comes by itself, and when it comes.

A recording is stepped by its owner (`streams.types.Source`, `streams.pump`); a live source runs as
a task of its own, and hands each item over the moment it has it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from counterpoint.streams.mailbox import Mailbox
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import DropCounter, Item, Modality


class Feed(Protocol):
    """Where a live source puts its items, and the session's clock."""

    def now_ns(self) -> int:
        """Session time, now. From any thread."""
        ...

    def session_ns(self, monotonic_ns: int) -> int:
        """Session time of an instant of `Runtime.now_ns`; below 0 before the session began."""
        ...

    def wanted_ns(self, modality: Modality) -> int:
        """Session time: what ends before it is of no consequence by itself and may be handed over
        with what follows, a little later. 0: all is wanted at once. From any thread."""
        ...

    def put(self, item: Item) -> None:
        """Hand an item over; it arrives now. From any thread; never waits: the newest wins."""
        ...


@runtime_checkable
class LiveSource(Protocol):
    """A camera, a microphone, a chat, a peer: runs until it ends or is cancelled."""

    @property
    def name(self) -> str:
        """What it is called in messages and in its items."""
        ...

    @property
    def modalities(self) -> frozenset[Modality]:
        """What it may give."""
        ...

    @property
    def drops(self) -> DropCounter:
        """What it lost on purpose, by reason."""
        ...

    async def run(self, feed: Feed) -> None:
        """Give items until there are no more; whatever it holds is closed when this is left.

        Items carry `name`, sequence numbers from 0 in each modality, and epochs from 0. A
        `ClockUpdate` comes before the first item of a modality.

        Raises:
            SourceError: it broke off, and says why. It may be run again, on the same feed.
        """
        ...


class MailboxFeed:
    """A session's own feed.

    Args:
        origin_ns: the runtime's instant at which session time is 0.
    """

    def __init__(self, mailbox: Mailbox, runtime: Runtime, origin_ns: int) -> None:
        self._mailbox = mailbox
        self._runtime = runtime
        self._origin_ns = origin_ns

    def now_ns(self) -> int:
        return self._runtime.now_ns() - self._origin_ns

    def session_ns(self, monotonic_ns: int) -> int:
        return monotonic_ns - self._origin_ns

    def wanted_ns(self, modality: Modality) -> int:
        return self._mailbox.patience_ns(modality)

    def put(self, item: Item) -> None:
        self._mailbox.put(self.now_ns(), item)
