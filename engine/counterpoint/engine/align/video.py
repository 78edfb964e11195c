"""Video: a periodic source, sampled at the end of each hop."""

from __future__ import annotations

from counterpoint.engine.align.progress import Ledger, Progress, Tallies, stand
from counterpoint.engine.align.window import AlignSpec, Output, Part, VideoCell
from counterpoint.streams.types import VideoFrame

LEARN_GAPS = 8
GAP_BLOCK = 64


class VideoTrack:
    """Chooses the frame of each sampling instant and knows when the choice is to be given.

    The bound after a frame is its capture time plus the smallest gap between frames: no further
    frame is expected in between. The gap is the smallest of the current block of `GAP_BLOCK` gaps
    and of the block before it, so that one freak pair of frames is forgotten; until `LEARN_GAPS`
    gaps were seen it is taken to be zero. Gaps are measured from the newest frame so far.

    Frames wait in buckets, one for each hop, of which each keeps only its newest frame: with the
    first instant after a frame goes any chance of it (a newer one there is newer at every later
    instant too).

    With a lateness, cells that were given stay open until they are settled, that is up to
    ``closed``. Of those ``_kept`` holds the newest frame of the bucket and ``_pictures`` the
    picture of the instant (with a tolerance above the hop it may be of a bucket before).

    Attributes:
        closed: the last cell that takes nothing more.
        touched: windows whose content has changed since the aligner last looked.
    """

    def __init__(self, spec: AlignSpec, progress: Progress | None) -> None:
        self._spec = spec
        self._hop_ns = spec.hop_ns
        self.progress = progress
        self.tallies = Tallies()
        self.ledger = Ledger()
        self._buckets: dict[int, VideoFrame] = {}
        self._carried: VideoFrame | None = None
        self._length = spec.video_context_ns // spec.hop_ns
        self.closed = 0
        self.touched: list[range] = []
        self._kept: dict[int, VideoFrame] = {}
        self._pictures: dict[int, VideoFrame | None] = {}
        self._revisions: dict[int, int] = {}
        self._changed: set[int] = set()  # cells to be given again
        self._fresh: set[int] = set()  # of those, the ones whose kept frame was not yet given
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
            self._push_late(frame, bucket)
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

    def _push_late(self, frame: VideoFrame, bucket: int) -> None:
        """Take a frame of a cell that was given."""
        if bucket <= self.closed:
            self.tallies.late += 1
            return
        ours = (frame.t_ns, frame.sequence)
        other = self._kept.get(bucket)
        if other is not None:
            theirs = (other.t_ns, other.sequence)
            if ours == theirs:
                self.tallies.duplicate += 1
                return
            if ours < theirs:
                self.tallies.not_sampled += 1
                return
            if bucket in self._fresh:
                self._fresh.remove(bucket)
                self.tallies.not_sampled += 1
        self._kept[bucket] = frame
        if not self._reaches(frame, bucket):
            self.tallies.not_sampled += 1
            return
        self._fresh.add(bucket)
        for index in range(bucket, self.ledger.last + 1):
            picture = self._pictures[index]
            if not self._reaches(frame, index) or (
                picture is not None and (picture.t_ns, picture.sequence) > ours
            ):
                return
            self._pictures[index] = frame
            self.ledger.amend(index, picture is None, frame.t_ns)
            if index not in self._changed:
                self._changed.add(index)
                self.touched.append(range(index, index + self._length))
        self._carried = frame

    def _reaches(self, frame: VideoFrame, index: int) -> bool:
        """Whether a frame from before instant ``index`` is within the tolerance of it."""
        return frame.t_ns >= index * self._hop_ns - self._spec.video_tolerance_ns

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

    @property
    def closes_ns(self) -> int:
        """The bound that a frame raises lies ahead of it by no more than a gap that was learned:
        one from before this closes no cell."""
        return self.next_end_ns - max(self._block_gap_ns or 0, self._previous_gap_ns or 0)

    def restart(self) -> None:
        """The clock broke: the step to the next frame is no gap. Gaps learned before stay."""
        self._newest_ns = None

    def seal(self, last: int, outputs: list[Output]) -> None:
        """Give the cells up to ``last`` that were not yet given."""
        stays_open = self._spec.lateness_ns > 0
        for index in range(self.ledger.last + 1, last + 1):
            chosen = self._buckets.pop(index, None)
            fresh = chosen is not None
            if chosen is None:
                chosen = self._carried
            elif stays_open:
                self._kept[index] = chosen
            if chosen is not None and chosen.t_ns < (
                index * self._hop_ns - self._spec.video_tolerance_ns
            ):
                chosen = None
                self.tallies.not_sampled += fresh
            elif fresh:
                self.tallies.used += 1
            self._carried = chosen
            self.ledger.add(chosen is not None, None if chosen is None else chosen.t_ns)
            if stays_open:
                self._pictures[index] = chosen
            else:
                self.closed = index
            outputs.append(VideoCell(index=index, frame=chosen))
        self.next_end_ns = (self.ledger.last + 1) * self._hop_ns

    def revise(self, last: int, outputs: list[Output]) -> None:
        """Give those of the cells up to ``last`` again that have changed."""
        if not self._changed:
            return
        for index in sorted(index for index in self._changed if index <= last):
            self._changed.remove(index)
            if index in self._fresh:
                self._fresh.remove(index)
                self.tallies.used += 1
            revision = self._revisions[index] = self._revisions.get(index, 0) + 1
            frame = self._pictures[index]
            outputs.append(VideoCell(index=index, frame=frame, revision=revision))

    def settle(self, index: int) -> None:
        """The next cell takes nothing more, and no window to come ends before the next."""
        self.closed = max(self.closed, index)
        if self._pictures:
            self._pictures.pop(index, None)
            self._kept.pop(index, None)
            self._revisions.pop(index, None)
        self.ledger.forget(index - self._length)

    def part(self, last: int, now_ns: int) -> tuple[range, Part]:
        """The cells of window ``last``, and how video stands in it."""
        first = max(1, last + 1 - self._length)
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
        return cells, part

    def in_flight(self) -> int:
        return len(self._buckets) + len(self._fresh)

    def abandon(self) -> None:
        """What is still waiting lies beyond the end of the session."""
        self.tallies.out_of_range += self.in_flight()
        self._buckets.clear()
        self._fresh.clear()
