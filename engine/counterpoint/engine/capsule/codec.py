"""Items, batches and features as records, and back. Both directions side by side.

Without media an item keeps its instants and sizes and loses its content: pictures become 1 x 1,
sound silence, lines empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from counterpoint.engine.align import AudioCell, Line, VideoCell
from counterpoint.engine.capsule.format import Kind, Record, pack
from counterpoint.engine.fuse import Feature
from counterpoint.engine.work import Batch, Cell
from counterpoint.streams.errors import SourceError
from counterpoint.streams.ffv1 import PictureDecoder, PictureEncoder, PictureFormat
from counterpoint.streams.types import (
    AudioChunk,
    Bound,
    ChatLine,
    ClockUpdate,
    Item,
    Modality,
    SourceEnded,
    Tier,
    UInt8Array,
    VideoFrame,
)

CellKey: TypeAlias = tuple[str, int, int] | tuple[str, int, int, int]
"""(kind, index, revision) of a cell; ("line", sequence, instant) of a line of chat, and its
revision where that is not 0."""
WindowKey: TypeAlias = tuple[int, int]
"""(index, revision)."""

_FLOAT: Final = "<f4"


class ItemEncoder:
    """Items to records; keeps one picture codec a source."""

    def __init__(self, *, media: bool) -> None:
        self._media = media
        self._pictures: dict[str, PictureEncoder] = {}

    def encode(self, at_ns: int, item: Item) -> Iterator[bytes]:
        """The records of one arrival: before a picture, maybe that of a new format."""
        fields: dict[str, Any] = {"at_ns": at_ns, "source": item.source, "t_ns": item.t_ns}
        raw = b""
        match item:
            case VideoFrame():
                fields |= {
                    "item": "frame",
                    "sequence": item.sequence,
                    "full_range": item.full_range,
                    "size": [item.width, item.height],
                }
                if self._media:
                    yield from self._new_format(item)
                    raw = self._pictures[item.source].encode(_planes(item))
            case AudioChunk():
                fields |= {
                    "item": "chunk",
                    "sequence": item.sequence,
                    "rate_hz": item.rate_hz,
                    "samples": len(item.samples),
                }
                if self._media:
                    raw = item.samples.astype(_FLOAT).tobytes()
            case ChatLine():
                fields |= {"item": "line", "sequence": item.sequence}
                if self._media:
                    fields |= {"author": item.author, "text": item.text}
            case Bound():
                fields |= {"item": "bound", "modality": item.modality.value}
            case ClockUpdate():
                fields |= {
                    "item": "clock",
                    "modality": item.modality.value,
                    "tier": item.tier.value,
                    "error_ns": item.error_ns,
                    "epoch": item.epoch,
                }
            case SourceEnded():
                fields |= {"item": "ended", "modality": item.modality.value, "error": item.error}
        yield pack(Kind.ARRIVAL, fields, raw)

    def _new_format(self, frame: VideoFrame) -> Iterator[bytes]:
        form = PictureFormat(width=frame.width, height=frame.height, grey=frame.u is None)
        encoder = self._pictures.get(frame.source)
        if encoder is not None and encoder.format == form:
            return
        encoder = self._pictures[frame.source] = PictureEncoder(form)
        fields = {
            "source": frame.source,
            "codec": encoder.codec,
            "width": form.width,
            "height": form.height,
            "pixels": form.pixel_format,
        }
        yield pack(Kind.PICTURES, fields, encoder.extradata)


def _planes(frame: VideoFrame) -> tuple[UInt8Array, ...]:
    if frame.u is None or frame.v is None:
        return (frame.y,)
    return frame.y, frame.u, frame.v


class ItemDecoder:
    """Records of the kinds PICTURES and ARRIVAL to items, in the order of the file."""

    def __init__(self, *, media: bool) -> None:
        self._media = media
        self._pictures: dict[str, PictureDecoder] = {}

    def decode(self, record: Record) -> tuple[int, Item] | None:
        """The arrival and the item; None for what only prepares for the next.

        Raises:
            SourceError: the record is not what its kind says.
        """
        fields = record.fields
        try:
            if record.kind == Kind.PICTURES:
                form = PictureFormat(
                    width=fields["width"],
                    height=fields["height"],
                    grey=fields["pixels"] == "gray",
                )
                self._pictures[fields["source"]] = PictureDecoder(form, fields["codec"], record.raw)
                return None
            return int(fields["at_ns"]), self._item(fields, record.raw)
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"the record at byte {record.offset}: {error!r}") from error

    def _item(self, fields: Mapping[str, Any], raw: bytes) -> Item:
        source, t_ns = str(fields["source"]), int(fields["t_ns"])
        match fields["item"]:
            case "frame":
                planes = self._planes(source, raw)
                return VideoFrame(
                    source=source,
                    t_ns=t_ns,
                    y=planes[0],
                    u=planes[1] if len(planes) == 3 else None,
                    v=planes[2] if len(planes) == 3 else None,
                    sequence=fields["sequence"],
                    full_range=fields["full_range"],
                )
            case "chunk":
                samples = np.zeros(fields["samples"], np.float32)
                if self._media:
                    samples[:] = np.frombuffer(raw, _FLOAT)
                return AudioChunk(
                    source=source,
                    t_ns=t_ns,
                    samples=samples,
                    rate_hz=fields["rate_hz"],
                    sequence=fields["sequence"],
                )
            case "line":
                return ChatLine(
                    source=source,
                    t_ns=t_ns,
                    author=fields.get("author", ""),
                    text=fields.get("text", ""),
                    sequence=fields["sequence"],
                )
            case "bound":
                return Bound(source=source, modality=Modality(fields["modality"]), t_ns=t_ns)
            case "clock":
                return ClockUpdate(
                    source=source,
                    modality=Modality(fields["modality"]),
                    t_ns=t_ns,
                    tier=Tier(fields["tier"]),
                    error_ns=fields["error_ns"],
                    epoch=fields["epoch"],
                )
            case "ended":
                return SourceEnded(
                    source=source,
                    modality=Modality(fields["modality"]),
                    t_ns=t_ns,
                    error=fields["error"],
                )
            case other:
                raise ValueError(f"unknown item {other!r}")

    def _planes(self, source: str, raw: bytes) -> tuple[UInt8Array, ...]:
        if not self._media:
            return (np.zeros((1, 1), np.uint8),)
        return self._pictures[source].decode(raw)


# -- batches -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBatch:
    """What the models were given.

    Fields:
        cells: in order.
        window: the window that was fused, if one was.
        emitted_ns: session instant at which the aligner gave that window.
        skipped, lost: as in `Batch`.
    """

    cells: tuple[CellKey, ...]
    window: WindowKey | None
    emitted_ns: int | None
    skipped: int
    lost: Mapping[str, int]


def cell_key(cell: Cell) -> CellKey:
    match cell:
        case VideoCell():
            return ("video", cell.index, cell.revision)
        case AudioCell():
            return ("audio", cell.index, cell.revision)
        case Line():
            return _cell_key("line", cell.line.sequence, cell.line.t_ns, cell.revision)


def encode_batch(batch: Batch, lost: Mapping[str, int]) -> bytes:
    due = batch.due
    fields = {
        "cells": [list(cell_key(cell)) for cell in batch.cells],
        "window": None if due is None else [due.window.index, due.window.revision],
        "emitted_ns": None if due is None else due.window.emitted_ns,
        "skipped": batch.skipped,
        "lost": dict(lost),
    }
    return pack(Kind.BATCH, fields)


def decode_batch(record: Record) -> RecordedBatch:
    """
    Raises:
        SourceError: the record is no batch.
    """
    fields = record.fields
    try:
        window = fields["window"]
        return RecordedBatch(
            cells=tuple(_cell_key(*key) for key in fields["cells"]),
            window=None if window is None else (int(window[0]), int(window[1])),
            emitted_ns=fields["emitted_ns"],
            skipped=int(fields["skipped"]),
            lost={str(reason): int(count) for reason, count in fields["lost"].items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"the record at byte {record.offset}: {error!r}") from error


def _cell_key(kind: str, number: int, second: int, revision: int = 0) -> CellKey:
    key = (str(kind), int(number), int(second))
    return (*key, int(revision)) if revision else key


# -- features ----------------------------------------------------------------------------------


def encode_features(features: Sequence[Feature]) -> bytes:
    """All that was encoded of one batch: shapes in the JSON, embeddings behind it."""
    entries = []
    raw = []
    for feature in features:
        embedding, steps = feature.embedding, feature.steps
        entries.append(
            {
                "modality": feature.modality.value,
                "key": feature.key,
                "shape": None if embedding is None else list(embedding.shape),
                "steps": None if steps is None else [int(step) for step in steps],
                "voiced": feature.voiced,
            }
        )
        if embedding is not None:
            raw.append(embedding.astype(_FLOAT).tobytes())
    return pack(Kind.FEATURES, {"features": entries}, b"".join(raw))


def decode_features(record: Record) -> list[Feature]:
    """
    Raises:
        SourceError: the record holds no features.
    """
    features = []
    offset = 0
    try:
        for entry in record.fields["features"]:
            embedding = None
            if entry["shape"] is not None:
                count = int(np.prod(entry["shape"]))
                values = np.frombuffer(record.raw, _FLOAT, count=count, offset=offset)
                embedding = values.astype(np.float32).reshape(entry["shape"])
                offset += 4 * count
            steps = entry["steps"]
            features.append(
                Feature(
                    modality=Modality(entry["modality"]),
                    key=entry["key"],
                    embedding=embedding,
                    steps=None if steps is None else np.array(steps, np.bool_),
                    voiced=entry["voiced"],
                )
            )
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"the record at byte {record.offset}: {error!r}") from error
    return features
