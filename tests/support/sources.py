"""Sources that are written down item by item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from counterpoint.streams.errors import SourceError
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    ChatLine,
    Item,
    Modality,
    SourceEnded,
    Step,
    VideoFrame,
    modality_of,
)


def frame(t_ns: int, sequence: int = 0, source: str = "cam") -> VideoFrame:
    """A picture of 2x2 pixels."""
    y = np.full((2, 2), sequence % 256, np.uint8)
    return VideoFrame(source=source, t_ns=t_ns, y=y, sequence=sequence)


def chunk(t_ns: int, sequence: int = 0, source: str = "mic") -> AudioChunk:
    """20 ms of silence at 16 kHz."""
    samples = np.zeros(320, np.float32)
    return AudioChunk(source=source, t_ns=t_ns, samples=samples, rate_hz=16_000, sequence=sequence)


def line(t_ns: int, sequence: int = 0, text: str = "hello", source: str = "chat") -> ChatLine:
    """A line by ann."""
    return ChatLine(source=source, t_ns=t_ns, author="ann", text=text, sequence=sequence)


def sample(modality: Modality, t_ns: int, sequence: int = 0, source: str = "any") -> Item:
    """A sample of that modality."""
    match modality:
        case Modality.VIDEO:
            return frame(t_ns, sequence, source)
        case Modality.AUDIO:
            return chunk(t_ns, sequence, source)
        case Modality.CHAT:
            return line(t_ns, sequence, source=source)


def ended(modality: Modality, t_ns: int, source: str = "cam") -> SourceEnded:
    """A regular end."""
    return SourceEnded(source=source, modality=modality, t_ns=t_ns)


class ScriptedSource:
    """Gives the items of a list, each at its release instant.

    Args:
        script: pairs (release instant, item) in release order.
        fails_ns: raise `SourceError` when stepped to this instant and all before it is given.
        modalities: what it says to give; by default those of the script.
        max_items: how many items a step gives at most.
    """

    def __init__(
        self,
        script: Sequence[tuple[int, Item]],
        *,
        fails_ns: int | None = None,
        max_items: int = 1_000,
        modalities: frozenset[Modality] | None = None,
    ) -> None:
        self._script = list(script)
        self._fails_ns = fails_ns
        self._max_items = max_items
        self._modalities = modalities or frozenset(modality_of(item) for _, item in script)
        self.given = 0
        self.closed = 0

    @property
    def modalities(self) -> frozenset[Modality]:
        return self._modalities

    def step(self, now_ns: int) -> Step:
        due = [pair for pair in self._script[self.given :] if pair[0] <= now_ns]
        if self._fails_ns is not None:
            due = [pair for pair in due if pair[0] < self._fails_ns]
            if not due and now_ns >= self._fails_ns:
                raise SourceError(f"cable pulled at {self._fails_ns / NS_PER_S:g} s; plug it in")
        due = due[: self._max_items]
        self.given += len(due)
        left = self._script[self.given :]
        wakes = [left[0][0]] if left else []
        if self._fails_ns is not None:
            wakes.append(self._fails_ns)
        return Step(items=tuple(due), next_wake_ns=min(wakes, default=None))

    def close(self) -> None:
        self.closed += 1
