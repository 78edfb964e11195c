"""The bytes of a capsule: round trips, every cut, every flipped bit."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.engine.align import AudioCell, Counters, Line, Tally, VideoCell, Window
from counterpoint.engine.capsule.codec import (
    ItemDecoder,
    ItemEncoder,
    decode_batch,
    decode_features,
    encode_batch,
    encode_features,
)
from counterpoint.engine.capsule.format import (
    PREAMBLE,
    Kind,
    Record,
    check,
    is_capsule,
    pack,
    records,
)
from counterpoint.engine.fuse import Feature
from counterpoint.engine.work import Batch, Due
from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.types import (
    AudioChunk,
    Bound,
    ChatLine,
    ClockUpdate,
    Item,
    Modality,
    SourceEnded,
    Tier,
    VideoFrame,
)

ALL = tuple(Kind)


def read_by_hand(data: bytes) -> list[tuple[int, bytes]]:
    """(end offset, payload) of each whole record, by the words of docs/capsule.md alone."""
    found = []
    offset = 12
    while offset + 9 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "little")
        kind = data[offset + 4]
        crc = int.from_bytes(data[offset + 5 : offset + 9], "little")
        payload = data[offset + 9 : offset + 9 + length]
        if len(payload) < length:
            break
        assert crc == zlib.crc32(data[offset : offset + 5] + payload)
        assert kind in range(1, 10)
        offset += 9 + length
        found.append((offset, payload))
    return found


def small_file() -> bytes:
    return PREAMBLE + b"".join(
        (
            pack(Kind.HEADER, {"session": "s"}),
            pack(Kind.ARRIVAL, {"at_ns": 5, "nested": {"a": [1, 2]}}, b"\x00raw{\xff"),
            pack(Kind.BATCH, {}),
            pack(Kind.END, {"finished": True}),
        )
    )


def test_a_file_reads_back_what_was_packed(tmp_path: Path) -> None:
    path = tmp_path / "a.capsule"
    path.write_bytes(small_file())
    assert is_capsule(path)
    extent = check(path)
    assert (extent.records, extent.cut, extent.end) == (4, None, len(small_file()))
    read = list(records(path, extent, ALL))
    assert [record.kind for record in read] == [1, 3, 4, 9]
    assert read[1].fields == {"at_ns": 5, "nested": {"a": [1, 2]}}
    assert read[1].raw == b"\x00raw{\xff"
    assert [len(payload) for _, payload in read_by_hand(small_file())] == [
        len(record.raw) + 4 + size for record, size in zip(read, (15, 32, 2, 17), strict=True)
    ]


def test_a_file_cut_at_any_byte_gives_exactly_the_records_that_were_whole(tmp_path: Path) -> None:
    whole = small_file()
    path = tmp_path / "cut.capsule"
    for size in range(len(PREAMBLE), len(whole) + 1):
        path.write_bytes(whole[:size])
        expected = read_by_hand(whole[:size])
        extent = check(path)
        assert extent.records == len(expected)
        assert extent.end == (expected[-1][0] if expected else len(PREAMBLE))
        assert (extent.cut is None) == (extent.end == size)
        assert len(list(records(path, extent, ALL))) == len(expected)


def test_a_file_cut_within_its_first_bytes_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "cut.capsule"
    for size in range(len(PREAMBLE)):
        path.write_bytes(PREAMBLE[:size])
        with pytest.raises((UsageError, SourceError), match="capsule"):
            check(path)


def test_every_flipped_bit_is_found_and_its_record_named(tmp_path: Path) -> None:
    whole = small_file()
    ends = [end for end, _ in read_by_hand(whole)]
    path = tmp_path / "flipped.capsule"
    for place in range(len(PREAMBLE), len(whole)):
        start = max([len(PREAMBLE), *(end for end in ends if end <= place)])
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            if start == ends[-2]:  # the last record: what was before it is readable
                extent = check(path)
                assert (extent.end, extent.records) == (start, 3)
                assert extent.cut is not None
            else:
                with pytest.raises(SourceError, match=f"damaged at byte {start} "):
                    check(path)


def test_another_version_and_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(PREAMBLE[:8] + struct.pack("<I", 2))
    with pytest.raises(UsageError, match="version 2, this release reads version 1"):
        check(path)
    path.write_bytes(b"RIFF....WAVE")
    assert not is_capsule(path)
    with pytest.raises(UsageError, match="not a capsule"):
        check(path)
    with pytest.raises(UsageError, match="no such file"):
        check(tmp_path / "absent")


def test_a_record_of_a_kind_to_come_is_skipped(tmp_path: Path) -> None:
    payload = struct.pack("<I", 2) + b"{}"
    head = struct.pack("<IB", len(payload), 40)
    unknown = head + struct.pack("<I", zlib.crc32(head + payload)) + payload
    path = tmp_path / "new.capsule"
    path.write_bytes(small_file() + unknown + pack(Kind.BATCH, {}))
    extent = check(path)
    assert extent.records == 6
    assert [record.kind for record in records(path, extent, ALL)] == [1, 3, 4, 9, 4]


# -- items -------------------------------------------------------------------------------------

instants = st.integers(-(1 << 62), 1 << 62)
counts = st.integers(0, 1 << 40)
sides = st.integers(1, 19)


@st.composite
def frames(draw: st.DrawFn) -> VideoFrame:
    width, height = draw(sides), draw(sides)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    chroma = (-(-height // 2), -(-width // 2))
    grey = draw(st.booleans())
    return VideoFrame(
        source="cam",
        t_ns=draw(instants),
        y=rng.integers(0, 256, (height, width), dtype=np.uint8),
        u=None if grey else rng.integers(0, 256, chroma, dtype=np.uint8),
        v=None if grey else rng.integers(0, 256, chroma, dtype=np.uint8),
        sequence=draw(counts),
        full_range=draw(st.booleans()),
    )


@st.composite
def chunks(draw: st.DrawFn) -> AudioChunk:
    values = draw(st.lists(st.floats(width=32), min_size=1, max_size=40))
    return AudioChunk(
        source="mic",
        t_ns=draw(instants),
        samples=np.array(values, np.float32),
        rate_hz=draw(st.integers(1, 192_000)),
        sequence=draw(counts),
    )


modalities = st.sampled_from(Modality)
items: st.SearchStrategy[Item] = st.one_of(
    frames(),
    chunks(),
    st.builds(
        ChatLine,
        source=st.text(),
        t_ns=instants,
        author=st.text(st.characters(codec=None)),
        text=st.text(st.characters(codec=None)),
        sequence=counts,
    ),
    st.builds(Bound, source=st.text(), modality=modalities, t_ns=instants),
    st.builds(
        ClockUpdate,
        source=st.text(),
        modality=modalities,
        t_ns=instants,
        tier=st.sampled_from(Tier),
        error_ns=counts,
        epoch=st.integers(-1, 9),
    ),
    st.builds(
        SourceEnded,
        source=st.text(),
        modality=modalities,
        t_ns=instants,
        error=st.none() | st.text(),
    ),
)


def parts(item: Item) -> list[object]:
    """All fields, arrays as bytes with their shapes, so that NaN equals itself."""
    values: list[object] = [type(item)]
    for name in type(item).__dataclass_fields__:
        value = getattr(item, name)
        if isinstance(value, np.ndarray):
            values.append((name, value.shape, value.dtype.str, value.tobytes()))
        else:
            values.append((name, value))
    return values


@given(st.lists(st.tuples(instants, items), max_size=6))
def test_items_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[tuple[int, Item]]
) -> None:
    encoder, decoder = ItemEncoder(media=True), ItemDecoder(media=True)
    path = tmp_path_factory.mktemp("items") / "a.capsule"
    encoded = b"".join(b"".join(encoder.encode(at_ns, item)) for at_ns, item in arrivals)
    path.write_bytes(PREAMBLE + encoded)
    read = [decoder.decode(record) for record in records(path, check(path), ALL)]
    back = [pair for pair in read if pair is not None]
    assert [at_ns for at_ns, _ in back] == [at_ns for at_ns, _ in arrivals]
    assert [parts(item) for _, item in back] == [parts(item) for _, item in arrivals]


def only(data: bytes, path: Path) -> Record:
    path.write_bytes(PREAMBLE + data)
    (record,) = records(path, check(path), ALL)
    return record


def test_features_come_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    features = [
        Feature(modality=Modality.VIDEO, key=3, embedding=None),
        Feature(
            modality=Modality.VIDEO, key=4, embedding=rng.standard_normal(7).astype(np.float32)
        ),
        Feature(
            modality=Modality.AUDIO,
            key=4,
            embedding=rng.standard_normal((5, 3)).astype(np.float32),
            steps=np.array([1, 0, 1, 1, 0], np.bool_),
            voiced=True,
        ),
        Feature(modality=Modality.CHAT, key=9, embedding=rng.standard_normal(4).astype(np.float32)),
    ]
    back = decode_features(only(encode_features(features), tmp_path / "f"))
    assert len(back) == len(features)
    for before, after in zip(features, back, strict=True):
        assert (before.modality, before.key, before.voiced) == (
            after.modality,
            after.key,
            after.voiced,
        )
        for one, other in ((before.embedding, after.embedding), (before.steps, after.steps)):
            if one is None:
                assert other is None
            else:
                assert other is not None
                assert (one.shape, one.dtype, one.tobytes()) == (
                    other.shape,
                    other.dtype,
                    other.tobytes(),
                )


def test_a_batch_names_its_cells_and_its_window(tmp_path: Path) -> None:
    nothing = Counters(items={}, audio_samples=Tally(), windows=0)
    window = Window(
        index=4,
        end_ns=1_000,
        video_cells=range(1, 5),
        audio_cells=range(1, 5),
        chat_lines=(),
        parts={},
        emitted_ns=1_234,
        complete=True,
        revision=2,
    )
    line = ChatLine(source="chat", t_ns=77, author="a", text="b", sequence=5)
    zeros = np.zeros(4, np.float32)
    batch = Batch(
        cells=(
            VideoCell(index=4, frame=None, revision=1),
            AudioCell(index=3, samples=zeros, valid=zeros.astype(np.bool_)),
            Line(line=line),
        ),
        due=Due(window=window, counters=nothing, ready_ns=1),
        skipped=3,
    )
    back = decode_batch(only(encode_batch(batch, {"models: overload": 2}), tmp_path / "b"))
    assert back.cells == (("video", 4, 1), ("audio", 3, 0), ("line", 5, 77))
    assert (back.window, back.emitted_ns, back.skipped) == ((4, 2), 1_234, 3)
    assert back.lost == {"models: overload": 2}


def test_pictures_of_a_usual_size_are_ffv1_and_each_stands_for_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for width, height in ((360, 288), (353, 289)):
        pictures = [
            VideoFrame(
                source="cam",
                t_ns=n,
                y=rng.integers(0, 256, (height, width), dtype=np.uint8),
                u=rng.integers(0, 256, (-(-height // 2), -(-width // 2)), dtype=np.uint8),
                v=rng.integers(0, 256, (-(-height // 2), -(-width // 2)), dtype=np.uint8),
                sequence=n,
            )
            for n in range(3)
        ]
        encoder = ItemEncoder(media=True)
        path = tmp_path / f"{width}.capsule"
        path.write_bytes(PREAMBLE + b"".join(b"".join(encoder.encode(0, p)) for p in pictures))
        form, *arrivals = records(path, check(path), ALL)
        assert (form.kind, form.fields["codec"]) == (Kind.PICTURES, "ffv1")
        for arrival, picture in reversed(list(zip(arrivals, pictures, strict=True))):
            decoder = ItemDecoder(media=True)
            assert decoder.decode(form) is None
            decoded = decoder.decode(arrival)
            assert decoded is not None
            assert parts(decoded[1]) == parts(picture)


def test_a_record_that_is_whole_but_makes_no_sense_is_an_error_with_its_place(
    tmp_path: Path,
) -> None:
    decoder = ItemDecoder(media=True)
    for fields in ({}, {"at_ns": 1, "source": "a", "t_ns": 2, "item": "smell"}):
        with pytest.raises(SourceError, match="at byte 12"):
            decoder.decode(only(pack(Kind.ARRIVAL, fields), tmp_path / "odd"))
    frame = {"at_ns": 1, "source": "cam", "t_ns": 2, "item": "frame", "sequence": 0}
    with pytest.raises(SourceError, match="at byte 12"):
        decoder.decode(only(pack(Kind.ARRIVAL, frame, b"?"), tmp_path / "odd"))
