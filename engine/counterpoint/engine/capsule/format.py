"""The bytes of a capsule: an append-only file of records, each with its length and checksum.

``docs/capsule.md`` describes them byte by byte. Nothing here knows what a record means.
"""

from __future__ import annotations

import enum
import json
import mmap
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from counterpoint.streams.errors import SourceError, UsageError

MAGIC: Final = b"\x93CAPSULE"
VERSION: Final = 1
PREAMBLE: Final = MAGIC + struct.pack("<I", VERSION)
MAX_PAYLOAD_BYTES: Final = 1 << 28

_HEAD: Final = struct.Struct("<IBI")  # length of the payload, kind, CRC-32
_JSON_LENGTH: Final = struct.Struct("<I")


class Kind(enum.IntEnum):
    """What a record holds. Numbers are never given a new meaning; readers skip unknown ones."""

    HEADER = 1
    PICTURES = 2
    ARRIVAL = 3
    BATCH = 4
    FEATURES = 5
    PREDICTION = 6
    FINISH = 7
    STOPPED = 8
    END = 9


_HIGHEST_KIND: Final = 63
"""For finding the next record behind a damaged one: room for kinds to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record.

    Fields:
        offset: where it begins in the file.
        kind: see `Kind`; a kind that this release does not know is a plain number.
        fields: its JSON object.
        raw: the bytes behind it.
    """

    offset: int
    kind: int
    fields: dict[str, Any]
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far a file can be read.

    Fields:
        end: offset just behind the last complete record.
        records: how many there are.
        cut: why there is more in the file than that; None where nothing is.
    """

    end: int
    records: int
    cut: str | None


def pack(kind: Kind, fields: dict[str, Any], raw: bytes = b"") -> bytes:
    """One record. JSON is canonical: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: a number is not finite, or the record is larger than 256 MiB.
    """
    document = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    payload = _JSON_LENGTH.pack(len(document)) + document + raw
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a record of {len(payload)} bytes; {MAX_PAYLOAD_BYTES} is the most")
    return _HEAD.pack(len(payload), kind, _checksum(kind, payload)) + payload


def _checksum(kind: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<IB", len(payload), kind)))


def is_capsule(path: Path) -> bool:
    """Whether the file begins as a capsule does; False when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def check(path: Path) -> Extent:
    """Read every checksum.

    Raises:
        UsageError: there is no such file, or it is no capsule of a version that is read here.
        SourceError: it cannot be read, or is damaged before its last record.
    """
    try:
        with path.open("rb") as file:
            _check_preamble(path, file.read(len(PREAMBLE)))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _extent(path, data)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file; check the path") from error
    except OSError as error:
        raise SourceError(f"{path}: not readable ({error.strerror})") from error


def _check_preamble(path: Path, preamble: bytes) -> None:
    if preamble[: len(MAGIC)] != MAGIC:
        raise UsageError(f"{path}: this is not a capsule; counterpoint record makes one")
    if len(preamble) < len(PREAMBLE):
        raise SourceError(f"{path}: the capsule ends within its first {len(PREAMBLE)} bytes")
    (version,) = struct.unpack("<I", preamble[len(MAGIC) :])
    if version != VERSION:
        raise UsageError(
            f"{path}: a capsule of version {version}, this release reads version {VERSION}"
        )


def _extent(path: Path, data: mmap.mmap) -> Extent:
    offset, count = len(PREAMBLE), 0
    while offset < len(data):
        end = _end_of_record(data, offset)
        if end is None:
            if (behind := _next_record(data, offset + 1)) is not None:
                raise SourceError(
                    f"{path}: damaged at byte {offset} (the next whole record is at {behind}); "
                    "take another copy"
                )
            return Extent(
                end=offset, records=count, cut=f"the record at byte {offset} is cut or damaged"
            )
        offset, count = end, count + 1
    return Extent(end=offset, records=count, cut=None)


def _end_of_record(data: mmap.mmap, offset: int) -> int | None:
    """Where a record that begins at ``offset`` ends; None if none does."""
    start = offset + _HEAD.size
    if start > len(data):
        return None
    length: int
    length, kind, checksum = _HEAD.unpack_from(data, offset)
    if length > MAX_PAYLOAD_BYTES or start + length > len(data):
        return None
    payload = data[start : start + length]
    if checksum != _checksum(kind, payload) or length < _JSON_LENGTH.size:
        return None
    return start + length


def _next_record(data: mmap.mmap, offset: int) -> int | None:
    """Where the next whole record begins, found by the brace that opens its JSON."""
    lead = _HEAD.size + _JSON_LENGTH.size
    brace = data.find(b"{", offset + lead)
    while brace >= 0:
        start = brace - lead
        length, kind, _ = _HEAD.unpack_from(data, start)
        if 0 < kind <= _HIGHEST_KIND and length <= len(data) - start:
            (json_length,) = _JSON_LENGTH.unpack_from(data, start + _HEAD.size)
            fits = json_length + _JSON_LENGTH.size <= length
            if fits and _end_of_record(data, start) is not None:
                return start
        brace = data.find(b"{", brace + 1)
    return None


def records(path: Path, extent: Extent, kinds: Collection[Kind]) -> Iterator[Record]:
    """The records of these kinds in a file that was checked; the others are skipped unread.

    Raises:
        SourceError: the file has changed since.
    """
    wanted = frozenset(int(kind) for kind in kinds)
    with path.open("rb") as file:
        offset = len(PREAMBLE)
        file.seek(offset)
        while offset < extent.end:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise SourceError(f"{path}: became shorter while it was read")
            length, kind, checksum = _HEAD.unpack(head)
            if kind in wanted:
                payload = file.read(length)
                if len(payload) < length or checksum != _checksum(kind, payload):
                    raise SourceError(f"{path}: changed at byte {offset} while it was read")
                yield _record(path, offset, kind, payload)
            else:
                file.seek(length, 1)
            offset += _HEAD.size + length


def _record(path: Path, offset: int, kind: int, payload: bytes) -> Record:
    (json_length,) = _JSON_LENGTH.unpack_from(payload)
    end = _JSON_LENGTH.size + json_length
    try:
        fields = json.loads(payload[_JSON_LENGTH.size : end])
    except ValueError as error:
        raise SourceError(f"{path}: the record at byte {offset} holds no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise SourceError(f"{path}: the record at byte {offset} holds no JSON object")
    return Record(offset=offset, kind=kind, fields=fields, raw=payload[end:])
