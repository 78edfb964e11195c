"""One voice of a live session: its own sources, timeline, windows and predictions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from counterpoint.engine.engine import Engine
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.server.port import RefusedError
from counterpoint.engine.session import Session, Summary
from counterpoint.engine.sources import OpenSources
from counterpoint.streams.chat_inbox import ChatInbox
from counterpoint.streams.lineup import Lineup, Seat
from counterpoint.streams.rate import TokenBucket
from counterpoint.streams.types import Modality
from counterpoint.streams.webrtc.peer import Peer

SLOTS = {Modality.VIDEO: "camera", Modality.AUDIO: "microphone", Modality.CHAT: "chat"}


MAX_CONNECTIONS: Final = 8
"""Of one participant at once, those included that are still to connect."""
MESSAGES_PER_S: Final = 20
"""Of one connection, read; what comes beyond costs no more than its arrival."""
MESSAGE_BURST: Final = 100


@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """A peer that feeds a participant.

    Fields:
        key: names it in its session and is hard to guess.
        unread: messages that came too fast to be read.
    """

    key: str
    peer: Peer
    seat: Seat
    unread: int = 0
    _messages: TokenBucket = field(
        default_factory=lambda: TokenBucket(per_s=MESSAGES_PER_S, burst=MESSAGE_BURST)
    )

    def takes_message(self, now_ns: int) -> bool:
        """Whether one more may be read now. Where not, the peer is told."""
        if self._messages.take(now_ns):
            return True
        self.unread += 1
        self.peer.complain(f"too many messages: {MESSAGES_PER_S} a second are read")
        return False


class Participant:
    """Made when somebody connects, and over when nobody has been connected for a while.

    Its timeline begins at an instant of the session's grid of windows, so that its window k is the
    session's window k + ``shift``.

    Args:
        session, name: whose.
        shift: windows of the session before its first.
        origin_ns: the runtime's instant at which its timeline is 0.
    """

    def __init__(
        self, session: str, name: str, engine: Engine, *, shift: int, origin_ns: int
    ) -> None:
        self.name = name
        self.key = f"{session}/{name}"
        self.shift = shift
        self.origin_ns = origin_ns
        self.connections: dict[str, Connection] = {}
        self.joining = 0
        self.session: Session | None = None
        self.alone_since_ns = engine.runtime.now_ns()
        config = engine.config
        self.inbox = ChatInbox(
            engine.runtime,
            author_per_s=config.live.chat_lines_per_s,
            author_burst=max(1, round(4 * config.live.chat_lines_per_s)),
        )
        slots = {m: name for m, name in SLOTS.items() if m in config.purpose.modalities}
        self.lineup = Lineup(self.key, slots, engine.runtime, lasting=True)
        if Modality.CHAT in slots:
            self.lineup.add(self.inbox)
        self._hop_ns = config.time.stride(engine.models.bundle.manifest.hop_ns) * (
            engine.models.bundle.manifest.hop_ns
        )

    def check_room(self) -> None:
        """
        Raises:
            RefusedError: it has all the connections that it may have.
        """
        if self.joining + len(self.connections) >= MAX_CONNECTIONS:
            raise RefusedError(
                f"{self.key} has {MAX_CONNECTIONS} connections; one of them has to end first",
                reason="connections",
            )

    @property
    def sources(self) -> OpenSources:
        """What its session runs on."""
        names = {m: name for m, name in SLOTS.items() if m in self.lineup.modalities}
        return OpenSources(source=self.lineup, names=names, duration_ns=None, parts=())

    def on_the_session(self, prediction: Prediction) -> Prediction:
        """Its prediction with the session's window index and times."""
        by_ns = self.shift * self._hop_ns
        return replace(
            prediction,
            window=prediction.window + self.shift,
            start_ns=prediction.start_ns + by_ns,
            end_ns=prediction.end_ns + by_ns,
        )

    def describe(self) -> dict[str, Any]:
        """What it is doing, as JSON can say it."""
        summary = None if self.session is None else self.session.summary()
        return {
            "name": self.name,
            "windows": 0 if summary is None else summary.windows,
            "skipped": 0 if summary is None else summary.skipped,
            "dropped": {} if summary is None else dict(summary.dropped),
            "items": {} if summary is None else _items(summary),
            "sources": [
                {
                    "name": seat.source.name,
                    "modalities": sorted(seat.modalities),
                    "runs": seat.runs,
                    "error": seat.error,
                    "dropped": dict(seat.source.drops.by_reason),
                }
                for seat in self.lineup.seats
            ],
            "connections": [
                {
                    "state": connection.peer.state,
                    "unread_messages": connection.unread,
                    **_peer(connection.peer),
                }
                for connection in self.connections.values()
            ],
        }


def _items(summary: Summary) -> dict[str, dict[str, int]]:
    """What became of what sources handed over: ``received`` is the sum of all the others.

    Sound is counted as the aligner has it, after it was brought to the bundle's rate.
    """
    told: dict[str, dict[str, int]] = {}
    for modality, tally in summary.counters.items.items():
        dropped = sum(summary.mailbox.dropped.get(modality, {}).values())
        told[modality] = asdict(tally) | {"dropped_by_mailbox": dropped}
        told[modality]["received"] += dropped
    return told


def _peer(peer: Peer) -> dict[str, Any]:
    stats = peer.stats()
    channel = {
        "messages": stats.messages,
        "refused": dict(stats.refused),
        "sent": stats.sent,
        "unsent": stats.unsent,
        "errors_untold": stats.errors_untold,
    }
    connection = {
        "channel": channel,
        "reports": stats.reports,
        "reports_taken": stats.reports_taken,
        "trouble": dict(stats.trouble),
    }
    return connection | {
        kind: None
        if track is None
        else {
            "codec": track.codec,
            "tier": None if track.tier is None else track.tier.value,
            "error_ns": track.error_ns,
            "packets": track.packets,
            "duplicates": track.duplicates,
            "lost": track.lost,
            "late": track.late,
            "given_up": track.given_up,
            "waiting": track.waiting,
            "frames": track.frames,
            "decoded": track.decoded,
            "frames_given_up": track.frames_given_up,
            "key_frame_requests": track.key_frame_requests,
            "decode_errors": track.decode_errors,
            "dropped": dict(track.dropped),
            "width": track.width,
            "height": track.height,
            "delay_p50_ms": None if track.delay_p50_ns is None else track.delay_p50_ns / 1e6,
            "delay_p99_ms": None if track.delay_p99_ns is None else track.delay_p99_ns / 1e6,
        }
        for kind, track in (("video", stats.video), ("audio", stats.audio))
    }
