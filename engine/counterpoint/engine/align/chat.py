"""Chat: a sparse source, seldom waited for. A line is in every window that can hold it."""

from __future__ import annotations

from bisect import bisect_left

from counterpoint.engine.align.before import Heard
from counterpoint.engine.align.before import order as _order
from counterpoint.engine.align.progress import Progress, Tallies
from counterpoint.engine.align.window import AlignSpec, Line, Output, Part, State
from counterpoint.streams.types import ChatLine

_MS = 1_000_000


def _since(start_ns: int, lines: list[ChatLine]) -> list[ChatLine]:
    """Those of ``lines``, oldest first, that were sent from ``start_ns`` on."""
    if not lines or lines[0].t_ns >= start_ns:
        return lines
    return [line for line in lines if line.t_ns >= start_ns]


class ChatTrack:
    """Keeps the newest lines.

    A line that comes after windows it would have been in is not lost: unlike pictures and sound
    it is wanted for many windows, so it joins the next one whose context holds it. It is late
    only when there is no such window.

    Lines wait in buckets, one for each window, of which each keeps its newest `chat_max_lines`:
    older ones could be in no window. ``_recent`` holds the newest lines up to the last settled
    window (without a lateness: the last one given), ``_kept`` those that were named since, by the
    first window that can hold them.

    A line is given with those said before it (`Heard`). Where one of these comes after the line
    was given, the line is given again before the next window, until the first window that could
    hold it is settled.

    Attributes:
        touched: windows whose content has changed since the aligner last looked.
    """

    def __init__(self, spec: AlignSpec, progress: Progress | None) -> None:
        self._spec = spec
        self.progress = progress
        self.tallies = Tallies()
        self.touched: list[range] = []
        self._settled = 0
        self._given = 0
        self._recent: list[ChatLine] = []
        self._kept: dict[int, list[ChatLine]] = {}
        self._buckets: dict[int, list[ChatLine]] = {}
        self._heard = Heard(spec)
        # Revisions of the lines waiting or kept that were given again, and those that are to be.
        self._revised: dict[tuple[int, int], int] = {}
        self._stale: dict[tuple[int, int], ChatLine] = {}

    def hear(self, line: ChatLine) -> None:
        """Take a line that is for no window, but may be one before others."""
        for other in self._heard.add(line):
            self._reread(other)

    def push(self, line: ChatLine, outputs: list[Output]) -> None:
        """Take a line that is in range; gives it at once if it can be in a window."""
        self.hear(line)
        spec = self._spec
        first = self._settled + 1
        if line.t_ns < first * spec.hop_ns - spec.chat_context_ns:
            self.tallies.late += 1
            return
        key = _order(line)
        recent = self._recent
        if recent and key <= _order(recent[-1]) and key in map(_order, recent):
            self.tallies.duplicate += 1
            return
        window = max(first, line.t_ns // spec.hop_ns + 1)
        if window in self._kept and key in map(_order, self._kept[window]):
            self.tallies.duplicate += 1
            return
        bucket = self._buckets.setdefault(window, [])
        place = bisect_left(bucket, key, key=_order)
        if place < len(bucket) and _order(bucket[place]) == key:
            self.tallies.duplicate += 1
            return
        if window <= self._given and not self._join(line, window):
            self.tallies.not_sampled += 1
            return
        full = len(bucket) == spec.chat_max_lines
        if full:
            self.tallies.not_sampled += 1
            if place == 0:
                return
        bucket.insert(place, line)
        if full:
            del bucket[0]
        outputs.append(Line(line=line, before=self._heard.before(line)))

    def _reread(self, line: ChatLine) -> None:
        """Mark a line that has another line before it now, unless it is settled as it was."""
        key = _order(line)
        for held in (self._buckets, self._kept):
            for window, lines in held.items():
                if key in map(_order, lines):
                    self._stale[key] = line
                    if window <= self._given:
                        self._join(line, window)
                    return

    def revise(self, outputs: list[Output]) -> None:
        """Give again the lines that have other lines before them now; before each window."""
        for key, line in sorted(self._stale.items()):
            revision = self._revised[key] = self._revised.get(key, 0) + 1
            outputs.append(Line(line=line, before=self._heard.before(line), revision=revision))
        self._stale.clear()

    def _join(self, line: ChatLine, window: int) -> bool:
        """Whether a line is among the newest of ``window``, which was given; touches those that
        it changes. Where others are newer they are in all later windows too."""
        spec = self._spec
        key = _order(line)
        last = window - 1
        merged = self._newest(window)
        while last < self._given and line.t_ns >= (last + 1) * spec.hop_ns - spec.chat_context_ns:
            if len(merged) == spec.chat_max_lines and key < _order(merged[0]):
                break
            last += 1
            more = self._kept.get(last + 1, []) + self._buckets.get(last + 1, [])
            if more:
                merged = sorted(merged + more, key=_order)[-spec.chat_max_lines :]
        if last < window:
            return False
        self.touched.append(range(window, last + 1))
        return True

    def _newest(self, last: int) -> list[ChatLine]:
        """The newest lines of all for window ``last``, oldest first; some may be too old for it."""
        more: list[ChatLine] = []
        for window in range(self._settled + 1, last + 1):
            more += self._kept.get(window, ())
            more += self._buckets.get(window, ())
        if not more:
            return self._recent
        return sorted(self._recent + more, key=_order)[-self._spec.chat_max_lines :]

    def bound_ns(self, now_ns: int) -> int:
        """The heartbeat: lines sent before have arrived, as far as the allowed delay goes."""
        if self.progress is None:
            return 0
        return max(self.progress.bound_ns, now_ns - self._spec.chat_delay_ns)

    def part(self, last: int, now_ns: int) -> tuple[tuple[int, ...], Part]:
        """The lines of window ``last``, oldest first, and how chat stands in it."""
        spec = self._spec
        end_ns = last * spec.hop_ns
        start_ns = end_ns - spec.chat_context_ns
        self._given = max(self._given, last)
        lines = _since(start_ns, self._newest(last))
        if self._buckets:
            for window in range(self._settled + 1, last + 1):
                if window in self._buckets:
                    self._use(window, {_order(line) for line in lines})
            # What its first window does not name, as others are newer, none will.
            self.tallies.not_sampled += len(self._buckets.pop(last, ()))
        part = self._stand(lines, max(0, start_ns), end_ns, now_ns)
        return tuple(line.sequence for line in lines), part

    def _use(self, window: int, named: set[tuple[int, int]]) -> None:
        """Keep those of the lines waiting in a bucket that are named now."""
        waiting = self._buckets.pop(window)
        used = [line for line in waiting if _order(line) in named]
        self.tallies.used += len(used)
        kept = sorted(self._kept.get(window, []) + used, key=_order)
        if kept:
            self._kept[window] = kept[-self._spec.chat_max_lines :]
        if len(used) < len(waiting):
            self._buckets[window] = [line for line in waiting if _order(line) not in named]

    def settle(self, index: int) -> None:
        """The next window was given for the last time."""
        start_ns = index * self._spec.hop_ns - self._spec.chat_context_ns
        lines = self._recent
        if index in self._kept:
            lines = sorted(lines + self._kept.pop(index), key=_order)[-self._spec.chat_max_lines :]
        self._recent = _since(start_ns, lines)
        self._settled = index
        self._heard.forget(start_ns + self._spec.hop_ns)
        if self._revised:
            waiting = {_order(line) for lines in self._buckets.values() for line in lines}
            waiting |= {_order(line) for lines in self._kept.values() for line in lines}
            self._revised = {key: n for key, n in self._revised.items() if key in waiting}

    def _stand(self, lines: list[ChatLine], start_ns: int, end_ns: int, now_ns: int) -> Part:
        """The table of `State` for chat."""
        progress = self.progress
        complete, coverage = False, 0.0
        reason: str | None = None
        if progress is None:
            state, reason = State.MISSING, "no source"
        else:
            bound_ns = end_ns if progress.ended else self.bound_ns(now_ns)
            complete = bound_ns >= end_ns
            coverage = min(1.0, max(0.0, (bound_ns - start_ns) / (end_ns - start_ns)))
            quiet_ns = now_ns - progress.last_arrival_ns
            if lines:
                state = State.PRESENT
            elif progress.ended:
                state, reason, coverage = State.MISSING, progress.ended_reason(), 0.0
            elif progress.heartbeats and quiet_ns >= self._spec.stalled_ns:
                state, reason = State.STALLED, f"nothing arrived for {quiet_ns // _MS} ms"
                heard_ns = progress.last_arrival_ns - self._spec.chat_delay_ns
                coverage = min(1.0, max(0.0, (heard_ns - start_ns) / (end_ns - start_ns)))
            else:
                state, reason = State.SILENT, "no lines"
        return Part(
            start_ns=start_ns,
            state=state,
            reason=reason,
            coverage=coverage,
            age_ns=end_ns - lines[-1].t_ns if lines else None,
            complete=complete,
        )

    def in_flight(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def abandon(self) -> None:
        """What is still waiting lies beyond the end of the session."""
        self.tallies.out_of_range += self.in_flight()
        self._buckets.clear()
