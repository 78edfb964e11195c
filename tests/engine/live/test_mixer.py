"""`Mixer`: which windows a session gives, when, and what they say."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.engine.align import State, Status
from counterpoint.engine.live.mixer import Mixer, mix
from counterpoint.engine.prediction import HeadResult, ModalityReport, Prediction
from counterpoint.streams.types import Modality

MS = 1_000_000
HOP_NS = 250 * MS
PATIENCE_NS = 500 * MS


def said(
    window: int,
    probabilities: tuple[float, float] = (0.5, 0.5),
    *,
    heard: bool = True,
    epoch: int = 0,
    revision: int = 0,
    status: Status = Status.FINAL,
    skipped: int = 0,
    dropped: Mapping[str, int] | None = None,
    tier: str = "sr",
) -> Prediction:
    state = State.PRESENT if heard else State.SILENT
    return Prediction(
        session="s/somebody",
        epoch=epoch,
        window=window,
        start_ns=window * HOP_NS - 3_000 * MS,
        end_ns=window * HOP_NS,
        start_wall_ns=0,
        end_wall_ns=3_000 * MS,
        emitted_wall_ns=4_000 * MS,
        status=status,
        revision=revision,
        heads={"mood": HeadResult(labels=("low", "high"), probabilities=probabilities)},
        modalities={
            modality: ModalityReport(
                state=state,
                coverage=1.0 if heard else 0.0,
                age_ns=10 if heard else None,
                contributions={"mood": (1.0, 3.0) if heard else (0.0, 0.0)},
            )
            for modality in Modality
        },
        align_error_ms=1.0,
        align_tier=tier,
        skipped_windows=skipped,
        dropped=dropped or {},
        bundle_id="b",
        bundle_digest="d",
    )


@pytest.fixture
def mixer() -> Mixer:
    return Mixer("s", hop_ns=HOP_NS, patience_ns=PATIENCE_NS, kept=4)


def test_one_voice_alone_is_the_sessions(mixer: Mixer) -> None:
    mixer.join("ann", 1)
    (mixed,) = mixer.take("ann", said(1, (0.2, 0.8)), 7)
    assert (mixed.session, mixed.window, mixed.revision) == ("s", 1, 0)
    assert mixed.heads["mood"].probabilities == (0.2, 0.8)
    assert mixed.participants == {"ann": 1.0}
    assert mixed.emitted_wall_ns == 7


def test_a_window_waits_for_all_and_is_their_mean(mixer: Mixer) -> None:
    mixer.join("ann", 1)
    mixer.join("bob", 1)
    assert mixer.take("ann", said(1, (0.2, 0.8)), 0) == []
    (mixed,) = mixer.take("bob", said(1, (0.6, 0.4)), 0)
    assert mixed.heads["mood"].probabilities == pytest.approx((0.4, 0.6))
    assert mixed.participants == {"ann": 0.5, "bob": 0.5}


def test_who_is_not_heard_has_no_weight_unless_nobody_is(mixer: Mixer) -> None:
    by = {"ann": said(1, (0.2, 0.8)), "bob": said(1, (0.6, 0.4), heard=False)}
    mixed = mix("s", by, revision=0, wall_ns=0)
    assert mixed.heads["mood"].probabilities == (0.2, 0.8)
    assert mixed.participants == {"ann": 1.0, "bob": 0.0}
    assert mixed.modalities[Modality.VIDEO].state is State.PRESENT
    assert mixed.modalities[Modality.VIDEO].coverage == 0.5
    assert mixed.modalities[Modality.VIDEO].contributions == {"mood": (1.0, 3.0)}
    silent = {name: said(1, (0.6, 0.4), heard=False) for name in ("ann", "bob")}
    assert mix("s", silent, revision=0, wall_ns=0).participants == {"ann": 0.5, "bob": 0.5}


def test_the_least_trusted_clock_is_stated(mixer: Mixer) -> None:
    by = {"ann": said(1, tier="sr"), "bob": said(1, tier="arrival")}
    assert mix("s", by, revision=0, wall_ns=0).align_tier == "arrival"


def test_who_passes_a_window_is_not_waited_for(mixer: Mixer) -> None:
    mixer.join("ann", 1)
    mixer.join("bob", 1)
    mixer.take("ann", said(1), 0)
    mixer.take("ann", said(2), 0)
    mixed = mixer.take("bob", said(2, skipped=1), 0)
    assert [each.window for each in mixed] == [1, 2]
    assert [set(each.participants) for each in mixed] == [{"ann"}, {"ann", "bob"}]


def test_who_joins_is_waited_for_from_their_first_window_on(mixer: Mixer) -> None:
    mixer.join("ann", 1)
    mixer.join("bob", 3)
    assert [each.window for each in mixer.take("ann", said(1), 0)] == [1]
    assert [each.window for each in mixer.take("ann", said(2), 0)] == [2]
    assert mixer.take("ann", said(3), 0) == []


def test_who_leaves_is_waited_for_no_longer(mixer: Mixer) -> None:
    mixer.join("ann", 1)
    mixer.join("bob", 1)
    mixer.take("ann", said(1), 0)
    assert [each.window for each in mixer.leave("bob", 0)] == [1]


def test_a_window_leaves_at_its_patience_without_those_who_are_late(mixer: Mixer) -> None:
    mixer.join("ann", 1)
    mixer.join("bob", 1)
    mixer.take("ann", said(4), 0)
    due_ns = mixer.due_ns()
    assert due_ns == 4 * HOP_NS + PATIENCE_NS
    assert mixer.advance(due_ns - 1, 0) == []
    (mixed,) = mixer.advance(due_ns, 0)
    assert (mixed.window, set(mixed.participants)) == (4, {"ann"})
    # What comes after all is a revision.
    (again,) = mixer.take("bob", said(4, (0.9, 0.1)), 0)
    assert (again.window, again.revision) == (4, 1)
    assert set(again.participants) == {"ann", "bob"}
    # Of a window that was given up without it there is nothing to revise.
    assert mixer.take("bob", said(3), 0) == []
    assert mixer.late == 1


def test_a_revision_of_a_participant_is_one_of_the_session(mixer: Mixer) -> None:
    mixer.join("ann", 1)
    (first,) = mixer.take("ann", said(1, status=Status.PROVISIONAL), 0)
    assert first.status is Status.PROVISIONAL
    (final,) = mixer.take("ann", said(1, revision=1), 0)
    assert (final.status, final.revision) == (Status.FINAL, 1)
    (amended,) = mixer.take("ann", said(1, revision=2, status=Status.AMENDED), 0)
    assert (amended.status, amended.revision) == (Status.AMENDED, 2)


def test_the_epoch_never_goes_back(mixer: Mixer) -> None:
    mixer.join("ann", 1)
    mixer.join("bob", 1)
    mixer.take("ann", said(1, epoch=3), 0)
    (first,) = mixer.take("bob", said(1), 0)
    mixer.leave("ann", 0)
    (second,) = mixer.take("bob", said(2), 0)
    assert (first.epoch, second.epoch) == (3, 3)


@given(
    data=st.data(),
    names=st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True),
    windows=st.integers(1, 12),
)
def test_windows_rise_nothing_is_lost_unsaid_and_drops_are_stated_once(
    data: st.DataObject, names: list[str], windows: int
) -> None:
    mixer = Mixer("s", hop_ns=HOP_NS, patience_ns=PATIENCE_NS, kept=4)
    queues: dict[str, list[int]] = {}
    for name in names:
        mixer.join(name, 1)
        kept = data.draw(st.lists(st.booleans(), min_size=windows, max_size=windows))
        queues[name] = [index + 1 for index, keep in enumerate(kept) if keep]
    given_up: list[Prediction] = []
    taken = 0
    while any(queues.values()):
        name = data.draw(st.sampled_from([n for n in names if queues[n]]))
        given_up += mixer.take(name, said(queues[name].pop(0), dropped={"late": 1}), 0)
        taken += 1
        if data.draw(st.integers(0, 9)) == 0 and (due_ns := mixer.due_ns()) is not None:
            given_up += mixer.advance(due_ns, 0)
    for name in names:
        given_up += mixer.leave(name, 0)
    first = [each for each in given_up if each.revision == 0]
    indices = [each.window for each in first]
    assert indices == sorted(set(indices))
    for before, after in zip([None, *first], first, strict=False):
        if before is not None:
            assert after.skipped_windows == after.window - before.window - 1
    stated = sum(each.dropped.get("late", 0) for each in given_up)
    assert stated <= taken
    assert taken - stated <= mixer.late, "drops stay unsaid only with what came too late"
