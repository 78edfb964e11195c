"""RTP sequence numbers as integers that do not wrap, and what became of packets (RFC 3550, A.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MAX_DROPOUT = 3_000
MAX_MISORDER = 512
_TURN = 1 << 16
# After a restart numbers go on this far above all before, so that none is mistaken for those.
_APART = MAX_DROPOUT + MAX_MISORDER


class Sequence:
    """16-bit sequence numbers made continuous.

    A number far from the newest is not believed until the one after it follows; then the sender
    is taken to have begun anew.
    """

    def __init__(self) -> None:
        self._newest: int | None = None
        self._doubtful: int | None = None
        self._shift = 0
        self.restarted = False

    def add(self, sequence: int) -> int | None:
        """The continuous number, or None while it is not believed.

        `restarted` tells whether numbers began anew with this one.

        Args:
            sequence: 0 to 65535.
        """
        self.restarted = False
        if self._newest is None:
            self._newest = sequence
            return sequence
        ahead = (sequence + self._shift - self._newest) % _TURN
        behind = _TURN - ahead
        if ahead < MAX_DROPOUT:
            self._newest += ahead
            self._doubtful = None
            return self._newest
        if behind <= MAX_MISORDER:
            return self._newest - behind
        if sequence != self._doubtful:
            self._doubtful = (sequence + 1) % _TURN
            return None
        self._newest += _APART
        self._shift = (self._newest - sequence) % _TURN
        self._doubtful = None
        self.restarted = True
        return self._newest


@dataclass(slots=True)
class JitterCounts:
    """What became of packets: received = used + duplicates + late + given up + waiting.

    Fields:
        used: given in frames, padding included.
        late: came after they had been given up on, or bore a number not to be believed.
        given_up: came, and were of no use without those that were lost.
        lost: numbers that were passed over because they did not come in time.
        reordered: came after a greater number, and in time.
        frames: given.
        frames_given_up: frames some of whose packets came and that were never given; for sound,
            stretches that are missing.
    """

    received: int = 0
    used: int = 0
    duplicates: int = 0
    late: int = 0
    given_up: int = 0
    lost: int = 0
    reordered: int = 0
    frames: int = 0
    frames_given_up: int = 0


class PassedOver:
    """Numbers that were given up on, as far back as one can still arrive."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def add(self, numbers: Iterable[int], end: int) -> int:
        """All of ``numbers``, which lie below ``end``. How many they are."""
        before = len(self._numbers)
        self._numbers.update(numbers)
        added = len(self._numbers) - before
        if len(self._numbers) > 2 * MAX_MISORDER:
            self._numbers = {number for number in self._numbers if number >= end - MAX_MISORDER}
        return added

    def take(self, number: int) -> bool:
        """True, once, if ``number`` was given up on."""
        if number in self._numbers:
            self._numbers.discard(number)
            return True
        return False
