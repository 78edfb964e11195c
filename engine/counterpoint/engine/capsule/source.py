"""A capsule's arrivals as a source: each item at the instant at which the session took it."""

from __future__ import annotations

from counterpoint.engine.capsule.reader import Capsule
from counterpoint.streams.merge import MAX_ITEMS_PER_STEP
from counterpoint.streams.types import Bound, ClockUpdate, Item, Modality, Step, Tier


class CapsuleSource:
    """Implements `Source`. Release instants are effective arrivals, so play it with ``exact``.

    After the last item comes one that changes nothing: by its arrival the aligner is brought to
    the instant of the last recorded window, where the recorded session was brought by its clock.
    """

    def __init__(self, capsule: Capsule) -> None:
        self._sources = dict(capsule.header.sources)
        self._arrivals = capsule.arrivals()
        self._after_ns = capsule.reached_ns + 1
        self._last_ns = 0
        self._told_last = False
        self._next = self._take()

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset(self._sources)

    def step(self, now_ns: int) -> Step:
        items: list[tuple[int, Item]] = []
        while (
            self._next is not None and self._next[0] <= now_ns and len(items) < MAX_ITEMS_PER_STEP
        ):
            items.append(self._next)
            self._next = self._take()
        return Step(items=tuple(items), next_wake_ns=None if self._next is None else self._next[0])

    def close(self) -> None:
        self._arrivals = iter(())
        self._told_last = True
        self._next = None

    def _take(self) -> tuple[int, Item] | None:
        taken = next(self._arrivals, None)
        if taken is not None:
            self._last_ns = taken[0]
            return taken
        if self._told_last or not self._sources:
            return None
        self._told_last = True
        return max(self._last_ns, self._after_ns), self._nothing()

    def _nothing(self) -> Item:
        for modality in (Modality.VIDEO, Modality.AUDIO):
            if (name := self._sources.get(modality)) is not None:
                return Bound(source=name, modality=modality, t_ns=0)
        # A bound would turn chat into a source that is expected to give them.
        return ClockUpdate(
            source=self._sources[Modality.CHAT],
            modality=Modality.CHAT,
            t_ns=0,
            tier=Tier.MEDIA,
            error_ns=0,
            epoch=-1,
        )
