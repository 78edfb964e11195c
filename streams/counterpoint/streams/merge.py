"""Several sources as one, in release order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from counterpoint.streams.errors import SourceError
from counterpoint.streams.types import Item, Modality, Source, SourceEnded, Step, modality_of

log = logging.getLogger(__name__)

RANK: Final[Mapping[Modality, int]] = {m: i for i, m in enumerate(Modality)}
"""Order of items released at the same instant: video, audio, chat."""
MAX_ITEMS_PER_STEP: Final = 64
"""A late step gives no more at once, however much has been released; it is to be called again."""


class OpenModalities:
    """Follows what a source still owes: each modality ends with one `SourceEnded`.

    Args:
        modalities: what the source gives.
    """

    def __init__(self, modalities: Iterable[Modality]) -> None:
        self._names: dict[Modality, str] = {
            m: m.value for m in sorted(modalities, key=RANK.__getitem__)
        }
        self._last_ns = 0

    def see(self, release_ns: int, item: Item) -> None:
        """Take note of an item on its way out."""
        modality = modality_of(item)
        self._last_ns = max(self._last_ns, release_ns)
        if isinstance(item, SourceEnded):
            self._names.pop(modality, None)
        elif modality in self._names:
            self._names[modality] = item.source

    def end_all(self, error: str, at_ns: int = 0) -> list[tuple[int, SourceEnded]]:
        """The ends that are missing, all with ``error``, and nothing owed from then on."""
        t_ns = max(self._last_ns, at_ns)
        ends = [
            (t_ns, SourceEnded(source=name, modality=modality, t_ns=t_ns, error=error))
            for modality, name in self._names.items()
        ]
        self._names.clear()
        return ends


class _Part:
    def __init__(self, index: int, source: Source) -> None:
        self.index = index
        self.source = source
        self.pending: deque[tuple[int, Item]] = deque()  # of one step
        self.next_wake_ns: int | None = 0
        self.open = OpenModalities(source.modalities)

    def step(self, now_ns: int) -> None:
        try:
            step = self.source.step(now_ns)
        except SourceError as error:
            log.warning("source lost: %s", error)
            self.pending.extend(self.open.end_all(str(error)))
            self.next_wake_ns = None
            return
        for release_ns, item in step.items:
            self.open.see(release_ns, item)
        self.pending.extend(step.items)
        self.next_wake_ns = step.next_wake_ns


class MergedSource:
    """Steps several sources and gives their items in one release order.

    Items released at the same instant come in the order video, audio, chat, then in the order of
    ``sources``: the order is the same at any pace of stepping. A source that raises `SourceError`
    ends its modalities with that error; the others go on.

    Args:
        sources: what to merge; closed together with this one.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._parts = [_Part(index, source) for index, source in enumerate(sources)]

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset[Modality]().union(*(part.source.modalities for part in self._parts))

    def step(self, now_ns: int) -> Step:
        """What is released up to ``now_ns``, at most `MAX_ITEMS_PER_STEP` items."""
        items: list[tuple[int, Item]] = []
        stepped_in_vain: set[int] = set()
        while len(items) < MAX_ITEMS_PER_STEP:
            for part in self._parts:
                # A part that is due and has nothing pending may hold the very next item.
                if part.pending or part.index in stepped_in_vain:
                    continue
                if part.next_wake_ns is not None and part.next_wake_ns <= now_ns:
                    part.step(now_ns)
                    if not part.pending:
                        stepped_in_vain.add(part.index)
            ready = [part for part in self._parts if part.pending]
            if not ready:
                break
            items.append(min(ready, key=_head_order).pending.popleft())
        return Step(items=tuple(items), next_wake_ns=self._next_wake_ns())

    def close(self) -> None:
        """Close all sources, also when closing one of them fails."""
        errors: list[Exception] = []
        for part in self._parts:
            try:
                part.source.close()
            except Exception as error:  # noqa: BLE001 - raised again below, after the others
                errors.append(error)
        if errors:
            raise ExceptionGroup("sources that could not be closed", errors)

    def _next_wake_ns(self) -> int | None:
        wakes = [part.pending[0][0] for part in self._parts if part.pending]
        wakes += [
            part.next_wake_ns
            for part in self._parts
            if not part.pending and part.next_wake_ns is not None
        ]
        return min(wakes, default=None)


def _head_order(part: _Part) -> tuple[int, int, int]:
    release_ns, item = part.pending[0]
    return release_ns, RANK[modality_of(item)], part.index
