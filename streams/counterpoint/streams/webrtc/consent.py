"""Peers that answer no checks of consent and go on sending all the same.

aioice asks each peer every five seconds whether it may go on sending to it (RFC 7675), and closes
the connection when six requests in a row had no answer. FFmpeg's WHIP muxer answers none of them
once it sends, so it would be cut off after half a minute. What it sends proves as much: it is
authenticated by the keys of its own handshake and comes from where the check was sent to. So a
check without an answer is taken as answered where media came since the one before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aioice.stun import TransactionError
from aiortc import RTCDtlsTransport

from counterpoint.streams.webrtc.hidden import private

ICE_CONNECTION: Final = "_connection"
PROTOCOLS: Final = "_protocols"
HANDLE_RTP_DATA: Final = "_handle_rtp_data"
PRIVATE: Final = (ICE_CONNECTION, PROTOCOLS, HANDLE_RTP_DATA)


class MediaConsent:
    """Watches one transport from its making on."""

    def __init__(self, transport: RTCDtlsTransport) -> None:
        self._came = 0
        self._came_before = 0
        self._ice = private(transport.transport, ICE_CONNECTION)
        self._handle_rtp: Callable[..., Awaitable[None]] = private(transport, HANDLE_RTP_DATA)
        self._query_consent: Callable[[], Awaitable[None]] = self._ice.query_consent
        setattr(transport, HANDLE_RTP_DATA, self._on_rtp)
        self._ice.query_consent = self._query

    async def _on_rtp(self, data: bytes, **arguments: Any) -> None:
        """After decryption: nobody else can have sent it."""
        self._came += 1
        await self._handle_rtp(data, **arguments)

    async def _query(self) -> None:
        """Called when the connection is there, and with it all of its protocols."""
        for protocol in private(self._ice, PROTOCOLS):
            self._forgive(protocol)
        await self._query_consent()

    def _forgive(self, protocol: Any) -> None:
        request = protocol.request

        async def forgiving(*arguments: Any, **named: Any) -> Any:
            try:
                return await request(*arguments, **named)
            except TransactionError:
                # Checks of consent are the only requests that are never repeated.
                if named.get("retransmissions") != 0 or self._came == self._came_before:
                    raise
                return None  # which aioice does not look at
            finally:
                if named.get("retransmissions") == 0:
                    self._came_before = self._came

        protocol.request = forgiving
