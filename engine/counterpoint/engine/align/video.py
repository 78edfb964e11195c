"""Video: a periodic source, sampled at the end of each hop."""

from __future__ import annotations

from counterpoint.engine.align.progress import Ledger, Progress, Tallies, stand
from counterpoint.engine.align.window import AlignSpec, Output, Part, VideoCell
from counterpoint.streams.types import VideoFrame

LEARN_GAPS = 8
GAP_BLOCK = 64


class VideoTrack:
    """Chooses the frame of each sampling instant and knows when the choice is final.

    The bound after a frame is its capture time plus the smallest gap between frames: no further
    frame is expected in between. The gap is the smallest of the current block of `GAP_BLOCK` gaps
    and of the block before it, so that one freak pair of frames is forgotten; until `LEARN_GAPS`
    gaps were seen it is taken to be zero. Gaps are measured from the newest frame so far.

    Frames wait in buckets, one for each hop, of which each keeps only its newest frame: with the
    first instant after a frame goes any chance of it (a newer one there is newer at every later
    instant too).
    """

    def __init__(self, spec: AlignSpec, progress: Progress | None) -> None:
        self._spec = spec
        self._hop_ns = spec.hop_ns
        self.progress = progress
        self.tallies = Tallies()
        self.ledger = Ledger()
        self._buckets: dict[int, VideoFrame] = {}
        self._carried: VideoFrame | None = None
        self._newest_ns: int | None = None
        self._gaps_seen = 0
        self._block_gap_ns: int | None = None
        self._previous_gap_ns: int | None = None
        self.next_end_ns = spec.hop_ns

    def push(self, frame: VideoFrame) -> None:
        """Take a frame that is in range; moves the bound."""
        t_ns = frame.t_ns
        newest_ns = self._newest_ns
        if newest_ns is None:
            self._newest_ns = t_ns
            self._raise_bound(t_ns)
        elif t_ns != newest_ns:
            self._learn(abs(t_ns - newest_ns))
            if t_ns > newest_ns:
                self._newest_ns = t_ns
                self._raise_bound(t_ns + self._gap_ns())
        bucket = t_ns // self._hop_ns + 1
        if bucket <= self.ledger.last:
            self.tallies.late += 1
            return
        other = self._buckets.get(bucket)
        if other is None:
            self._buckets[bucket] = frame
            return
        ours, theirs = (t_ns, frame.sequence), (other.t_ns, other.sequence)
        if ours == theirs:
            self.tallies.duplicate += 1
            return
        if ours > theirs:
            self._buckets[bucket] = frame
        self.tallies.not_sampled += 1

    def _raise_bound(self, t_ns: int) -> None:
        assert self.progress is not None
        if t_ns > self.progress.bound_ns:
            self.progress.bound_ns = t_ns

    def _learn(self, gap_ns: int) -> None:
        if self._gaps_seen % GAP_BLOCK == 0 and self._gaps_seen:
            self._previous_gap_ns, self._block_gap_ns = self._block_gap_ns, None
        self._gaps_seen += 1
        if self._block_gap_ns is None or gap_ns < self._block_gap_ns:
            self._block_gap_ns = gap_ns

    def _gap_ns(self) -> int:
        if self._gaps_seen < LEARN_GAPS or self._block_gap_ns is None:
            return 0
        gap_ns = min(self._block_gap_ns, self._spec.max_ahead_ns)
        return gap_ns if self._previous_gap_ns is None else min(gap_ns, self._previous_gap_ns)

    def restart(self) -> None:
        """The clock broke: the step to the next frame is no gap. Gaps learned before stay."""
        self._newest_ns = None

    def seal(self, last: int, outputs: list[Output]) -> None:
        """Make the cells up to ``last`` final."""
        for index in range(self.ledger.last + 1, last + 1):
            chosen = self._buckets.pop(index, None)
            fresh = chosen is not None
            if chosen is None:
                chosen = self._carried
            if chosen is not None and chosen.t_ns < (
                index * self._hop_ns - self._spec.video_tolerance_ns
            ):
                chosen = None
                self.tallies.not_sampled += fresh
            elif fresh:
                self.tallies.used += 1
            self._carried = chosen
            self.ledger.add(chosen is not None, None if chosen is None else chosen.t_ns)
            outputs.append(VideoCell(index=index, frame=chosen))
        self.next_end_ns = (self.ledger.last + 1) * self._hop_ns

    def part(self, last: int, now_ns: int) -> tuple[range, Part]:
        """The cells of window ``last``, and how video stands in it."""
        length = self._spec.video_context_ns // self._hop_ns
        first = max(1, last + 1 - length)
        cells = range(first, last + 1) if self.progress is not None else range(0)
        units, newest_ns = self.ledger.content(cells)
        end_ns = last * self._hop_ns
        part = stand(
            self._spec,
            self.progress,
            start_ns=(first - 1) * self._hop_ns,
            end_ns=end_ns,
            now_ns=now_ns,
            coverage=units / (last + 1 - first),
            newest_ns=newest_ns,
            satisfied=newest_ns is not None and newest_ns >= end_ns - self._spec.video_tolerance_ns,
        )
        self.ledger.forget(last - length)
        return cells, part

    def in_flight(self) -> int:
        return len(self._buckets)

    def abandon(self) -> None:
        """What is still waiting lies beyond the end of the session."""
        self.tallies.out_of_range += len(self._buckets)
        self._buckets.clear()
