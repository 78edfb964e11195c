"""Names for lanes that come and go.

A lane lives as long as its runtime, so a name of its own for every peer that ever connected would
leave a thread behind for each. Numbers are used again instead: there are as many lanes as there
ever were at once.
"""

from __future__ import annotations

import heapq


class LaneNumbers:
    """The smallest numbers that nobody has."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._next = 0

    def take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def give_back(self, number: int) -> None:
        heapq.heappush(self._free, number)
