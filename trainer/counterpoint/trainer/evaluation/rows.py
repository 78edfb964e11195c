"""A row of an index as the sources of a session: the span that is meant, from time 0 on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from counterpoint.engine.sources import OpenSources
from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.merge import MergedSource
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    Bound,
    ChatLine,
    DropCounter,
    Item,
    Modality,
    Source,
    SourceEnded,
    Step,
    VideoFrame,
    modality_of,
)
from counterpoint.trainer.data.index import DatasetError, Example

PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
MAX_TEXT_CHARACTERS: Final = 2_000
"""As the sources of chat cut a line."""


def open_row(example: Example, *, hop_ns: int) -> OpenSources:
    """The row's media and text as one session.

    Text is chat that stood there from the first instant on, one line of text a line of chat; lines
    said before it were sent before that instant, so that no window holds them. Media
    are cut to ``start_ns``..``end_ns``. A picture is shown for as long as the rest lasts. What is
    shorter than a hop (a picture or a text alone) lasts one hop, so that there is a window.

    Raises:
        DatasetError: naming the row: a file that cannot be opened, or lacks what is asked of it.
    """
    media: list[MediaFileSource] = []
    parts: list[_Span | _Still | _Lines] = []
    names: dict[Modality, str] = {}
    try:
        _open_media(example, media)
        length_ns = _length_ns(example, media)
        for source in media:
            if is_picture(source.path):
                parts.append(_Still(source, hop_ns, max(hop_ns, length_ns or 0)))
            else:
                parts.append(_Span(source, example.start_ns, example.end_ns, hop_ns))
            names.update(dict.fromkeys(source.modalities, source.name))
    except (SourceError, UsageError) as error:
        for opened in media:
            opened.close()
        raise DatasetError(f"row {example.row} ({example.id}): {error}") from error
    if example.text is not None:
        parts.append(_Lines(example, max(hop_ns, length_ns or 0)))
        names[Modality.CHAT] = parts[-1].name
    return OpenSources(
        source=MergedSource(parts), names=names, duration_ns=length_ns, parts=tuple(parts)
    )


def is_picture(path: Path) -> bool:
    """Whether the file is a single picture, by its name."""
    return path.suffix.lower() in PICTURES


def _open_media(example: Example, opened: list[MediaFileSource]) -> None:
    """Append to ``opened`` as they are opened, so that a failure leaves none of them behind."""
    if example.video is not None and example.video == example.audio:
        both = frozenset({Modality.VIDEO, Modality.AUDIO})
        opened.append(MediaFileSource(example.video, require=both))
        return
    if example.video is not None:
        opened.append(MediaFileSource(example.video, audio=False))
    if example.audio is not None:
        opened.append(MediaFileSource(example.audio, video=False))


def _length_ns(example: Example, media: list[MediaFileSource]) -> int | None:
    """How long the span is, as the files declare it; None where they do not."""
    declared = [
        source.duration_ns
        for source in media
        if source.duration_ns is not None and not is_picture(source.path)
    ]
    end_ns = max(declared, default=None)
    if example.end_ns is not None:
        end_ns = example.end_ns if end_ns is None else min(end_ns, example.end_ns)
    return None if end_ns is None else max(0, end_ns - example.start_ns)


class _Span:
    """The items of a source in [start, end), shifted to begin at 0. Implements `Source`.

    A run of sound across an edge is cut there. A modality that ends earlier than ``least_ns`` is
    said to end then.
    """

    def __init__(
        self, source: MediaFileSource, start_ns: int, end_ns: int | None, least_ns: int
    ) -> None:
        self.name = source.name
        self._source = source
        self._start_ns = start_ns
        self._end_ns = end_ns
        self._least_ns = least_ns
        self._open = set(source.modalities)
        self._counts: dict[Modality, int] = {}

    @property
    def modalities(self) -> frozenset[Modality]:
        return self._source.modalities

    @property
    def drops(self) -> DropCounter:
        return self._source.drops

    def step(self, now_ns: int) -> Step:
        """See `Source.step`."""
        step = self._source.step(now_ns + self._start_ns)
        items: list[tuple[int, Item]] = []
        for release_ns, item in step.items:
            items += [
                (max(0, release_ns - self._start_ns, shifted.t_ns), shifted)
                for shifted in self._placed(item)
            ]
        wake_ns = None if step.next_wake_ns is None else max(0, step.next_wake_ns - self._start_ns)
        return Step(items=tuple(items), next_wake_ns=wake_ns if self._open else None)

    def close(self) -> None:
        """See `Source.close`."""
        self._source.close()

    def _placed(self, item: Item) -> list[Item]:
        modality = modality_of(item)
        if modality not in self._open:
            return []
        if isinstance(item, SourceEnded):
            return [self._ended(item.source, modality, item.t_ns, item.error)]
        if self._end_ns is not None and item.t_ns >= self._end_ns:
            return [self._ended(item.source, modality, self._end_ns, None)]
        cut = self._cut(item) if isinstance(item, AudioChunk) else item
        if cut is None or cut.t_ns < self._start_ns:
            return []
        return [self._shifted(cut, modality)]

    def _shifted(self, item: Item, modality: Modality) -> Item:
        t_ns = item.t_ns - self._start_ns
        if not isinstance(item, VideoFrame | AudioChunk):
            return replace(item, t_ns=t_ns)
        sequence = self._counts.get(modality, 0)
        self._counts[modality] = sequence + 1
        return replace(item, t_ns=t_ns, sequence=sequence)

    def _cut(self, chunk: AudioChunk) -> AudioChunk | None:
        """The part of a run of sound within the span; None where there is none."""

        def samples(until_ns: int) -> int:
            return -(-until_ns * chunk.rate_hz // NS_PER_S)

        first = max(0, samples(self._start_ns - chunk.t_ns))
        last = len(chunk.samples)
        if self._end_ns is not None:
            last = min(last, samples(self._end_ns - chunk.t_ns))
        if first >= last:
            return None
        t_ns = chunk.t_ns + first * NS_PER_S // chunk.rate_hz
        # Rounding must not put the first sample before the span.
        t_ns = max(t_ns, self._start_ns) if first else t_ns
        return replace(chunk, t_ns=t_ns, samples=chunk.samples[first:last])

    def _ended(self, source: str, modality: Modality, t_ns: int, error: str | None) -> Item:
        self._open.discard(modality)
        at_ns = max(t_ns - self._start_ns, self._least_ns)
        return SourceEnded(source=source, modality=modality, t_ns=at_ns, error=error)


class _Still:
    """One picture, at every hop until ``end_ns``. Implements `Source`."""

    modalities = frozenset({Modality.VIDEO})

    def __init__(self, source: MediaFileSource, hop_ns: int, end_ns: int) -> None:
        self.name = source.name
        self._source = source
        self._hop_ns = hop_ns
        self._end_ns = end_ns
        self._frame: VideoFrame | None = None
        self._next_ns: int | None = 0

    @property
    def drops(self) -> DropCounter:
        return self._source.drops

    def step(self, now_ns: int) -> Step:
        """See `Source.step`."""
        if self._frame is None:
            items = [item for _, item in self._source.step(0).items]
            self._frame = next((item for item in items if isinstance(item, VideoFrame)), None)
        given: list[tuple[int, Item]] = []
        while self._next_ns is not None and self._next_ns <= now_ns:
            given.append((self._next_ns, self._at(self._next_ns)))
            self._next_ns = self._following(self._next_ns)
        return Step(items=tuple(given), next_wake_ns=self._next_ns)

    def close(self) -> None:
        """See `Source.close`."""
        self._next_ns = None
        self._source.close()

    def _at(self, t_ns: int) -> Item:
        if self._frame is None or t_ns >= self._end_ns:
            error = None if self._frame is not None else "the picture cannot be decoded"
            return SourceEnded(source=self.name, modality=Modality.VIDEO, t_ns=t_ns, error=error)
        return replace(self._frame, t_ns=t_ns, sequence=t_ns // self._hop_ns)

    def _following(self, t_ns: int) -> int | None:
        if self._frame is None or t_ns >= self._end_ns:
            return None
        return min(t_ns + self._hop_ns, self._end_ns)


class _Lines:
    """Lines of text that are there at once, then silence until ``end_ns``. Implements `Source`."""

    name = "text"
    modalities = frozenset({Modality.CHAT})

    def __init__(self, example: Example, end_ns: int) -> None:
        self.drops = DropCounter()
        text = example.text or ""
        lines = [line for line in text.splitlines() if line.strip()] or [text]
        first = len(example.before)
        self._items: list[Item] = [
            ChatLine(
                source=self.name,
                t_ns=min(0, (sequence - first) * NS_PER_S),
                author=example.speaker or "",
                text=line[:MAX_TEXT_CHARACTERS],
                sequence=sequence,
            )
            for sequence, line in enumerate((*example.before, *lines))
        ]
        self._items += [
            Bound(source=self.name, modality=Modality.CHAT, t_ns=end_ns),
            SourceEnded(source=self.name, modality=Modality.CHAT, t_ns=end_ns),
        ]

    def step(self, now_ns: int) -> Step:
        """See `Source.step`."""
        due = [item for item in self._items if item.t_ns <= now_ns]
        self._items = self._items[len(due) :]
        return Step(
            items=tuple((max(0, item.t_ns), item) for item in due),
            next_wake_ns=self._items[0].t_ns if self._items else None,
        )

    def close(self) -> None:
        """See `Source.close`."""
        self._items = []


def _is_source(source: _Span | _Still | _Lines) -> Source:
    """Held to the protocol by the type checker."""
    return source
