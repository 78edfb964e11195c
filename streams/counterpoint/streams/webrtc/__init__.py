"""Browsers and WHIP clients as live sources (WebRTC)."""

from __future__ import annotations

from counterpoint.streams.webrtc.peer import Peer
from counterpoint.streams.webrtc.settings import IceServer, PeerSettings, PeerStats, TrackStats
from counterpoint.streams.webrtc.signalling import CandidateError, OfferError

__all__ = [
    "CandidateError",
    "IceServer",
    "OfferError",
    "Peer",
    "PeerSettings",
    "PeerStats",
    "TrackStats",
]
