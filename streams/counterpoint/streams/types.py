"""The nouns of a session: samples, bounds and the protocol that every source follows.

All times are integer nanoseconds on the session timeline (``_ns``): zero is the session's origin,
and for live sources the timeline advances with ``CLOCK_MONOTONIC``. Arrays are read-only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

NS_PER_S = 1_000_000_000

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


class Modality(enum.StrEnum):
    """One voice of a session."""

    VIDEO = "video"
    AUDIO = "audio"
    CHAT = "chat"


class Tier(enum.StrEnum):
    """How a source's own time was mapped to the session timeline, the most trusted first.

    media: a recording's own timestamps; capture: WebRTC ``abs-capture-time``; sr: RTCP Sender
    Reports; device: the device's clock; server: a chat server's stamp whose offset was probed;
    arrival: arrivals alone, so that the path's delay is not known.
    """

    MEDIA = "media"
    CAPTURE = "capture"
    REPORTS = "sr"
    DEVICE = "device"
    SERVER = "server"
    ARRIVAL = "arrival"


def _freeze(array: npt.NDArray[Any]) -> None:
    array.flags.writeable = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoFrame:
    """One picture as decoded, kept in YUV 4:2:0 until it is known to be needed.

    Fields:
        source: name of the source within its session.
        t_ns: capture instant.
        y: (height, width) uint8 luma, limited range as decoded.
        u, v: (ceil(height / 2), ceil(width / 2)) uint8 chroma, or None for a grey picture.
        sequence: number of the frame within its source, from 0, without gaps.
        full_range: True if luma uses 0..255 instead of 16..235.
    """

    source: str
    t_ns: int
    y: UInt8Array
    u: UInt8Array | None = None
    v: UInt8Array | None = None
    sequence: int
    full_range: bool = False

    def __post_init__(self) -> None:
        if self.y.dtype != np.uint8 or self.y.ndim != 2:
            raise TypeError(f"y must be (height, width) uint8, not {self.y.shape} {self.y.dtype}")
        for plane in (self.y, self.u, self.v):
            if plane is not None:
                _freeze(plane)

    @property
    def height(self) -> int:
        return int(self.y.shape[0])

    @property
    def width(self) -> int:
        return int(self.y.shape[1])

    def __repr__(self) -> str:
        return (
            f"VideoFrame({self.source!r}, #{self.sequence}, t_ns={self.t_ns}, "
            f"{self.width}x{self.height})"
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioChunk:
    """A contiguous run of mono sound.

    Fields:
        source: name of the source within its session.
        t_ns: capture instant of the first sample.
        samples: (N,) float32 in [-1, 1], N >= 1.
        rate_hz: samples a second.
        sequence: number of the chunk within its source, from 0, without gaps.
    """

    source: str
    t_ns: int
    samples: Float32Array
    rate_hz: int
    sequence: int

    def __post_init__(self) -> None:
        if self.samples.dtype != np.float32 or self.samples.ndim != 1 or not len(self.samples):
            got = f"{self.samples.shape} {self.samples.dtype}"
            raise TypeError(f"samples must be (N,) float32, N >= 1, not {got}")
        if self.rate_hz <= 0:
            raise ValueError(f"rate_hz must be positive, not {self.rate_hz}")
        _freeze(self.samples)

    @property
    def end_ns(self) -> int:
        """Instant just after the last sample."""
        return self.t_ns + len(self.samples) * NS_PER_S // self.rate_hz

    def __repr__(self) -> str:
        return (
            f"AudioChunk({self.source!r}, #{self.sequence}, t_ns={self.t_ns}, "
            f"{len(self.samples)} @ {self.rate_hz} Hz)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatLine:
    """One line of chat.

    Fields:
        source: name of the source within its session.
        t_ns: instant of sending.
        author: who wrote it, as the source names them.
        text: the line as written, at most 2,000 characters (sources cut longer ones).
        sequence: number of the line within its source, from 0, without gaps.
    """

    source: str
    t_ns: int
    author: str
    text: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A watermark: nothing of this modality earlier than ``t_ns`` will follow."""

    source: str
    modality: Modality
    t_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEnded:
    """The last item of a source. ``error`` says why it broke off; None is the regular end."""

    source: str
    modality: Modality
    t_ns: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockUpdate:
    """How a source's items are mapped to the session timeline from here on.

    A source whose clock is never spoken of is a recording with exact timestamps.

    Fields:
        source, modality: whose clock.
        t_ns: session time of the first item that it holds for.
        tier: how time is mapped.
        error_ns: bound on the error of ``t_ns`` of items, as far as it can be observed.
        epoch: number of breaks so far (a step of the clock, a reconnection), from 0. Within an
            epoch mapped time never goes back. One more than before says that items may now lie
            before those that came earlier; after `SourceEnded` it says that the source is back.
    """

    source: str
    modality: Modality
    t_ns: int
    tier: Tier
    error_ns: int
    epoch: int = 0


Sample: TypeAlias = VideoFrame | AudioChunk | ChatLine
Item: TypeAlias = Sample | Bound | ClockUpdate | SourceEnded


def modality_of(item: Item) -> Modality:
    """The modality an item belongs to."""
    match item:
        case VideoFrame():
            return Modality.VIDEO
        case AudioChunk():
            return Modality.AUDIO
        case ChatLine():
            return Modality.CHAT
        case Bound() | ClockUpdate() | SourceEnded():
            return item.modality


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of a source gives.

    Fields:
        items: pairs (release instant, item) in release order: when a live source of the same
            kind would have handed the item over. Never before the item's own time.
        next_wake_ns: when to step again, or None when the source has nothing more to give.
    """

    items: tuple[tuple[int, Item], ...]
    next_wake_ns: int | None


class Source(Protocol):
    """A stream of items, stepped by its owner. Blocking: run it in a lane, never on the loop."""

    @property
    def modalities(self) -> frozenset[Modality]:
        """What this source will give; fixed once opened."""
        ...

    def step(self, now_ns: int) -> Step:
        """Everything released up to ``now_ns``.

        Raises:
            SourceError: the source failed for good and says why.
        """
        ...

    def close(self) -> None:
        """Give back what the source holds. May be called twice."""
        ...


@dataclass(slots=True)
class DropCounter:
    """Items lost on purpose, by reason."""

    by_reason: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, count: int = 1) -> None:
        self.by_reason[reason] = self.by_reason.get(reason, 0) + count

    @property
    def total(self) -> int:
        return sum(self.by_reason.values())
