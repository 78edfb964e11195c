"""The demo session that is shipped: whole, in step, small, attributed."""

from __future__ import annotations

import itertools
from importlib.resources import as_file, files

import numpy as np
import pytest

from counterpoint.streams.chat_file import ChatFileSource
from counterpoint.streams.merge import MergedSource
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.types import NS_PER_S, AudioChunk, ChatLine, Item, SourceEnded, VideoFrame

DEMO = files("counterpoint.engine") / "demo"
CLIPS = 9
SECONDS = 3 * CLIPS


@pytest.fixture(scope="module")
def items() -> list[Item]:
    with as_file(DEMO / "session.mp4") as video, as_file(DEMO / "chat.jsonl") as chat:
        media = MediaFileSource(video)
        lines = ChatFileSource(chat, until_ns=media.duration_ns)
        source = MergedSource([media, lines])
        got: list[Item] = []
        now_ns: int | None = 0
        while now_ns is not None:
            step = source.step(now_ns)
            got += [item for _, item in step.items]
            now_ns = step.next_wake_ns
        source.close()
    assert media.decode_errors == lines.drops.total == 0
    return got


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert len((DEMO / "session.mp4").read_bytes()) <= 1_500_000
    attribution = (DEMO / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for words in ("Cooke", "Barker", "Cunningham", "Shao", "2006", "CC BY 4.0", "encoded again"):
        assert words in attribution


def test_its_pictures_come_at_25_a_second_without_a_gap_and_its_sound_too(
    items: list[Item],
) -> None:
    frames = [item for item in items if isinstance(item, VideoFrame)]
    chunks = [item for item in items if isinstance(item, AudioChunk)]
    assert [frame.t_ns for frame in frames] == [i * 40_000_000 for i in range(25 * SECONDS)]
    assert {frame.y.shape for frame in frames} == {(288, 360)}
    assert chunks[0].t_ns == 0
    assert all(b.t_ns == a.end_ns for a, b in itertools.pairwise(chunks))
    assert {chunk.rate_hz for chunk in chunks} == {16_000}
    assert 0 <= chunks[-1].end_ns - SECONDS * NS_PER_S < 64_000_000
    assert all(item.error is None for item in items if isinstance(item, SourceEnded))


def test_pictures_and_sound_change_together_at_every_join(items: list[Item]) -> None:
    frames = np.stack([i.y[::4, ::4] for i in items if isinstance(i, VideoFrame)]).astype(float)
    changes = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2))  # [i]: from picture i to i + 1
    joins = np.argsort(changes)[-(CLIPS - 1) :] + 1
    assert sorted(joins) == [75 * k for k in range(1, CLIPS)]
    # A speaker is silent at both ends of a clip and speaks in its middle.
    sound = np.concatenate([i.samples for i in items if isinstance(i, AudioChunk)])
    clips = np.square(sound[: SECONDS * 16_000].reshape(CLIPS, 48_000))
    middle = clips[:, 12_000:36_000].mean(axis=1)
    assert np.all(middle > 4 * clips[:, :6_400].mean(axis=1))


def test_its_chat_has_three_authors_and_a_silence_that_shows(items: list[Item]) -> None:
    lines = [item for item in items if isinstance(item, ChatLine)]
    assert 10 <= len(lines) <= 14
    assert len({line.author for line in lines}) == 3
    assert lines[-1].t_ns < SECONDS * NS_PER_S
    pauses = [b.t_ns - a.t_ns for a, b in itertools.pairwise(lines)]
    assert max(pauses) > 12 * NS_PER_S  # the context of chat is 10 s
