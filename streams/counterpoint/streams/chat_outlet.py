"""From what came over some wire to items of chat: what all live chats do alike."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from counterpoint.streams.chat_file import (
    CUT,
    HEARTBEAT_NS,
    MAX_AUTHOR_CHARACTERS,
    MAX_TEXT_CHARACTERS,
)
from counterpoint.streams.clock import ChatClock
from counterpoint.streams.feed import Feed
from counterpoint.streams.rate import TokenBucket
from counterpoint.streams.types import NS_PER_S, Bound, ChatLine, DropCounter, Modality

logger = logging.getLogger(__name__)

ALLOWED_DELAY_NS: Final = 100_000_000
"""How late a stamped line may arrive without being late."""
MAX_AGE_NS: Final = 30 * NS_PER_S
"""A line that was sent longer ago belongs to no window any more, nor to this session maybe."""
MAX_AHEAD_NS: Final = NS_PER_S
"""A stamp further ahead of the server's own time is not its time."""

EMPTY: Final = "empty chat line"
TOO_OLD: Final = "chat line sent too long ago"
TOO_MANY: Final = "too many chat lines"


# A megabyte of text must cost no more than what is kept of it.
MAX_KEPT_CHARACTERS: Final = 4 * MAX_TEXT_CHARACTERS
_CONTROLS: Final = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0))) | dict.fromkeys(
    (*range(0x09, 0x0E), 0x85, 0x2028, 0x2029), " "
)


def tidy(text: str) -> str:
    """The beginning of ``text`` on one line: no control characters, no lone surrogates, no space
    around it. Of what is longer than 8,000 characters the rest is left out."""
    text = text[:MAX_KEPT_CHARACTERS].translate(_CONTROLS)
    return text.encode("utf-8", "replace").decode("utf-8").strip()


class ChatOutlet:
    """One run of a live chat: stamps, numbers, cuts and counts its lines, and says its bounds.

    A source makes one for each run, probes its server's clock if it can, then calls `start` once.

    Args:
        name: of the source.
        feed: where items go.
        drops: the source's counter: `CUT`, `EMPTY`, `TOO_OLD`, `TOO_MANY`.
        numbers: the source's numbers of lines; they go on from run to run.
        rate: of the lines that are put; None for no limit.
    """

    def __init__(
        self,
        name: str,
        feed: Feed,
        drops: DropCounter,
        numbers: Iterator[int],
        rate: TokenBucket | None = None,
    ) -> None:
        self._name = name
        self._feed = feed
        self._drops = drops
        self._numbers = numbers
        self._rate = rate
        self._clock = ChatClock(name)
        self._offset_ns: int | None = None  # server to session, by the newest probe
        self._last_ns = 0
        self._beat_at_ns = 0
        self._warned = False

    def probe(self, sent_ns: int, server_ns: int, received_ns: int, *, grain_ns: int) -> None:
        """The server was asked for its time.

        Args:
            sent_ns, received_ns: when it was asked and when it answered, in session time.
            server_ns: its answer.
            grain_ns: to what the stamps of its lines are rounded down. The answer is taken to be
                rounded like them or less, so a line was sent up to a grain later than its stamp,
                and the offset is less sure by that.
        """
        self._clock.probe(sent_ns - grain_ns, server_ns, received_ns + grain_ns)
        self._offset_ns = (sent_ns + received_ns) // 2 - server_ns

    def forget_clock(self) -> None:
        """What was probed so far is no longer true: this may be another server."""
        self._clock = ChatClock(self._name)
        self._offset_ns = None

    def start(self, since_ns: int | None = None) -> None:
        """Say how the chat's time is mapped, from ``since_ns`` on (by default from now)."""
        since_ns = self._feed.now_ns() if since_ns is None else max(0, since_ns)
        server_ns = None if self._offset_ns is None else since_ns - self._offset_ns
        self._stamp(server_ns, since_ns)

    def line(
        self, author: str, text: str, *, arrived_ns: int, server_ns: int | None = None
    ) -> None:
        """Put a line, unless there is nothing in it, it is too old or one too many.

        Args:
            arrived_ns: when it arrived, in session time.
            server_ns: the server's stamp of it; None where it has none.
        """
        author, text = tidy(author), tidy(text)
        if not author or not text:
            self._drops.add(EMPTY)
            return
        if server_ns is not None and self._offset_ns is not None:
            age_ns = arrived_ns - (server_ns + self._offset_ns)
            if age_ns > MAX_AGE_NS:
                self._too_old(age_ns)
                return
            if age_ns < -MAX_AHEAD_NS:
                server_ns = None
        if self._rate is not None and not self._rate.take(arrived_ns):
            self._drops.add(TOO_MANY)
            return
        if len(text) > MAX_TEXT_CHARACTERS:
            self._drops.add(CUT)
        self._feed.put(
            ChatLine(
                source=self._name,
                t_ns=self._stamp(server_ns, max(0, arrived_ns)),
                author=author[:MAX_AUTHOR_CHARACTERS],
                text=text[:MAX_TEXT_CHARACTERS],
                sequence=next(self._numbers),
            )
        )

    def beat(self) -> None:
        """Say up to where the chat is known, if that was last said a heartbeat ago.

        Only to be called when all that has come so far was put.
        """
        now_ns = self._feed.now_ns()
        if now_ns < self._beat_at_ns:
            return
        self._beat_at_ns = now_ns + HEARTBEAT_NS
        # What comes from now on without a stamp is stamped from now on.
        delay_ns = 0 if self._offset_ns is None else ALLOWED_DELAY_NS
        t_ns = max(0, now_ns - delay_ns)
        self._feed.put(Bound(source=self._name, modality=Modality.CHAT, t_ns=t_ns))

    @property
    def beat_in_s(self) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0, self._beat_at_ns - self._feed.now_ns()) / NS_PER_S

    def _stamp(self, server_ns: int | None, arrived_ns: int) -> int:
        """Session time, never before that of the line before; what changed of the clock is said."""
        t_ns = self._last_ns = max(self._last_ns, self._clock.stamp(server_ns, arrived_ns))
        update = self._clock.take_update()
        if update is not None:
            self._feed.put(replace(update, t_ns=t_ns))
        return t_ns

    def _too_old(self, age_ns: int) -> None:
        self._drops.add(TOO_OLD)
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: a line was sent %.0f s ago by its stamp; such lines are left out and counted",
                self._name,
                age_ns / NS_PER_S,
            )
