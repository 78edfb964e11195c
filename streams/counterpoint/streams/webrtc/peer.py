"""A browser or a WHIP client as a live source: one peer connection from its offer to its end."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable

from counterpoint.streams.clock import SenderOffset
from counterpoint.streams.errors import SourceError
from counterpoint.streams.feed import Feed
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import NS_PER_S, DropCounter, Modality
from counterpoint.streams.webrtc.adapter import Connection
from counterpoint.streams.webrtc.audio_track import AudioTrack
from counterpoint.streams.webrtc.channels import Channels
from counterpoint.streams.webrtc.lanes import LaneNumbers
from counterpoint.streams.webrtc.settings import PeerSettings, PeerStats
from counterpoint.streams.webrtc.signalling import (
    CandidateError,
    OfferError,
    credentials_of,
    read_fragment,
    read_offer,
    write_answer,
)
from counterpoint.streams.webrtc.video_track import VideoTrack

log = logging.getLogger(__name__)

CLOSE_S = 3.0
_LANES = LaneNumbers()


class Peer:
    """One peer connection, from the client's offer to its end. A `LiveSource`, run once.

    `answer` first; then `run` gives its items. Who answered and does not run it calls `close`.

    Args:
        name: of the source within its session.
        on_text: called in the loop with each text of a data channel, never a longer one than the
            settings allow.
        on_open: called in the loop when the first data channel is open: `send` works from here on.
    """

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        settings: PeerSettings | None = None,
        *,
        on_text: Callable[[str], None] | None = None,
        on_open: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.settings = settings or PeerSettings()
        self._runtime = runtime
        self._drops = DropCounter()
        self._changed = asyncio.Event()
        self._channels = Channels(
            self.settings, on_text, on_open, self._note_message, runtime.now_ns
        )
        self._last_message_ns: int | None = None
        self._connection = Connection(
            ice_servers=self.settings.ice_servers,
            loopback=self.settings.loopback,
            on_change=self._changed.set,
            on_channel=self._channels.add,
            now_ns=runtime.now_ns,
        )
        self._video: VideoTrack | None = None
        self._audio: AudioTrack | None = None
        self._lanes: list[int] = []
        self._answered_ns: int | None = None
        self._remote: frozenset[tuple[str, str]] = frozenset()
        self._local: frozenset[tuple[str, str]] = frozenset()
        self._ran = False
        self._closed = False

    # -- signalling ----------------------------------------------------------------------------

    async def answer(self, offer: str) -> str:
        """Take the client's offer; connecting begins. Once only.

        Args:
            offer: SDP with any of video, audio and data channels.

        Returns:
            The answer in SDP, with all candidates.

        Raises:
            OfferError: the offer cannot be taken, and why.
            SourceError: no answer could be found in time.
        """
        if self._answered_ns is not None:
            raise OfferError(f"{self.name}: it was offered before; a new offer needs a new peer")
        self._answered_ns = self._runtime.now_ns()
        try:
            unwanted = {"video", "audio"} - self.settings.modalities
            ready = read_offer(offer, unwanted)
            async with asyncio.timeout(self.settings.connect_timeout_ns / NS_PER_S):
                answer = await self._connection.accept(ready)
        except TimeoutError as exc:
            await self.close()
            raise SourceError(
                f"{self.name}: no addresses to answer with in time; are the ICE servers reachable?"
            ) from exc
        except BaseException:
            await self.close()
            raise
        self._remote, self._local = ready.credentials, credentials_of(answer)
        self._make_tracks()
        return write_answer(answer)

    async def add_candidates(self, fragment: str) -> None:
        """More candidates of the client's (RFC 8840), as WHIP sends them in a PATCH.

        Raises:
            CandidateError: it cannot be read, is of another ICE session (there are no ICE
                restarts: connect again), or the peer is closed.
        """
        if self._closed or not self._remote:
            raise CandidateError(f"{self.name}: there is no connection to add candidates to")
        found = read_fragment(fragment)
        ufrags = {ufrag for ufrag, _ in self._remote}
        passwords = {pwd for _, pwd in self._remote}
        if (found.ufrag is not None and found.ufrag not in ufrags) or (
            found.pwd is not None and found.pwd not in passwords
        ):
            raise CandidateError(
                f"{self.name}: an ICE restart is not possible here; make a new offer instead"
            )
        try:
            async with asyncio.timeout(self.settings.connect_timeout_ns / NS_PER_S):
                for mid, candidate in found.candidates:
                    await self._connection.add_candidate(mid, candidate)
                if found.complete:
                    await self._connection.end_candidates()
        except TimeoutError as exc:
            raise CandidateError(f"{self.name}: a candidate could not be looked up") from exc

    @property
    def ice_session(self) -> str:
        """Names the ICE session, for an entity tag (RFC 9725); empty before `answer`."""
        if not self._local:
            return ""
        text = " ".join(":".join(pair) for pair in sorted(self._local | self._remote))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    # -- the data channel ----------------------------------------------------------------------

    def send(self, text: str) -> bool:
        """Send ``text`` over the data channel that was opened first, from the loop.

        False, and counted, when there is none open or too much waits on it.
        """
        return self._channels.send(text)

    def complain(self, reason: str) -> None:
        """Tell the client why something of its was refused: ``{"type": "error", "reason": …}``.

        A client that does much wrong hears of it twice a second; the rest is counted.
        """
        self._channels.complain(reason)

    @property
    def channel_open(self) -> bool:
        """Whether there is a data channel to send on."""
        return self._channels.is_open

    # -- the source ----------------------------------------------------------------------------

    @property
    def modalities(self) -> frozenset[Modality]:
        """What the client offered to send; known once it is answered."""
        tracks = {Modality.VIDEO: self._video, Modality.AUDIO: self._audio}
        return frozenset(modality for modality, track in tracks.items() if track is not None)

    @property
    def drops(self) -> DropCounter:
        """What was lost on purpose, by reason."""
        return self._drops

    @property
    def state(self) -> str:
        """``new``, ``connecting``, ``connected``, ``failed`` or ``closed``."""
        return "closed" if self._closed else self._connection.state

    async def run(self, feed: Feed) -> None:
        """Give items until the client closes the connection.

        Raises:
            SourceError: it did not connect in time, broke off, sent nothing for too long, or was
                run before: a client that comes back makes a new peer.
        """
        if self._ran or self._closed or self._answered_ns is None:
            raise SourceError(
                f"{self.name}: this connection is over; the client has to offer again"
            )
        self._ran = True
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    self._runtime.spawn(group, f"{self.name} {track.modality}", track.pump(feed))
                    for track in (self._video, self._audio)
                    if track is not None
                ]
                late = self._connection.add_late_candidates()
                tasks.append(self._runtime.spawn(group, f"{self.name} candidates", late))
                try:
                    failure = await self._until_over()
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            await self.close()
        if failure is not None:
            raise SourceError(f"{self.name}: {failure}")

    async def close(self) -> None:
        """End the connection, in bounded time. May be called twice, and is by `run` at its end."""
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        self._channels.close()
        for number in self._lanes:
            _LANES.give_back(number)
        self._lanes.clear()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._connection.close()
        except TimeoutError:
            log.warning("%s: the connection did not close within %g s", self.name, CLOSE_S)

    def stats(self) -> PeerStats:
        """What became of everything so far."""
        tracks = [track for track in (self._video, self._audio) if track is not None]
        return PeerStats(
            state=self.state,
            video=None if self._video is None else self._video.stats(),
            audio=None if self._audio is None else self._audio.stats(),
            ignored_tracks=self._connection.ignored_tracks,
            reports=sum(track.reports for track in tracks),
            reports_taken=sum(track.reports_taken for track in tracks),
            trouble=dict(self._connection.trouble.by_reason),
            messages=self._channels.messages,
            refused=dict(self._channels.refused.by_reason),
            sent=self._channels.sent,
            unsent=self._channels.unsent,
            errors_untold=self._channels.errors_untold,
        )

    def _make_tracks(self) -> None:
        offset = SenderOffset()
        received = self._connection.tracks
        if "video" in received:
            self._video = VideoTrack(
                self.name,
                received["video"],
                runtime=self._runtime,
                lane=self._runtime.lane(self._lane_name()),
                offset=offset,
                drops=self._drops,
                on_begin=self._changed.set,
                settings=self.settings,
            )
        if "audio" in received:
            self._audio = AudioTrack(
                self.name,
                received["audio"],
                runtime=self._runtime,
                offset=offset,
                drops=self._drops,
                on_begin=self._changed.set,
                settings=self.settings,
            )

    def _lane_name(self) -> str:
        number = _LANES.take()
        self._lanes.append(number)
        return f"peer-{number}"

    async def _until_over(self) -> str | None:
        """Wait for the end. Why it came, or None where the client closed the connection."""
        while True:
            self._changed.clear()
            now_ns = self._runtime.now_ns()
            state = self._connection.state
            if self._closed or state == "closed":
                return None
            if state == "failed":
                return f"the connection failed: {self._connection.why_failed}"
            deadline_ns, failure = self._deadline(state)
            if deadline_ns is not None and now_ns >= deadline_ns:
                return failure
            timer = None
            if deadline_ns is not None:
                timer = self._runtime.call_at(deadline_ns, self._changed.set)
            try:
                await self._changed.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _deadline(self, state: str) -> tuple[int | None, str | None]:
        """When it will be over unless something happens, and what to say then."""
        settings = self.settings
        if state != "connected":
            assert self._answered_ns is not None
            seconds = settings.connect_timeout_ns / NS_PER_S
            return (
                self._answered_ns + settings.connect_timeout_ns,
                f"not connected after {seconds:g} s; no way from the client's addresses to these?",
            )
        tracks = [track for track in (self._video, self._audio) if track is not None]
        came = [track.last_packet_ns for track in tracks if track.last_packet_ns is not None]
        deadlines: list[int] = []
        if came:
            seconds = settings.media_idle_ns / NS_PER_S
            deadlines.append(max(came) + settings.media_idle_ns)
        elif tracks:
            # It may have vanished right after it connected.
            assert self._answered_ns is not None
            seconds = settings.connect_timeout_ns / NS_PER_S
            deadlines.append(self._answered_ns + settings.connect_timeout_ns)
        else:
            seconds = 2 * settings.media_idle_ns / NS_PER_S
        if self._last_message_ns is not None:
            # Camera and microphone may be off while somebody reads and writes.
            deadlines.append(self._last_message_ns + 2 * settings.media_idle_ns)
        if not deadlines:
            return None, None
        # Who said good-bye for each track is not missed.
        ended = bool(tracks) and all(track.said_bye for track in tracks)
        what = "media" if tracks else "messages"
        return max(deadlines), None if ended else f"no {what} for {seconds:g} s"

    def _note_message(self) -> None:
        begins = self._last_message_ns is None
        self._last_message_ns = self._runtime.now_ns()
        if begins:
            self._changed.set()  # there is a deadline now
