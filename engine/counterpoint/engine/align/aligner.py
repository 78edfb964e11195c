"""The aligner's state machine: when windows and cells are closed, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from counterpoint.engine.align.audio import AudioTrack
from counterpoint.engine.align.chat import ChatTrack
from counterpoint.engine.align.progress import Progress
from counterpoint.engine.align.revisions import NEVER_NS, Given, Revisions
from counterpoint.engine.align.video import VideoTrack
from counterpoint.engine.align.window import (
    AlignSpec,
    Counters,
    Output,
    Part,
    State,
    Status,
    Tally,
    Window,
)
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    Bound,
    ChatLine,
    ClockUpdate,
    Item,
    Modality,
    SourceEnded,
    Tier,
    VideoFrame,
)

_LATE = "arrived after the window was final"
_TRUST = {tier: rank for rank, tier in enumerate(Tier)}


def _late(part: Part) -> Part:
    return replace(part, state=State.LATE, reason=_LATE)


class Aligner:
    """One session's aligner: push items, advance the clock, take the outputs.

    A cell of video or audio is given as soon as its source's bound reaches the cell's end, at
    the latest with the window that ends with it.

    Window k with end e is given, after window k - 1, at the first instant from e on at which
    each required source is complete (bound >= e, or ended) or idle, or at e + deadline_ns.
    Chat is complete when its heartbeat has reached e, and never idle. At one instant, arrivals
    come before closings.

    Without a lateness that is all, and what arrives for a cell that was given is late. With one,
    cells and windows stay open until e + deadline_ns + lateness_ns, when they are settled. A
    window that some required source was still to fill is provisional, and final as soon as each
    is complete or idle, at the latest when it is settled; a final one whose content differs by
    then is amended. Cells that have changed are given again before the next window that can name
    them, and at no other time; so are lines of chat that have other lines before them now.

    Each event costs the same however long the session or a context is; it grows with the number
    of windows that are not settled.

    Args:
        spec: grid, contexts, patience.
        sources: name of the one source of each modality that the session has.
    """

    def __init__(self, spec: AlignSpec, sources: Mapping[Modality, str]) -> None:
        self._spec = spec
        self._progress = {
            modality: Progress(sources[modality], required=modality in spec.required)
            for modality in Modality
            if modality in sources
        }
        self._video = VideoTrack(spec, self._progress.get(Modality.VIDEO))
        self._audio = AudioTrack(spec, self._progress.get(Modality.AUDIO))
        self._chat = ChatTrack(spec, self._progress.get(Modality.CHAT))
        # Those that have cells, which their bounds close.
        self._celled: list[tuple[Progress, VideoTrack | AudioTrack]] = [
            (track.progress, track)
            for track in (self._video, self._audio)
            if track.progress is not None
        ]
        chat = self._progress.get(Modality.CHAT)
        self._awaited_chat = chat if chat is not None and chat.required else None
        self._epoch = 0
        self._tier, self._error_ns = Tier.MEDIA, 0
        self._now_ns = 0
        self._windows = 0
        self._revised = 0
        self._next_end_ns = spec.hop_ns
        self._finished = False
        self._outputs: list[Output] = []
        self._revisions = Revisions()
        self._settle_after_ns = spec.deadline_ns + spec.lateness_ns
        # Never after the next instant at which something is due; may be before it.
        self._wake_ns = 0

    def push(self, item: Item, arrived_ns: int) -> None:
        """Take one item. Push all that arrived at one instant before advancing to it.

        An arrival before an instant already reached counts as arriving at that instant.

        Raises:
            ValueError: not a source of this session, or a chunk of another rate.
        """
        if arrived_ns > self._now_ns:
            if arrived_ns > self._wake_ns and not self._finished:
                self._close_until(arrived_ns - 1)
            self._now_ns = arrived_ns
        now_ns = self._now_ns
        if isinstance(item, AudioChunk):
            self._push_audio(item, now_ns)
        elif isinstance(item, VideoFrame):
            self._push_video(item, now_ns)
        elif isinstance(item, ChatLine):
            self._push_chat(item, now_ns)
        else:
            self._push_progress(item, now_ns)

    def _source(self, modality: Modality, name: str) -> Progress:
        progress = self._progress.get(modality)
        if progress is None or progress.name != name:
            raise ValueError(f"{name!r} is not the source of {modality} in this session")
        return progress

    def _push_video(self, frame: VideoFrame, now_ns: int) -> None:
        progress = self._source(Modality.VIDEO, frame.source)
        progress.last_arrival_ns = now_ns
        track = self._video
        track.tallies.received += 1
        if progress.ended or not 0 <= frame.t_ns <= now_ns + self._spec.max_ahead_ns:
            track.tallies.out_of_range += 1
            return
        track.push(frame)
        if progress.bound_ns >= track.next_end_ns or self._revisions.provisional:
            self._wake_ns = now_ns
        if track.touched:
            self._touch(Modality.VIDEO, track.touched)

    def _push_audio(self, chunk: AudioChunk, now_ns: int) -> None:
        progress = self._source(Modality.AUDIO, chunk.source)
        if chunk.rate_hz != self._spec.audio_rate_hz:
            raise ValueError(f"audio at {chunk.rate_hz} Hz, not at {self._spec.audio_rate_hz} Hz")
        progress.last_arrival_ns = now_ns
        track = self._audio
        track.tallies.received += 1
        limit_ns = now_ns + self._spec.max_ahead_ns
        if progress.ended or chunk.t_ns > limit_ns:
            track.refuse(chunk)
            return
        track.push(chunk, limit_ns)
        if progress.bound_ns >= track.next_end_ns or self._revisions.provisional:
            self._wake_ns = now_ns
        if track.touched:
            self._touch(Modality.AUDIO, track.touched)

    def _push_chat(self, line: ChatLine, now_ns: int) -> None:
        progress = self._source(Modality.CHAT, line.source)
        progress.last_arrival_ns = now_ns
        tallies = self._chat.tallies
        tallies.received += 1
        if progress.ended or line.t_ns > now_ns + self._spec.max_ahead_ns:
            tallies.out_of_range += 1
            return
        if line.t_ns < 0:
            tallies.out_of_range += 1
            self._chat.hear(line)
        else:
            self._chat.push(line, self._outputs)
        if self._chat.touched:
            self._touch(Modality.CHAT, self._chat.touched)

    def _touch(self, modality: Modality, touched: list[range]) -> None:
        for windows in touched:
            self._revisions.touch(modality, windows)
        touched.clear()
        self._wake_ns = self._now_ns

    def _push_progress(self, item: Bound | ClockUpdate | SourceEnded, now_ns: int) -> None:
        progress = self._source(item.modality, item.source)
        progress.last_arrival_ns = now_ns
        self._wake_ns = now_ns
        if isinstance(item, SourceEnded):
            progress.end(item.error)
        elif isinstance(item, ClockUpdate):
            if not self._finished:
                self._take_clock(progress, item)
        else:
            progress.heartbeats = True
            if not progress.ended:
                bound_ns = min(item.t_ns, now_ns + self._spec.max_ahead_ns)
                progress.bound_ns = max(progress.bound_ns, bound_ns)

    def _take_clock(self, progress: Progress, update: ClockUpdate) -> None:
        track = next((track for other, track in self._celled if other is progress), None)
        given = self._windows if track is None else track.ledger.last
        if progress.clock(update, given * self._spec.hop_ns):
            self._epoch += 1
            if track is not None:
                track.restart()
        clocks = [progress for progress, _ in self._celled] or list(self._progress.values())
        self._tier = max((clock.tier for clock in clocks), key=_TRUST.__getitem__)
        self._error_ns = sum(clock.error_ns for clock in clocks)

    def advance(self, now_ns: int) -> list[Output]:
        """Close what is due up to ``now_ns``; everything not yet given, in order."""
        if now_ns >= self._wake_ns and not self._finished:
            self._close_until(now_ns)
        self._now_ns = max(self._now_ns, now_ns)
        outputs, self._outputs = self._outputs, []
        return outputs

    def next_wake_ns(self) -> int | None:
        """When `advance` has something to give if nothing more arrives; not after now: at once.

        None after `finish`.
        """
        if self._outputs:
            return self._now_ns
        if self._finished:
            return None
        due_ns = self._wake_ns = self._due_ns()
        if self._revisions.settles_ns < due_ns:
            self._wake_ns = self._revisions.settles_ns
        return due_ns

    def closes_ns(self) -> Mapping[Modality, int]:
        """Up to where a picture or sound has to reach to close a cell. What does not reach so far
        is of no consequence before another item or instant is; empty where all may be.
        """
        if self._spec.lateness_ns:
            return {}  # what comes late changes what was given
        return {
            Modality.VIDEO: self._video.closes_ns,
            # A chunk may begin up to half a sample before the sample that it is taken for.
            Modality.AUDIO: self._audio.next_end_ns - NS_PER_S // self._spec.audio_rate_hz - 1,
        }

    def _due_ns(self) -> int:
        """The next instant, from now on, at which a cell or window is to be closed."""
        end_ns = hold_ns = self._next_end_ns
        for progress, track in self._celled:
            bound_ns = progress.bound_ns
            if bound_ns >= track.next_end_ns:
                return self._now_ns
            # The same as `_release_ns`, written out: this is what every item costs.
            if bound_ns < end_ns and progress.required and not progress.ended:
                hold_ns = max(hold_ns, progress.last_arrival_ns + self._spec.idle_ns)
        if self._awaited_chat is None:
            due_ns = min(hold_ns, end_ns + self._spec.deadline_ns)
        else:
            due_ns = self._release_ns(end_ns, self._spec.deadline_ns)
        if self._revisions.pending:
            due_ns = min(due_ns, self._revision_due_ns())
        return max(self._now_ns, due_ns)

    def _revision_due_ns(self) -> int:
        """When a window is to be given again if nothing more arrives."""
        revisions = self._revisions
        if not revisions.provisional:
            return revisions.amend_ns
        end_ns = revisions.provisional[0].end_ns
        return min(revisions.amend_ns, self._release_ns(end_ns, self._settle_after_ns))

    def _release_ns(self, end_ns: int, patience_ns: int) -> int:
        """When the window that ends at ``end_ns`` waits no longer if nothing more arrives."""
        hold_ns = end_ns
        for progress, _ in self._celled:
            if progress.required and progress.bound_ns < end_ns and not progress.ended:
                hold_ns = max(hold_ns, progress.last_arrival_ns + self._spec.idle_ns)
        chat = self._awaited_chat
        if chat is not None and chat.bound_ns < end_ns and not chat.ended:
            hold_ns = max(hold_ns, end_ns + self._spec.chat_delay_ns)
        return min(hold_ns, end_ns + patience_ns)

    def _waits(self, end_ns: int) -> bool:
        """Whether some required source is, now, neither complete up to ``end_ns`` nor idle."""
        for progress, _ in self._celled:
            waits = progress.required and progress.bound_ns < end_ns and not progress.ended
            if waits and self._now_ns < progress.last_arrival_ns + self._spec.idle_ns:
                return True
        chat = self._awaited_chat
        return chat is not None and not chat.ended and self._chat.bound_ns(self._now_ns) < end_ns

    def _close_until(self, until_ns: int) -> None:
        """Close everything due up to ``until_ns``, each at its own instant."""
        while (due_ns := self._due_ns()) <= until_ns:
            self._now_ns = due_ns
            for progress, track in self._celled:
                if progress.bound_ns >= track.next_end_ns:
                    track.seal(progress.bound_ns // self._spec.hop_ns, self._outputs)
            if self._revisions.pending:
                self._revise(due_ns)
            if self._release_ns(self._next_end_ns, self._spec.deadline_ns) <= due_ns:
                self._emit()
        if self._revisions.pending:
            self._revise(until_ns)
        self._wake_ns = min(due_ns, self._revisions.settles_ns)

    def _revise(self, until_ns: int) -> None:
        """Settle the windows that are over by ``until_ns``, and give again those that are due."""
        revisions = self._revisions
        while revisions.settles_ns <= until_ns:
            given, again = revisions.settle()
            if again:
                self._give(given)
            self._settle(given.index)
        while revisions.provisional and not self._waits(revisions.provisional[0].end_ns):
            self._give(revisions.finalise())

    def _settle(self, index: int) -> None:
        """Windows up to ``index`` will not be given again: forget what only they could need."""
        for _, track in self._celled:
            track.settle(index)
        self._chat.settle(index)

    def _emit(self) -> None:
        """Give the next window for the first time, now."""
        self._windows += 1
        end_ns = self._next_end_ns
        self._next_end_ns += self._spec.hop_ns
        given = Given(
            index=self._windows,
            end_ns=end_ns,
            settles_ns=end_ns + self._settle_after_ns,
            epoch=self._epoch,
        )
        if not self._spec.lateness_ns:
            self._give(given)
            self._settle(given.index)
            return
        if self._waits(end_ns):
            given.status = Status.PROVISIONAL
        self._give(given)
        self._revisions.add(given)

    def _give(self, given: Given) -> None:
        """Give a window as it is now, after the cells that it names."""
        index = given.index
        for _, track in self._celled:
            track.revise(index, self._outputs)
            track.seal(index, self._outputs)
        self._chat.revise(self._outputs)
        video_cells, video = self._video.part(index, self._now_ns)
        audio_cells, audio = self._audio.part(index, self._now_ns)
        chat_lines, chat = self._chat.part(index, self._now_ns)
        parts = {Modality.VIDEO: video, Modality.AUDIO: audio, Modality.CHAT: chat}
        complete = all(
            parts[modality].complete
            for modality, progress in self._progress.items()
            if progress.required
        )
        if given.status is Status.AMENDED:
            for modality in given.changed:
                parts[modality] = _late(parts[modality])
        given.changed.clear()
        self._outputs.append(
            Window(
                index=index,
                end_ns=given.end_ns,
                video_cells=video_cells,
                audio_cells=audio_cells,
                chat_lines=chat_lines,
                parts=parts,
                emitted_ns=self._now_ns,
                complete=complete,
                epoch=given.epoch,
                status=given.status,
                revision=given.revision,
                tier=self._tier,
                align_error_ns=self._error_ns,
            )
        )
        self._revised += given.revision > 0

    def finish(self, end_ns: int) -> list[Output]:
        """End the session at ``end_ns``: every source ends; provisional windows are final and
        changed ones amended, now; windows k with k * hop <= end + hop / 2 that were not yet given
        are, as final.

        What lies beyond the last of them is out of range, and so is what is pushed later.
        """
        if not self._finished:
            self._close_until(self._now_ns)
            self._finished = True
            for progress in self._progress.values():
                progress.end(None)
            self._revise(NEVER_NS - 1)
            while 2 * self._next_end_ns <= 2 * end_ns + self._spec.hop_ns:
                self._emit()
            self._revise(NEVER_NS - 1)
            for track in (self._video, self._audio, self._chat):
                track.abandon()
        outputs, self._outputs = self._outputs, []
        return outputs

    @property
    def now_ns(self) -> int:
        """The instant reached. What is pushed with an earlier arrival counts as arriving at it."""
        return self._now_ns

    @property
    def ended(self) -> bool:
        """Whether every source has ended; then nothing but `finish` is left to do."""
        return all(progress.ended for progress in self._progress.values())

    def bounds(self) -> Mapping[Modality, int]:
        """For each source: nothing earlier is expected. That of an ended source stays."""
        bounds = {modality: progress.bound_ns for modality, progress in self._progress.items()}
        if Modality.CHAT in bounds:
            bounds[Modality.CHAT] = self._chat.bound_ns(self._now_ns)
        return bounds

    def counters(self) -> Counters:
        """What became of every item so far."""
        items: dict[Modality, Tally] = {}
        if self._video.progress is not None:
            items[Modality.VIDEO] = self._video.tallies.snapshot(self._video.in_flight())
        if self._audio.progress is not None:
            items[Modality.AUDIO] = self._audio.tallies.snapshot(self._audio.in_flight())
        if self._chat.progress is not None:
            items[Modality.CHAT] = self._chat.tallies.snapshot(self._chat.in_flight())
        return Counters(
            items=items,
            audio_samples=self._audio.samples.snapshot(self._audio.samples_in_flight()),
            windows=self._windows,
            revisions=self._revised,
        )

    def check(self) -> None:
        """Assert what holds between any two calls. Cheap."""
        counters = self.counters()
        named = [(str(modality), tally) for modality, tally in counters.items.items()]
        for name, tally in [*named, ("audio samples", counters.audio_samples)]:
            settled = tally.used + tally.late + tally.duplicate
            settled += tally.not_sampled + tally.out_of_range
            assert tally.received == settled + tally.in_flight, f"{name}: {tally}"
            assert not (self._finished and tally.in_flight), f"{name} after the end: {tally}"
        assert self._next_end_ns == (self._windows + 1) * self._spec.hop_ns
        self._revisions.check(self._settle_after_ns // self._spec.hop_ns + 1)
        ahead = self._spec.max_ahead_ns // self._spec.hop_ns + 2
        now_cell = self._now_ns // self._spec.hop_ns
        for _, track in self._celled:
            assert track.ledger.last >= self._windows, "a window was given before its cells"
            assert track.next_end_ns == (track.ledger.last + 1) * self._spec.hop_ns
            assert track.in_flight() >= 0
            assert not track.touched
            assert track.closed <= track.ledger.last
            assert track.ledger.last <= max(now_cell + 2 * ahead, self._windows)
