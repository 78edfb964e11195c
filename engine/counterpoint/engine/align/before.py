"""What was said before a line of chat: kept as long as a line can still come after it."""

from __future__ import annotations

from bisect import bisect_left

from counterpoint.engine.align.window import AlignSpec
from counterpoint.streams.types import ChatLine


def order(line: ChatLine) -> tuple[int, int]:
    """Lines follow each other by the instant of sending, then by their number."""
    return line.t_ns, line.sequence


class Heard:
    """All lines that came, in order, those for which it was too late among them.

    A line that no window can hold any more was said all the same: the next line answers to it.
    """

    def __init__(self, spec: AlignSpec) -> None:
        self._spec = spec
        self._lines: list[ChatLine] = []

    def add(self, line: ChatLine) -> list[ChatLine]:
        """Keep a line; those heard already that it now comes before, as one of theirs."""
        spec, lines = self._spec, self._lines
        if not spec.chat_before_lines:
            return []
        place = bisect_left(lines, order(line), key=order)
        if place < len(lines) and order(lines[place]) == order(line):
            return []
        lines.insert(place, line)
        after = lines[place + 1 : place + 1 + spec.chat_before_lines]
        self._thin(line.t_ns // spec.hop_ns)
        return [other for other in after if other.t_ns - line.t_ns <= spec.chat_before_ns]

    def before(self, line: ChatLine) -> tuple[ChatLine, ...]:
        """The lines to be read with a line that was added, from the oldest to the newest."""
        count = self._spec.chat_before_lines
        if not count:
            return ()
        place = bisect_left(self._lines, order(line), key=order)
        found = self._lines[max(0, place - count) : place]
        return tuple(
            other for other in found if line.t_ns - other.t_ns <= self._spec.chat_before_ns
        )

    def forget(self, start_ns: int) -> None:
        """No line from before ``start_ns`` will be given (again)."""
        place = bisect_left(self._lines, (start_ns, -1), key=order)
        too_old = bisect_left(self._lines, (start_ns - self._spec.chat_before_ns, -1), key=order)
        del self._lines[: max(too_old, place - self._spec.chat_before_lines)]

    def _thin(self, hop: int) -> None:
        """Keep of one hop no more than what a window can name, and what comes before that."""
        first = bisect_left(self._lines, (hop * self._spec.hop_ns, -1), key=order)
        last = bisect_left(self._lines, ((hop + 1) * self._spec.hop_ns, -1), key=order)
        if last - first > self._spec.chat_max_lines + self._spec.chat_before_lines:
            del self._lines[first]

    def __len__(self) -> int:
        return len(self._lines)
