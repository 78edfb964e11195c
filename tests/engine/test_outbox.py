"""The bounded queue in front of Redis: order, bound, conservation, what is stated of drops."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.engine.outbox import (
    DROP_QUEUE_FULL,
    DROP_REFUSED,
    DROP_UNENCODABLE,
    Lifecycle,
    LifecycleEvent,
    Outbox,
)
from counterpoint.engine.prediction import Prediction, from_json
from counterpoint.engine.redis_client import EVENTS_KEY, predictions_key
from tests.support.predictions import make_prediction

WALL_NS = 1_790_000_000_000_000_000
KEY = predictions_key("demo")


def ended(session: str = "demo") -> LifecycleEvent:
    return LifecycleEvent(
        session=session, kind=Lifecycle.ENDED, reason="done", wall_ns=WALL_NS, event_id="e"
    )


def filled(capacity: int, windows: int) -> Outbox:
    outbox = Outbox(capacity)
    for window in range(1, windows + 1):
        outbox.put(make_prediction(window), now_ns=window)
    return outbox


def sent(outbox: Outbox) -> list[Prediction]:
    """Take all and confirm it; the predictions as they were written."""
    documents: list[Prediction] = []
    while len(outbox):
        outbox.take(WALL_NS)
        for entry in list(outbox.in_flight):
            if entry.key != EVENTS_KEY:
                documents.append(from_json(entry.data))
            outbox.confirm(entry)
    return documents


def test_what_fits_goes_out_in_order() -> None:
    assert [p.window for p in sent(filled(200, 200))] == list(range(1, 201))


def test_the_oldest_is_dropped_and_the_next_document_says_how_many() -> None:
    outbox = filled(4, 10)
    assert outbox.peak == len(outbox) == 4
    documents = sent(outbox)
    assert [p.window for p in documents] == [7, 8, 9, 10]
    assert documents[0].dropped == {DROP_QUEUE_FULL: 6}
    assert all(not p.dropped for p in documents[1:])
    assert outbox.dropped == {DROP_QUEUE_FULL: 6}


def test_what_a_dropped_prediction_had_to_state_is_stated_by_the_next() -> None:
    outbox = Outbox(2)
    outbox.put(make_prediction(3, skipped_windows=2, dropped={"video:late": 4}), now_ns=0)
    outbox.put(make_prediction(5, skipped_windows=1, dropped={"chat:late": 1}), now_ns=0)
    outbox.put(make_prediction(6, dropped={"video:late": 1}), now_ns=0)
    outbox.put(make_prediction(7), now_ns=0)
    first, second = sent(outbox)
    assert first.window == 6
    assert first.skipped_windows == 3
    assert first.dropped == {"video:late": 5, "chat:late": 1, DROP_QUEUE_FULL: 2}
    assert (second.skipped_windows, second.dropped) == (0, {})


def test_drops_of_one_session_are_not_stated_by_another() -> None:
    outbox = Outbox(2)
    for session in ("a", "b", "b"):
        outbox.put(make_prediction(session=session), now_ns=0)
    outbox.put(make_prediction(2, session="a"), now_ns=0)
    by_session = {(p.session, p.window): p.dropped for p in sent(outbox)}
    assert by_session == {("b", 1): {DROP_QUEUE_FULL: 1}, ("a", 2): {DROP_QUEUE_FULL: 1}}


def test_an_event_is_dropped_only_where_no_prediction_waits() -> None:
    outbox = Outbox(2)
    outbox.put(ended("a"), now_ns=0)
    outbox.put(make_prediction(), now_ns=0)
    outbox.put(ended("b"), now_ns=0)
    outbox.take(WALL_NS)
    assert [json.loads(e.data)["session"] for e in outbox.in_flight] == ["a"]
    outbox.put(ended("c"), now_ns=0)
    assert outbox.dropped == {DROP_QUEUE_FULL: 2}
    assert len(outbox) == 2


def test_the_end_of_a_session_states_where_it_ends_and_what_was_dropped_last() -> None:
    outbox = Outbox(3)
    outbox.put(make_prediction(1), now_ns=0)
    outbox.put(make_prediction(2, skipped_windows=1), now_ns=0)
    outbox.take(WALL_NS)
    first, second = outbox.in_flight
    outbox.confirm(first)
    outbox.refuse(second)
    outbox.put(ended(), now_ns=0)
    outbox.take(WALL_NS)
    (event,) = outbox.in_flight
    assert json.loads(event.data) == {
        "schema_version": 1,
        "event": "ended",
        "session": "demo",
        "reason": "done",
        "wall": "2026-09-21T14:13:20.000Z",
        "id": "e",
        "last_id": "1790000000000-1",
        "skipped_windows": 1,
        "dropped": {DROP_REFUSED: 1},
    }


@pytest.mark.parametrize("bad", [{"align_error_ms": float("nan")}, {"align_tier": "\ud800"}])
def test_what_json_cannot_say_is_dropped_and_stated(bad: dict[str, Any]) -> None:
    outbox = Outbox(4)
    outbox.put(make_prediction(1, **bad), now_ns=0)
    outbox.put(make_prediction(2), now_ns=0)
    (document,) = sent(outbox)
    assert document.window == 2
    assert document.dropped == {DROP_UNENCODABLE: 1}


def test_ids_only_grow_though_the_wall_clock_goes_back() -> None:
    outbox = filled(10, 3)
    outbox.take(WALL_NS)
    outbox.put(make_prediction(4), now_ns=0)
    outbox.take(WALL_NS - 10**12)
    outbox.put(make_prediction(5), now_ns=0)
    outbox.take(WALL_NS + 10**6)
    ms = WALL_NS // 10**6
    assert [e.stream_id for e in outbox.in_flight] == [(ms, i) for i in range(4)] + [(ms + 1, 0)]


def test_settling_confirms_what_is_there_with_our_bytes_alone() -> None:
    outbox = filled(10, 3)
    outbox.take(WALL_NS)
    first, second, third = outbox.in_flight
    there = {first.stream_id: first.data, second.stream_id: "somebody else's"}
    applied = outbox.settle(KEY, there, top=second.stream_id, wall_ns=WALL_NS)
    assert applied == [first]
    # The third was not in the way, but must stay behind the second.
    assert second.stream_id < third.stream_id
    assert second.stream_id > (WALL_NS // 10**6, 2)


def test_settling_keeps_the_ids_of_what_was_not_overtaken() -> None:
    outbox = filled(10, 2)
    outbox.take(WALL_NS)
    before = [e.stream_id for e in outbox.in_flight]
    assert outbox.settle(KEY, {}, top=(0, 0), wall_ns=WALL_NS + 10**9) == []
    assert [e.stream_id for e in outbox.in_flight] == before


def test_a_capacity_without_room_to_drop_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Outbox(1)


@given(
    capacity=st.integers(2, 6),
    moves=st.lists(
        st.sampled_from(["put", "put", "put", "take", "confirm", "refuse"]), min_size=8, max_size=60
    ),
)
def test_nothing_is_lost_without_being_counted_and_stated(capacity: int, moves: list[str]) -> None:
    outbox = Outbox(capacity)
    puts = confirmed = 0
    documents: list[Prediction] = []
    for move in moves:
        if move == "put":
            puts += 1
            outbox.put(make_prediction(puts), now_ns=0)
        elif move == "take":
            outbox.take(WALL_NS)
        elif outbox.in_flight:
            entry = outbox.in_flight[0]
            if move == "confirm":
                documents.append(from_json(entry.data))
                confirmed += 1
                outbox.confirm(entry)
            else:
                outbox.refuse(entry)
        assert len(outbox) <= capacity
        assert puts == confirmed + outbox.dropped.total() + len(outbox)
    documents += sent(outbox)
    windows = [p.window for p in documents]
    assert windows == sorted(set(windows))
    outbox.put(ended(), now_ns=0)
    outbox.take(WALL_NS)
    (event,) = outbox.in_flight
    stated: Counter[str] = Counter(json.loads(event.data)["dropped"])
    for document in documents:
        stated += Counter(document.dropped)
    assert stated == outbox.dropped
