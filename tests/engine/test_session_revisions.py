"""Sessions in which data come late, clocks break and tell how far they are to be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from counterpoint.engine.align import State, Status
from counterpoint.engine.config import Config, TimeSection
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.sources import OpenSources, open_replay
from counterpoint.streams.types import (
    AudioChunk,
    ChatLine,
    ClockUpdate,
    Item,
    Modality,
    SourceEnded,
    Tier,
    VideoFrame,
    modality_of,
)
from tests.support.bundles import tiny_bundle
from tests.support.sessions import GRID_CHAT, GRID_CLIP, Played, load_models, play
from tests.support.sources import ScriptedSource

MS = 1_000_000
LATE = Config(time=TimeSection(lateness_ms=1_000))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


def clip() -> tuple[list[tuple[int, Item]], Mapping[Modality, str]]:
    """The clip and its chat as a live source would give them, and the names of its parts."""
    sources = open_replay(GRID_CLIP, GRID_CHAT)
    script: list[tuple[int, Item]] = []
    wake_ns: int | None = 0
    while wake_ns is not None:
        step = sources.recording.step(wake_ns)
        script += step.items
        wake_ns = step.next_wake_ns
    sources.recording.close()
    return script, sources.names


def scripted(
    change: Callable[[int, Item], int] = lambda at_ns, _: at_ns,
    extra: Callable[[Mapping[Modality, str]], list[tuple[int, Item]]] = lambda _: [],
) -> OpenSources:
    """The clip with other arrivals, and other items before those of their instant."""
    script, names = clip()
    pairs = extra(names) + [(change(at_ns, item), item) for at_ns, item in script]
    pairs.sort(key=lambda pair: pair[0])
    # An end comes behind all that its source gave.
    last = {m: max(at for at, item in pairs if modality_of(item) is m) for m in names}
    pairs = [
        (last[modality_of(item)] if isinstance(item, SourceEnded) else at, item)
        for at, item in pairs
    ]
    pairs.sort(key=lambda pair: (pair[0], isinstance(pair[1], SourceEnded)))
    return OpenSources(source=ScriptedSource(pairs), names=names, duration_ns=None, parts=())


def burst(
    kind: type[Item], start_ms: int, end_ms: int, delay_ms: int
) -> Callable[[int, Item], int]:
    """Samples of a kind from a stretch come together, that much after its end."""

    def change(at_ns: int, item: Item) -> int:
        if isinstance(item, kind) and start_ms * MS <= item.t_ns < end_ms * MS:
            return (end_ms + delay_ms) * MS
        return at_ns

    return change


def newest(played: Played) -> dict[int, Prediction]:
    return {prediction.window: prediction for prediction in played.predictions}


@pytest.mark.parametrize(
    ("kind", "modality"),
    [(VideoFrame, Modality.VIDEO), (AudioChunk, Modality.AUDIO), (ChatLine, Modality.CHAT)],
)
def test_an_amended_window_says_what_it_would_have_said_had_nothing_been_late(
    models: Models, kind: type[Item], modality: Modality
) -> None:
    stretch = (1_200, 1_300, 420) if kind is ChatLine else (600, 1_150, 420)
    assert_settled_as_punctual(models, modality, burst(kind, *stretch))


def test_so_it_is_where_lines_are_read_with_those_before_them(tmp_path: Path) -> None:
    models = load_models(tiny_bundle(tmp_path / "reading", before_lines=2))
    # The first line comes when windows with the second one were given.
    assert_settled_as_punctual(models, Modality.CHAT, burst(ChatLine, 350, 450, 1_250))


def assert_settled_as_punctual(
    models: Models, modality: Modality, change: Callable[[int, Item], int]
) -> None:
    punctual = newest(play(models, open_replay(GRID_CLIP, GRID_CHAT)))
    late = play(models, scripted(change), config=LATE)
    revised = [p for p in late.predictions if p.status is Status.AMENDED]
    assert revised
    for prediction in revised:
        assert prediction.modalities[modality].state is State.LATE
        assert prediction.revision == 1
    settled = newest(late)
    assert set(settled) == set(punctual)
    for window, prediction in settled.items():
        assert prediction.heads == punctual[window].heads, window
    firsts = {p.window: p for p in late.predictions if p.revision == 0}
    changed = [w for w, p in firsts.items() if p.heads != punctual[w].heads]
    assert set(changed) <= {p.window for p in revised}
    assert changed


def test_without_an_allowed_lateness_every_window_is_given_once(models: Models) -> None:
    late = play(models, scripted(burst(VideoFrame, 600, 1_150, 420)))
    assert [p.window for p in late.predictions] == list(range(1, 13))
    assert {(p.status, p.revision) for p in late.predictions} == {(Status.FINAL, 0)}
    assert late.summary.counters.items[Modality.VIDEO].late > 0
    assert sum(p.dropped.get("video: late", 0) for p in late.predictions) == (
        late.summary.counters.items[Modality.VIDEO].late
    )


def test_pictures_that_lag_behind_give_provisional_windows_and_then_finals(models: Models) -> None:
    def lag(at_ns: int, item: Item) -> int:
        return at_ns + 400 * MS if isinstance(item, VideoFrame) else at_ns

    punctual = newest(play(models, open_replay(GRID_CLIP, GRID_CHAT)))
    played = play(models, scripted(lag), config=LATE)
    of: dict[int, list[Prediction]] = {}
    for prediction in played.predictions:
        of.setdefault(prediction.window, []).append(prediction)
    told = [[(p.status, p.revision) for p in revisions] for revisions in of.values()]
    assert [(Status.PROVISIONAL, 0), (Status.FINAL, 1)] in told
    for window, revisions in of.items():
        assert [p.status for p in revisions].count(Status.FINAL) == 1
        assert [p.revision for p in revisions] == list(range(len(revisions)))
        if window in punctual:  # the lag makes the session last longer
            assert revisions[-1].heads == punctual[window].heads
    assert played.summary.windows + played.summary.revisions == len(played.predictions)


def test_a_prediction_states_the_worst_tier_and_the_sum_of_errors_of_its_sources(
    models: Models,
) -> None:
    def clocks(names: Mapping[Modality, str]) -> list[tuple[int, Item]]:
        return [
            (0, update(names, Modality.VIDEO, Tier.REPORTS, 2)),
            (0, update(names, Modality.AUDIO, Tier.REPORTS, 1)),
            (1_500 * MS, update(names, Modality.VIDEO, Tier.ARRIVAL, 20)),
        ]

    played = play(models, scripted(extra=clocks))
    told = [(p.align_tier, p.align_error_ms) for p in played.predictions]
    assert len(set(told)) == 2
    assert told[0][0] == "sr"
    assert told[-1][0] == "arrival"
    assert told[-1][1] - told[0][1] == pytest.approx(18.0)
    assert {p.epoch for p in played.predictions} == {0}


def test_a_clock_that_steps_raises_the_epoch_and_the_windows_go_on(models: Models) -> None:
    def broken(names: Mapping[Modality, str]) -> list[tuple[int, Item]]:
        return [(1_400 * MS, update(names, Modality.VIDEO, Tier.ARRIVAL, 5, epoch=1))]

    played = play(models, scripted(extra=broken))
    assert [p.window for p in played.predictions] == list(range(1, 13))
    epochs = [p.epoch for p in played.predictions]
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1}


def update(
    names: Mapping[Modality, str], modality: Modality, tier: Tier, error_ms: int, *, epoch: int = 0
) -> ClockUpdate:
    return ClockUpdate(
        source=names[modality],
        modality=modality,
        t_ns=0,
        tier=tier,
        error_ns=error_ms * MS,
        epoch=epoch,
    )
