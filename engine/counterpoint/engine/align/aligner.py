"""The aligner's state machine."""

from __future__ import annotations

from collections.abc import Mapping

from counterpoint.engine.align.window import AlignSpec, Counters, Output
from counterpoint.streams.types import Item, Modality


class Aligner:
    """One session's aligner. API first; being implemented.

    Args:
        spec: grid, contexts, patience.
        sources: name of the one source of each modality that the session has.
    """

    def __init__(self, spec: AlignSpec, sources: Mapping[Modality, str]) -> None:
        raise NotImplementedError

    def push(self, item: Item, arrived_ns: int) -> None:
        """Take one item. Push all that arrived at one instant before advancing to it.

        Raises:
            ValueError: not a source of this session, or a chunk of another rate.
        """
        raise NotImplementedError

    def advance(self, now_ns: int) -> list[Output]:
        """Close what is due up to ``now_ns``; everything not yet given, in order."""
        raise NotImplementedError

    def next_wake_ns(self) -> int | None:
        """When `advance` has something to give if nothing more arrives; in the past: now.

        None after `finish`.
        """
        raise NotImplementedError

    def finish(self, end_ns: int) -> list[Output]:
        """End the session at ``end_ns``: sources end, windows k with k * hop <= end + hop / 2 go.

        What lies beyond the last of them is out of range, and so is what is pushed later.
        """
        raise NotImplementedError

    def counters(self) -> Counters:
        """What became of every item so far."""
        raise NotImplementedError

    def bounds(self) -> Mapping[Modality, int]:
        """The bound of each source now: nothing earlier is expected. An ended source keeps its."""
        raise NotImplementedError

    def ended(self) -> bool:
        """Whether every source has ended (then call `finish`)."""
        raise NotImplementedError

    def check(self) -> None:
        """Assert the invariants that hold between any two calls. Cheap."""
        raise NotImplementedError
