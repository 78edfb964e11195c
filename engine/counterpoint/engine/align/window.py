"""What the aligner is told and what it gives: specification, cells, lines, windows, counters."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from counterpoint.streams.types import (
    NS_PER_S,
    BoolArray,
    ChatLine,
    Float32Array,
    Modality,
    Tier,
    VideoFrame,
)

_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignSpec:
    """The grid, the contexts and the patience of an aligner. All spans in nanoseconds.

    Fields:
        hop_ns: window k = 1, 2, ... ends at k * hop_ns; so does cell k of video and of audio.
        video_context_ns, audio_context_ns: length of the context; whole hops.
        chat_context_ns: length of the context of chat; any length from a hop on.
        video_tolerance_ns: the picture of instant g is the newest with g - tolerance <= t < g.
        audio_rate_hz: rate of every chunk; a hop must hold a whole number of samples.
        chat_max_lines: newest lines kept for a window.
        chat_before_lines: lines said before a line that are given with it.
        chat_before_ns: how long before it at most.
        deadline_ns: a window is emitted at its end + deadline_ns at the latest.
        idle_ns: a source of video or audio from which nothing arrived for so long is not waited
            for.
        stalled_ns: after so long it is called stalled instead of idle.
        chat_delay_ns: heartbeat of chat: at any instant ``now``, lines sent before
            ``now - chat_delay_ns`` are taken to have arrived. Used for coverage and completeness
            of chat; a window waits for chat only where it is required.
        max_ahead_ns: what lies further ahead of its arrival is out of range.
        lateness_ns: how long after its deadline a window takes what comes late; then it is
            settled. 0: not at all, a window is given once and is final.
        required: the modalities for which a window waits, as far as the session has them. Chat
            among them is waited for until its heartbeat has passed the window's end.
    """

    hop_ns: int = 250 * _MS
    video_context_ns: int = 2_000 * _MS
    audio_context_ns: int = 3_000 * _MS
    chat_context_ns: int = 10_000 * _MS
    video_tolerance_ns: int = 250 * _MS
    audio_rate_hz: int = 16_000
    chat_max_lines: int = 8
    chat_before_lines: int = 0
    chat_before_ns: int = 60_000 * _MS
    deadline_ns: int = 250 * _MS
    idle_ns: int = 150 * _MS
    stalled_ns: int = 2_000 * _MS
    chat_delay_ns: int = 100 * _MS
    max_ahead_ns: int = 10_000 * _MS
    lateness_ns: int = 0
    required: frozenset[Modality] = frozenset({Modality.VIDEO, Modality.AUDIO})

    def __post_init__(self) -> None:
        for name in (
            "hop_ns",
            "video_context_ns",
            "audio_context_ns",
            "chat_context_ns",
            "video_tolerance_ns",
            "audio_rate_hz",
            "chat_max_lines",
            "idle_ns",
            "max_ahead_ns",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in (
            "deadline_ns", "chat_delay_ns", "lateness_ns", "chat_before_lines", "chat_before_ns",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("video_context_ns", "audio_context_ns"):
            if getattr(self, name) % self.hop_ns:
                raise ValueError(
                    f"{name} must be whole hops of {self.hop_ns} ns, not {getattr(self, name)}"
                )
        if self.chat_context_ns < self.hop_ns:
            raise ValueError(
                f"chat_context_ns ({self.chat_context_ns}) is less than a hop ({self.hop_ns}): "
                "lines would be lost between windows"
            )
        if self.hop_ns * self.audio_rate_hz % NS_PER_S:
            raise ValueError(
                f"a hop of {self.hop_ns} ns holds no whole number of samples "
                f"at {self.audio_rate_hz} Hz"
            )
        if self.stalled_ns < self.idle_ns:
            raise ValueError(
                f"stalled_ns ({self.stalled_ns}) must not be less than idle_ns ({self.idle_ns})"
            )

    @property
    def samples_per_hop(self) -> int:
        """Audio samples in one cell."""
        return self.hop_ns * self.audio_rate_hz // NS_PER_S


class Status(enum.StrEnum):
    """How settled a window is. Its outputs are numbered by ``revision``, from 0.

    provisional: given at the deadline though a required modality was neither complete nor idle,
    and only where there is an allowed lateness; a final follows. final: given once for each
    window. amended: data came late, within the allowed lateness; given once it is over.
    """

    PROVISIONAL = "provisional"
    FINAL = "final"
    AMENDED = "amended"


class State(enum.StrEnum):
    """What a modality is in one output of a window. The first row that holds decides.

    "Complete" means: the source's bound has reached the end of the window, or the source has
    ended. "Empty" means: nothing of it in the context. "Quiet" is the time from its last arrival
    (of anything, bounds and late items too; the origin if there was none) to the output.

    ======== ======================================================= ==============================
    state    when                                                    reason
    ======== ======================================================= ==============================
    late     the output is an amendment and the modality's content   arrived after the window was
             is not what the window last named                       final
    missing  the session has no source for it                        no source
    missing  ended and empty                                         ended, or ended: <error>
    present  chat: any line in the context                           None
    stalled  chat that ever sent a bound: no line in the context,    nothing arrived for <n> ms
             quiet >= stalled_ns
    silent   chat: no line in the context                            no lines
    stalled  not complete, quiet >= stalled_ns                       nothing arrived for <n> ms
    idle     not complete, quiet >= idle_ns                          nothing arrived for <n> ms
    partial  not complete and required (so: given at the deadline)   incomplete at the deadline
    partial  not complete and not required                           incomplete when the window
                                                                     was given
    silent   complete and empty (bounds or later items say so)       nothing in the context
    present  video: the newest instant has a picture                 None
    present  audio: every sample of the context is valid             None
    partial  everything else: gaps, or the source ended in between   gaps, or as for ended
    ======== ======================================================= ==============================

    The part of a context before the origin does not exist and counts for nothing. "No face" and
    "no voice" are not for the aligner to see: a session makes them missing and silent.
    """

    PRESENT = "present"
    SILENT = "silent"
    IDLE = "idle"
    STALLED = "stalled"
    PARTIAL = "partial"
    LATE = "late"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoCell:
    """The picture of one sampling instant. Each index comes first in order, from 1.

    Without a lateness it comes once. With one, a cell that has changed comes again, as its next
    revision, right before the next window that can name it. Without a source of video there are
    none.

    Fields:
        index: the instant is index * hop_ns.
        frame: the newest frame with instant - tolerance <= t < instant, or None. Only with a
            tolerance above the hop can one frame be in several cells.
        revision: 0, 1, ...: how often the cell was given before.
    """

    index: int
    frame: VideoFrame | None
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioCell:
    """The sound of one hop. Each index comes first in order, from 1, and again as for `VideoCell`.

    Without a source of audio there are none.

    Fields:
        index: the cell is [(index - 1) * hop_ns, index * hop_ns).
        samples: (samples_per_hop,) float32, read-only, zero where not valid.
        valid: (samples_per_hop,) bool, read-only.
        revision: 0, 1, ...: how often the cell was given before.
    """

    index: int
    samples: Float32Array
    valid: BoolArray
    revision: int = 0

    def __repr__(self) -> str:
        return f"AudioCell({self.index}, {int(self.valid.sum())} of {len(self.valid)} valid)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of chat, given as soon as it arrives so that it is encoded once, ahead of its window.

    Only lines that can still be among the newest of some window are given.

    Fields:
        before: the lines said before it, from the oldest to the newest, `chat_before_lines` at
            most, whether or not a window holds them.
        revision: how often it was given before, with other lines before it.
    """

    line: ChatLine
    before: tuple[ChatLine, ...] = ()
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How one modality stands in one window.

    Fields:
        start_ns: the context is [start_ns, end of the window); never before the origin.
        state: see `State`.
        reason: why it is not present; None when it is.
        coverage: 0..1. Video: instants with a picture; audio: valid samples; chat: the part of
            the context before the heartbeat's bound (0 when missing; when stalled, before its
            last arrival less chat_delay_ns).
        age_ns: end of the window less the time of the newest content (video: capture; audio: end
            of the newest valid sample; chat: sending), or None without any.
        complete: the bound had reached the window's end, or the source had ended.
    """

    start_ns: int
    state: State
    reason: str | None
    coverage: float
    age_ns: int | None
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window. Every cell and line that it names was given before it, as it is in the window.

    Fields:
        index: 1, 2, 3, ...; none is left out. Later revisions of a window come between.
        end_ns: index * hop_ns. Content is strictly before it.
        video_cells, audio_cells: indices of the cells of the context, oldest first; shorter than
            the context near the origin, empty without a source. A cell may hold nothing.
        chat_lines: sequence numbers of the newest lines of the context, oldest first.
        parts: how each modality stands; always all three.
        emitted_ns: session instant at which this output was due and given.
        complete: every required source was complete; False when the window was given at the
            deadline or without an idle source.
        epoch: breaks of the sources' clocks before the window was first given; its revisions
            keep it.
        status, revision: see `Status`.
        tier: the least trusted tier of video and audio (of chat where there is nothing else), as
            of this output.
        align_error_ns: sum of their stated errors: how far their content may lie apart.
    """

    index: int
    end_ns: int
    video_cells: range
    audio_cells: range
    chat_lines: tuple[int, ...]
    parts: Mapping[Modality, Part]
    emitted_ns: int
    complete: bool
    epoch: int = 0
    status: Status = Status.FINAL
    revision: int = 0
    tier: Tier = Tier.MEDIA
    align_error_ns: int = 0


