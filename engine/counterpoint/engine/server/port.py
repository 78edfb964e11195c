"""What the server asks of the live sessions behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from counterpoint.engine.prediction import Prediction
from counterpoint.streams.errors import FailedError, UsageError


class RefusedError(FailedError):
    """A session, a participant or a message was refused for want of room; the message says which.

    Args:
        reason: a word for counters and for the answer: ``capacity``, ``sessions``,
            ``participants``, ``connections``, ``closing``.
        retry_after_s: when it may be worth another try.
    """

    def __init__(self, message: str, *, reason: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class UnknownError(UsageError):
    """No such session, or no such connection in it."""


class SignalError(UsageError):
    """What a peer said of its connection (SDP, a candidate) cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A peer that was taken in.

    Fields:
        connection: names the connection within its session, hard to guess.
        answer: the SDP answer.
        etag: names the ICE session (RFC 9725, section 4.3.1), without quotes.
    """

    connection: str
    answer: str
    etag: str


class LiveSessions(Protocol):
    """All sessions of this process. Every method is called on the loop."""

    async def join(self, session: str, participant: str, offer: str) -> Joined:
        """Answer a peer's offer; the session and the participant are made where they are new.

        Raises:
            SignalError: the offer cannot be used.
            RefusedError: there is no room.
        """
        ...

    async def trickle(self, session: str, connection: str, fragment: str) -> None:
        """More candidates of a peer (RFC 8840's SDP fragment).

        Raises:
            UnknownError, SignalError.
        """
        ...

    async def leave(self, session: str, connection: str) -> None:
        """A peer goes.

        Raises:
            UnknownError.
        """
        ...

    def chat(self, session: str, author: str, text: str) -> None:
        """A line of chat for a session that runs; heard by all its participants' windows.

        Raises:
            UnknownError: no such session.
            RefusedError: too many lines; ``reason`` is ``rate``.
            UsageError: an empty line or author.
        """
        ...

    def names(self) -> list[str]:
        """Sessions that run, sorted."""
        ...

    def describe(self, session: str) -> Mapping[str, Any]:
        """What a session is doing, as JSON can say it: participants, sources, counters.

        Raises:
            UnknownError.
        """
        ...

    async def erase(self, session: str) -> Mapping[str, Any]:
        """End a session and erase what was kept of it, its predictions in Redis among it.

        Returns:
            What was erased, as JSON can say it.

        Raises:
            UnknownError: it does not run, and nothing was kept of it.
        """
        ...

    def follow(self, session: str) -> AsyncIterator[Prediction]:
        """Predictions of the session and its participants from now on, until it ends.

        A reader that falls behind loses the oldest.

        Raises:
            UnknownError.
        """
        ...

    def counters(self) -> Mapping[str, float]:
        """Numbers for `/metrics`: name -> value, names in Prometheus style without a prefix."""
        ...
