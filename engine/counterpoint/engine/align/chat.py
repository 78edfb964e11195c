"""Chat: a sparse source. No window waits for it; a line is in every window that can hold it."""

from __future__ import annotations

from bisect import bisect_left

from counterpoint.engine.align.progress import Progress, Tallies
from counterpoint.engine.align.window import AlignSpec, Line, Output, Part, State
from counterpoint.streams.types import ChatLine

_MS = 1_000_000


def _order(line: ChatLine) -> tuple[int, int]:
    return line.t_ns, line.sequence


class ChatTrack:
    """Keeps the newest lines.

    A line that comes after windows it would have been in is not lost: unlike pictures and sound
    it is wanted for many windows, so it joins the next one whose context holds it. It is late
    only when there is no such window.

    Lines wait in buckets, one for each window, of which each keeps its newest `chat_max_lines`:
    older ones could be in no window. ``_recent`` holds the newest lines of windows given so far.
    """

    def __init__(self, spec: AlignSpec, progress: Progress | None) -> None:
        self._spec = spec
        self.progress = progress
        self.tallies = Tallies()
        self._next_window = 1
        self._recent: list[ChatLine] = []
        self._buckets: dict[int, list[ChatLine]] = {}

    def push(self, line: ChatLine, outputs: list[Output]) -> None:
        """Take a line that is in range; gives it at once if it can be in a window."""
        spec = self._spec
        if line.t_ns < self._next_window * spec.hop_ns - spec.chat_context_ns:
            self.tallies.late += 1
            return
        key = _order(line)
        recent = self._recent
        if recent and key <= _order(recent[-1]) and key in map(_order, recent):
            self.tallies.duplicate += 1
            return
        window = max(self._next_window, line.t_ns // spec.hop_ns + 1)
        bucket = self._buckets.setdefault(window, [])
        place = bisect_left(bucket, key, key=_order)
        if place < len(bucket) and _order(bucket[place]) == key:
            self.tallies.duplicate += 1
            return
        full = len(bucket) == spec.chat_max_lines
        if full:
            self.tallies.not_sampled += 1
            if place == 0:
                return
        bucket.insert(place, line)
        if full:
            del bucket[0]
        outputs.append(Line(line=line))

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
        fresh = self._buckets.pop(last, [])
        merged = sorted(self._recent + fresh, key=_order)[-spec.chat_max_lines :]
        self._recent = [line for line in merged if line.t_ns >= start_ns]
        self._next_window = last + 1
        if fresh:
            oldest = _order(merged[0])
            used = sum(_order(line) >= oldest for line in fresh)
            self.tallies.used += used
            self.tallies.not_sampled += len(fresh) - used
        part = self._stand(max(0, start_ns), end_ns, now_ns)
        return tuple(line.sequence for line in self._recent), part

    def _stand(self, start_ns: int, end_ns: int, now_ns: int) -> Part:
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
            if self._recent:
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
            age_ns=end_ns - self._recent[-1].t_ns if self._recent else None,
            complete=complete,
        )

    def in_flight(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def abandon(self) -> None:
        """What is still waiting lies beyond the end of the session."""
        self.tallies.out_of_range += self.in_flight()
        self._buckets.clear()