Output: TypeAlias = VideoCell | AudioCell | Line | Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What became of the items of one source. ``received`` is the sum of all the others.

    Fields:
        used: in a cell (video, audio) or in a window (chat) that was given. A chunk of which any
            sample is used is used.
        late: for a cell (video, audio) that takes nothing more, or older than the context of
            every window that does (chat). Without a lateness a cell takes nothing more once it was
            given, with one once it is settled.
        duplicate: nothing new: the same (t_ns, sequence) of a frame or line, or a chunk whose
            samples were all there already.
        not_sampled: passed over: a newer frame took its instant or no instant is within the
            tolerance; chat_max_lines newer lines were there. What was used stays so when
            something newer replaces it in a revision.
        out_of_range: before the origin, further than max_ahead_ns ahead, after the end of its
            source or of the session.
        in_flight: kept for what is still to be given, or given again.
    """

    received: int = 0
    used: int = 0
    late: int = 0
    duplicate: int = 0
    not_sampled: int = 0
    out_of_range: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Conservation at one instant.

    Fields:
        items: for each modality with a source.
        audio_samples: the same for single samples of audio.
        windows: windows given for the first time.
        revisions: windows given again: finals after a provisional one, and amendments.
    """

    items: Mapping[Modality, Tally]
    audio_samples: Tally
    windows: int
    revisions: int = 0
