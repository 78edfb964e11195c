"""A row is what lies within its span, from time 0 on."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.types import (
    AudioChunk,
    ChatLine,
    Item,
    Modality,
    Source,
    SourceEnded,
    VideoFrame,
)
from counterpoint.trainer.data.index import DatasetError, Example
from counterpoint.trainer.evaluation.rows import MAX_TEXT_CHARACTERS, open_row
from tests.support.sessions import GRID_CLIP

pytestmark = pytest.mark.trainer

HOP_NS = 250_000_000
S = 1_000_000_000


def example(
    *,
    video: Path | None = None,
    audio: Path | None = None,
    text: str | None = None,
    before: tuple[str, ...] = (),
    start_ns: int = 0,
    end_ns: int | None = None,
) -> Example:
    return Example(
        row=7,
        id="clip",
        video=video,
        audio=audio,
        text=text,
        before=before,
        start_ns=start_ns,
        end_ns=end_ns,
        speaker="ann",
        split=None,
        labels={},
    )


def drain(source: Source) -> list[Item]:
    items: list[Item] = []
    reached, at = -1, 0
    while True:
        step = source.step(at)
        for release_ns, item in step.items:
            assert release_ns >= max(0, item.t_ns) or isinstance(item, SourceEnded)
            assert release_ns >= reached
            reached = release_ns
            items.append(item)
        if step.next_wake_ns is None:
            source.close()
            return items
        at = max(at, step.next_wake_ns)


def sound(items: list[Item]) -> np.ndarray:
    chunks = [item for item in items if isinstance(item, AudioChunk)]
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    return np.concatenate([chunk.samples for chunk in chunks])


def test_a_span_gives_just_the_samples_and_pictures_within_it() -> None:
    whole = drain(MediaFileSource(GRID_CLIP))
    row = example(video=GRID_CLIP, audio=GRID_CLIP, start_ns=S // 2, end_ns=3 * S // 2)
    sources = open_row(row, hop_ns=HOP_NS)
    part = drain(sources.recording)
    assert set(sources.names) == {Modality.VIDEO, Modality.AUDIO}
    assert sources.duration_ns == S

    frames = [item for item in part if isinstance(item, VideoFrame)]
    expected = [
        item for item in whole if isinstance(item, VideoFrame) and S // 2 <= item.t_ns < 3 * S // 2
    ]
    assert [frame.t_ns + S // 2 for frame in frames] == [frame.t_ns for frame in expected]
    assert all(np.array_equal(a.y, b.y) for a, b in zip(frames, expected, strict=True))
    assert [frame.sequence for frame in frames] == list(range(len(frames)))

    first = next(item for item in whole if isinstance(item, AudioChunk))
    rate = first.rate_hz
    offset = round((S // 2 - first.t_ns) * rate / S)
    assert np.array_equal(sound(part), sound(whole)[offset : offset + rate])

    ends = {item.modality: item.t_ns for item in part if isinstance(item, SourceEnded)}
    assert ends == {Modality.VIDEO: S, Modality.AUDIO: S}


def test_spans_side_by_side_hold_every_sample_once() -> None:
    whole = sound(drain(MediaFileSource(GRID_CLIP, video=False)))
    edges = [0, 333_333_333, 1_000_000_001, 1_777_777_777, None]
    parts = [
        sound(
            drain(
                open_row(
                    example(audio=GRID_CLIP, start_ns=start or 0, end_ns=end), hop_ns=HOP_NS
                ).recording
            )
        )
        for start, end in itertools.pairwise(edges)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_text_is_there_from_the_first_instant_and_lasts_a_hop() -> None:
    items = drain(open_row(example(text="good\n\nvery " + "x" * 3_000), hop_ns=HOP_NS).recording)
    lines = [item for item in items if isinstance(item, ChatLine)]
    assert [line.text for line in lines] == ["good", ("very " + "x" * 3_000)[:MAX_TEXT_CHARACTERS]]
    assert {line.t_ns for line in lines} == {0}
    assert {line.author for line in lines} == {"ann"}
    assert isinstance(items[-1], SourceEnded)
    assert items[-1].t_ns == HOP_NS


def test_lines_before_the_text_were_said_before_the_session() -> None:
    row = example(text="good\nvery", before=("so", "well"))
    items = drain(open_row(row, hop_ns=HOP_NS).recording)
    lines = [item for item in items if isinstance(item, ChatLine)]
    assert [(line.t_ns, line.sequence, line.text) for line in lines] == [
        (-2 * S, 0, "so"), (-S, 1, "well"), (0, 2, "good"), (0, 3, "very"),
    ]  # fmt: skip


def test_text_beside_media_lasts_as_long_as_they_do() -> None:
    row = example(audio=GRID_CLIP, text="good", end_ns=2 * S)
    items = drain(open_row(row, hop_ns=HOP_NS).recording)
    assert {item.t_ns for item in items if isinstance(item, SourceEnded)} == {2 * S}


def test_a_single_picture_lasts_a_hop() -> None:
    picture = GRID_CLIP.with_name("grid_face.png")
    items = drain(open_row(example(video=picture), hop_ns=HOP_NS).recording)
    assert [type(item) for item in items] == [VideoFrame, SourceEnded]
    assert items[-1].t_ns == HOP_NS


def test_a_picture_is_shown_for_as_long_as_the_sound_lasts() -> None:
    picture = GRID_CLIP.with_name("grid_face.png")
    row = example(video=picture, audio=GRID_CLIP, end_ns=S + 100_000_000)
    items = drain(open_row(row, hop_ns=HOP_NS).recording)
    frames = [item for item in items if isinstance(item, VideoFrame)]
    assert [frame.t_ns for frame in frames] == [0, HOP_NS, 2 * HOP_NS, 3 * HOP_NS, S]
    assert [frame.sequence for frame in frames] == [0, 1, 2, 3, 4]
    assert len({frame.y.tobytes() for frame in frames}) == 1
    assert {item.t_ns for item in items if isinstance(item, SourceEnded)} == {S + 100_000_000}


def test_what_cannot_be_opened_names_its_row(tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"not sound")
    with pytest.raises(DatasetError, match=r"row 7 \(clip\): .*broken\.wav"):
        open_row(example(video=GRID_CLIP, audio=broken), hop_ns=HOP_NS)
    with pytest.raises(DatasetError, match=r"row 7 .*no audio"):
        open_row(example(audio=GRID_CLIP.with_name("grid_face.png")), hop_ns=HOP_NS)
