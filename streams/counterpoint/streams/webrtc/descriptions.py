"""Session descriptions and candidates as aiortc reads them."""

from __future__ import annotations

import struct
from typing import Final

from aiortc import RTCIceCandidate
from aiortc.sdp import SessionDescription, candidate_from_sdp

from counterpoint.streams.webrtc.signalling import CandidateError, OfferError

# What aiortc's parsers raise on text and packets that nobody has checked before.
UNREADABLE: Final = (
    ValueError,
    LookupError,
    AssertionError,
    AttributeError,
    TypeError,
    StopIteration,
    struct.error,
)


def check_description(sdp: str) -> None:
    """What aiortc would take, and never get to work.

    Raises:
        OfferError: the offer is like that.
    """
    try:
        description = SessionDescription.parse(sdp)
    except UNREADABLE as exc:
        raise OfferError(f"the offer cannot be read: {reason_of(exc)}") from exc
    for media in description.media:
        where = f"media section {media.kind} {media.rtp.muxId}".rstrip()
        if media.dtls is None or not media.dtls.fingerprints:
            raise OfferError(f"{where}: a=setup or a=fingerprint is missing")
        if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
            raise OfferError(f"{where}: a=ice-ufrag or a=ice-pwd is missing")
        if media.kind == "application":
            if media.sctp_port is None and media.profile != "DTLS/SCTP":
                raise OfferError(f"{where}: a=sctp-port is missing")
        elif not media.rtcp_mux:
            raise OfferError(f"{where}: a=rtcp-mux is missing")


def reason_of(exc: BaseException) -> str:
    """An exception in one line."""
    return " ".join(str(exc).split()) or type(exc).__name__


def read_candidate(mid: str | None, text: str) -> RTCIceCandidate:
    """A candidate (RFC 8839, section 5.1).

    Args:
        mid: of the media section it belongs to; None for the first.
        text: what follows ``a=candidate:``.

    Raises:
        CandidateError: it cannot be read.
    """
    try:
        candidate = candidate_from_sdp(text)
    except UNREADABLE as exc:
        raise CandidateError(f"no candidate: {text[:60]!r} ({reason_of(exc)})") from exc
    candidate.sdpMid = mid
    candidate.sdpMLineIndex = 0 if mid is None else None
    return candidate
