"""`ChatFileSource`: good lines in order, bad lines counted and skipped."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams import chat_file
from counterpoint.streams.chat_file import CORRUPT, CUT, HEARTBEAT_NS, ChatFileSource
from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.types import NS_PER_S, Bound, ChatLine, Item, Modality, SourceEnded

GRID_CHAT = Path(__file__).parents[1] / "data" / "grid_clip.chat.jsonl"


def drain(source: ChatFileSource) -> list[tuple[int, Item]]:
    items: list[tuple[int, Item]] = []
    now_ns: int | None = 0
    while now_ns is not None:
        step = source.step(now_ns)
        items += step.items
        now_ns = step.next_wake_ns
    return items


def lines(source: ChatFileSource) -> list[ChatLine]:
    return [item for _, item in drain(source) if isinstance(item, ChatLine)]


def write(path: Path, *rows: object) -> Path:
    path.write_bytes(
        b"".join(
            (row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows
        )
    )
    return path


def row(seconds: object = 1.0, author: object = "ann", text: object = "hello") -> dict[str, object]:
    return {"seconds": seconds, "author": author, "text": text}


def test_lines_come_at_their_instants() -> None:
    source = ChatFileSource(GRID_CHAT)
    assert source.modalities == {Modality.CHAT}
    got = [(t, item) for t, item in drain(source) if isinstance(item, ChatLine)]
    assert [t for t, _ in got] == [400_000_000, 1_250_000_000, 2_600_000_000]
    assert all(t == item.t_ns for t, item in got)
    assert [item.sequence for _, item in got] == [0, 1, 2]
    assert got[1][1].author == "ben"
    assert {item.source for _, item in got} == {"grid_clip.chat.jsonl"}


def test_unsorted_lines_are_sorted_and_equal_instants_keep_the_order_of_the_file(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "c", row(2, text="d"), row(1, text="b"), row(1, text="c"), row(0.5, text="a")
    )
    assert [line.text for line in lines(ChatFileSource(path))] == ["a", "b", "c", "d"]


def test_heartbeats_say_that_it_is_up_to_date_until_its_end() -> None:
    items = drain(ChatFileSource(GRID_CHAT, until_ns=3 * NS_PER_S))
    bounds = [item.t_ns for _, item in items if isinstance(item, Bound)]
    assert bounds == [k * HEARTBEAT_NS for k in range(1, 13)]
    releases = [t for t, _ in items]
    assert releases == sorted(releases)
    # What a bound promises: nothing earlier follows.
    up_to_ns = 0
    for _, item in items:
        if isinstance(item, Bound):
            up_to_ns = item.t_ns
        assert item.t_ns >= up_to_ns
    assert items[-1][1] == SourceEnded(
        source="grid_clip.chat.jsonl", modality=Modality.CHAT, t_ns=3 * NS_PER_S
    )


def test_without_a_known_length_it_ends_with_its_last_line() -> None:
    assert drain(ChatFileSource(GRID_CHAT))[-1][0] == 2_600_000_000


def test_an_empty_file_is_a_silent_chat(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"\n  \n")
    source = ChatFileSource(tmp_path / "c", until_ns=NS_PER_S)
    assert lines(source) == []
    assert source.drops.total == 0


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"not json",
        b"\xff\xfe broken utf-8",
        b'{"seconds": 1, "author": "a", "text": "\xff"}',
        b"[1, 2]",
        b"null",
        b"[" * 60_000,
        row(seconds="1"),
        row(seconds=True),
        row(seconds=None),
        row(seconds=-0.001),
        row(seconds=float("nan")),
        row(seconds=float("inf")),
        row(seconds=1e300),
        b'{"seconds": 1' + b"0" * 5_000 + b', "author": "a", "text": "b"}',
        row(author=7),
        row(text=["x"]),
        {"seconds": 1, "text": "nobody wrote it"},
        b'{"seconds": 1, "author": "a", "text": "' + b"x" * 70_000 + b'"}',
    ],
)
def test_a_corrupt_line_is_skipped_counted_and_named(
    tmp_path: Path, bad: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "c.jsonl", row(text="before"), bad, row(2, text="after"))
    with caplog.at_level(logging.WARNING):
        source = ChatFileSource(path)
    assert [line.text for line in lines(source)] == ["before", "after"]
    assert source.drops.by_reason == {CORRUPT: 1}
    [record] = caplog.records
    assert "c.jsonl line 2: skipped" in record.getMessage()
    assert len(record.getMessage()) < 400


def test_many_corrupt_lines_do_not_flood_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "c", *[b"x"] * 1_000, row())
    with caplog.at_level(logging.WARNING):
        source = ChatFileSource(path)
    assert source.drops.by_reason == {CORRUPT: 1_000}
    assert len(caplog.records) == 11
    assert "1000 corrupt lines skipped in all" in caplog.records[-1].getMessage()


def test_a_long_text_is_cut_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "c", row(text="é" * 2_001), row(2, text="x" * 2_000))
    source = ChatFileSource(path)
    assert [len(line.text) for line in lines(source)] == [2_000, 2_000]
    assert source.drops.by_reason == {CUT: 1}


def test_a_byte_order_mark_a_missing_last_newline_and_crlf_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "c"
    first, second = (json.dumps(row(text=t)).encode() for t in "ab")
    path.write_bytes(b"\xef\xbb\xbf" + first + b"\r\n" + second)
    assert [line.text for line in lines(ChatFileSource(path))] == ["a", "b"]


def test_a_lone_surrogate_becomes_encodable(tmp_path: Path) -> None:
    path = write(tmp_path / "c", b'{"seconds": 1, "author": "a", "text": "\\ud83d \\ud83d\\ude00"}')
    [line] = lines(ChatFileSource(path))
    assert line.text == "? \N{GRINNING FACE}"


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.jsonl: there is no such file"):
        ChatFileSource(tmp_path / "no.jsonl")


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="this is not a file"):
        ChatFileSource(tmp_path)


def test_a_file_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.touch()
    os.truncate(path, chat_file.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(SourceError, match="50 MB of chat, at most 50 MB"):
        ChatFileSource(path)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_no_bytes_make_it_raise(tmp_path_factory: pytest.TempPathFactory, raw: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("chat") / "c"
    path.write_bytes(b"\n".join(raw))
    source = ChatFileSource(path)
    items = drain(source)
    assert isinstance(items[-1][1], SourceEnded)
    assert source.line_count + source.drops.by_reason.get(CORRUPT, 0) <= sum(
        len(part.split(b"\n")) for part in raw
    )
