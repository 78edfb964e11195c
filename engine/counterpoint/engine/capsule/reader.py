"""A capsule that was written, complete or not, read record by record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.engine.capsule.codec import (
    ItemDecoder,
    RecordedBatch,
    decode_batch,
    decode_features,
)
from counterpoint.engine.capsule.format import Extent, Kind, Record, check, records
from counterpoint.engine.capsule.header import Header
from counterpoint.engine.fuse import Feature
from counterpoint.streams.errors import SourceError
from counterpoint.streams.types import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Capsule:
    """A capsule of which every checksum was read. The iterators read the file anew each time.

    Fields:
        path: of the file.
        header: see `Header`.
        complete: the recording was closed; else ``reason`` says how far it goes.
        reason: why it is not complete; None when it is.
        end_ns: where the session ended; None if it was stopped before.
        reached_ns: the last instant at which the aligner gave a window that was fused.
        predictions_total: how many there are.
    """

    path: Path
    header: Header
    complete: bool
    reason: str | None
    end_ns: int | None
    reached_ns: int
    predictions_total: int
    _extent: Extent

    def arrivals(self) -> Iterator[tuple[int, Item]]:
        """(effective arrival, item), in order."""
        decoder = ItemDecoder(media=self.header.media)
        for record in self._records(Kind.PICTURES, Kind.ARRIVAL):
            if (decoded := decoder.decode(record)) is not None:
                yield decoded

    def batches(self) -> Iterator[RecordedBatch]:
        """What the models were given, in order."""
        return map(decode_batch, self._records(Kind.BATCH))

    def features(self) -> Iterator[list[Feature]]:
        """What the encoders made of each batch; nothing where the media are kept instead."""
        return map(decode_features, self._records(Kind.FEATURES))

    def predictions(self) -> Iterator[dict[str, Any]]:
        """The published documents, in order."""
        for record in self._records(Kind.PREDICTION):
            try:
                document = json.loads(record.raw)
            except ValueError as error:
                raise SourceError(f"the record at byte {record.offset}: {error}") from error
            yield document

    def _records(self, *kinds: Kind) -> Iterator[Record]:
        return records(self.path, self._extent, kinds)


def open_capsule(path: Path) -> Capsule:
    """Read all of a capsule once, and say how complete it is.

    Raises:
        UsageError: no such file, or no capsule that this release reads.
        SourceError: damaged before its last record, or without its header.
    """
    extent = check(path)
    header: Header | None = None
    end_ns: int | None = None
    reached_ns = predictions = 0
    ended = False
    stopped: str | None = None
    told = (Kind.HEADER, Kind.BATCH, Kind.PREDICTION, Kind.FINISH, Kind.STOPPED, Kind.END)
    for record in records(path, extent, told):
        match record.kind:
            case Kind.HEADER:
                header = Header.read(record.fields)
            case Kind.BATCH:
                reached_ns = max(reached_ns, decode_batch(record).emitted_ns or 0)
            case Kind.PREDICTION:
                predictions += 1
            case Kind.FINISH:
                end_ns = record.fields.get("end_ns")
            case Kind.STOPPED:
                stopped = str(record.fields.get("reason"))
            case Kind.END:
                ended = True
    if header is None:
        raise SourceError(f"{path}: the capsule is cut within its header; nothing can be replayed")
    reason = None
    if not ended or extent.cut is not None:
        reason = extent.cut or (
            f"the recording was stopped: {stopped}"
            if stopped is not None
            else "the recording breaks off without its end"
        )
    return Capsule(
        path=path,
        header=header,
        complete=reason is None,
        reason=reason,
        end_ns=end_ns,
        reached_ns=reached_ns,
        predictions_total=predictions,
        _extent=extent,
    )
