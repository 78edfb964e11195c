"""A peer's data channels: short texts both ways, everything else refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from aiortc import InvalidStateError, RTCDataChannel

from counterpoint.streams.rate import TokenBucket
from counterpoint.streams.types import DropCounter
from counterpoint.streams.webrtc.settings import PeerSettings

MAX_CHANNELS = 8
BINARY = "binary message: this channel takes text only"
ERRORS_PER_S: Final = 2
"""Told to one client. Answering each message of a flood would cost more than the flood."""
ERROR_BURST: Final = 20


class Channels:
    """All data channels of a peer; the one that was opened first carries what is sent.

    Args:
        on_text: called with each text; not after `close`.
        on_open: called when the first channel is open.
        on_message: called with each message, before it is looked at.
        now_ns: a clock.
    """

    def __init__(
        self,
        settings: PeerSettings,
        on_text: Callable[[str], None] | None,
        on_open: Callable[[], None] | None,
        on_message: Callable[[], None],
        now_ns: Callable[[], int],
    ) -> None:
        self.messages = 0
        self.sent = 0
        self.unsent = 0
        self.errors_untold = 0
        self.refused = DropCounter()
        self._settings = settings
        self._on_text = on_text
        self._on_open = on_open
        self._on_message = on_message
        self._now_ns = now_ns
        self._errors = TokenBucket(per_s=ERRORS_PER_S, burst=ERROR_BURST)
        self._channels: list[RTCDataChannel] = []

    def add(self, channel: RTCDataChannel) -> None:
        """The client opened a channel."""
        self._channels = [known for known in self._channels if known.readyState == "open"]
        if len(self._channels) >= MAX_CHANNELS:
            self.refused.add("too many channels")
            channel.close()
            return
        self._channels.append(channel)
        channel.on("message", lambda message: self._take(message))
        if len(self._channels) == 1 and self._on_open is not None:
            self._on_open()

    def send(self, text: str) -> bool:
        """Send ``text``. False, and counted, where no channel can take it now."""
        for channel in self._channels:
            if channel.readyState == "open":
                return self._send(channel, text)
        self.unsent += 1
        return False

    def complain(self, reason: str) -> None:
        """Tell the client why something of its was refused, or only count where it is too often."""
        if self._errors.take(self._now_ns()):
            self.send(json.dumps({"type": "error", "reason": reason}))
        else:
            self.errors_untold += 1

    def close(self) -> None:
        """Nothing is taken or sent any more."""
        for channel in self._channels:
            channel.remove_all_listeners("message")
        self._channels.clear()

    @property
    def is_open(self) -> bool:
        """There is a channel to send on."""
        return any(channel.readyState == "open" for channel in self._channels)

    def _send(self, channel: RTCDataChannel, text: str) -> bool:
        if channel.bufferedAmount > self._settings.max_buffered_bytes:
            self.unsent += 1
            return False
        try:
            channel.send(text)
        except (InvalidStateError, ValueError):
            # It closed meanwhile, or the client takes only shorter messages.
            self.unsent += 1
            return False
        self.sent += 1
        return True

    def _take(self, message: str | bytes) -> None:
        self._on_message()
        most = self._settings.max_message_bytes
        if isinstance(message, bytes):
            self._refuse(BINARY)
        elif len(message.encode()) > most:
            self._refuse(f"message too long: at most {most} bytes are taken")
        else:
            self.messages += 1
            if self._on_text is not None:
                self._on_text(message)

    def _refuse(self, reason: str) -> None:
        self.refused.add(reason)
        self.complain(reason)
