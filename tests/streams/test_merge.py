"""`MergedSource`: one release order at any pace, and a lost part does not take the others along."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.merge import MAX_ITEMS_PER_STEP, RANK, MergedSource
from counterpoint.streams.types import Item, Modality, SourceEnded, modality_of
from tests.support.sources import ScriptedSource, chunk, ended, frame, line, sample

Script = list[tuple[int, Item]]


def drain(source: MergedSource, look_ahead_ns: int = 0) -> Script:
    items: Script = []
    now_ns: int | None = 0
    while now_ns is not None:
        step = source.step(now_ns + look_ahead_ns)
        assert all(release_ns <= now_ns + look_ahead_ns for release_ns, _ in step.items)
        assert len(step.items) <= MAX_ITEMS_PER_STEP
        assert step.items or step.next_wake_ns is None or step.next_wake_ns > now_ns
        items += step.items
        now_ns = step.next_wake_ns
    return items


def test_items_of_one_instant_come_as_video_audio_chat_then_by_the_order_of_sources() -> None:
    chat: Script = [(5, line(5))]
    media: Script = [(0, frame(0)), (5, frame(5)), (5, chunk(0))]
    second: Script = [(5, frame(5, source="second"))]
    merged = drain(MergedSource([ScriptedSource(s) for s in (chat, media, second)]))
    assert [(t, i.source) for t, i in merged] == [
        (0, "cam"),
        (5, "cam"),
        (5, "second"),
        (5, "mic"),
        (5, "chat"),
    ]


def test_its_modalities_are_those_of_all_parts() -> None:
    parts = [ScriptedSource([(0, frame(0))]), ScriptedSource([(0, line(0))])]
    assert MergedSource(parts).modalities == {Modality.VIDEO, Modality.CHAT}


def test_a_lost_part_ends_its_open_modalities_with_the_error_and_the_others_go_on() -> None:
    lost = ScriptedSource(
        [(0, frame(0)), (10, chunk(0)), (20, ended(Modality.AUDIO, 20, "mic"))],
        fails_ns=30,
    )
    chat = ScriptedSource([(t, line(t)) for t in range(0, 100, 10)])
    items = drain(MergedSource([lost, chat]))
    assert sum(isinstance(item, SourceEnded) for _, item in items) == 2
    end = next(i for _, i in items if isinstance(i, SourceEnded) and i.modality is Modality.VIDEO)
    assert end.source == "cam"
    assert end.error is not None
    assert "cable pulled" in end.error
    assert [t for t, item in items if modality_of(item) is Modality.CHAT] == [*range(0, 100, 10)]
    assert [t for t, _ in items] == sorted(t for t, _ in items)


def test_close_closes_all_parts_though_one_of_them_fails() -> None:
    class Stuck(ScriptedSource):
        def close(self) -> None:
            raise OSError("stuck")

    last = ScriptedSource([(0, line(0))])
    with pytest.raises(ExceptionGroup, match="could not be closed"):
        MergedSource([Stuck([(0, frame(0))]), last]).close()
    assert last.closed == 1


_RELEASES = st.lists(st.integers(0, 40), max_size=12).map(sorted)


@given(
    st.lists(st.tuples(st.sampled_from(list(Modality)), _RELEASES), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(0, 50),
)
def test_the_order_is_that_of_one_stable_sort_at_any_pace(
    parts: list[tuple[Modality, list[int]]], max_items: int, look_ahead_ns: int
) -> None:
    numbers = itertools.count()
    scripts: list[Script] = [
        [(t, sample(modality, t, next(numbers))) for t in releases] for modality, releases in parts
    ]
    merged = drain(
        MergedSource([ScriptedSource(script, max_items=max_items) for script in scripts]),
        look_ahead_ns,
    )
    expected = sorted(
        (pair for script in scripts for pair in script),
        key=lambda pair: (pair[0], RANK[modality_of(pair[1])]),
    )
    assert all(a[1] is b[1] for a, b in zip(merged, expected, strict=True))
