"""A session from files to predictions: order, determinism, encoding once, missing parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt
import pytest

from counterpoint.engine.align import State, Status
from counterpoint.engine.bundle import Bundle
from counterpoint.engine.config import Config, ConfigError, QueueSection, TimeSection
from counterpoint.engine.device import Arrays, Graph
from counterpoint.engine.graphs import GraphSpec
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import stable_json
from counterpoint.engine.sources import open_replay, open_sources
from counterpoint.streams.errors import FailedError
from counterpoint.streams.runtime import Lane
from counterpoint.streams.types import Modality, Step
from tests.support.bundles import tiny_bundle
from tests.support.media_files import truncate, write_media
from tests.support.sessions import (
    GRID_CHAT,
    GRID_CLIP,
    RememberingSink,
    load_models,
    new_session,
    play,
    play_async,
)
from tests.support.virtual import VirtualRuntime

HOP_NS = 250_000_000
T = TypeVar("T")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    bundle: Bundle = tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    return load_models(bundle)


def test_a_three_second_clip_gives_one_final_prediction_a_hop_in_order(models: Models) -> None:
    played = play(models, open_replay(GRID_CLIP, GRID_CHAT))
    assert [p.window for p in played.predictions] == list(range(1, 13))
    assert [p.end_ns for p in played.predictions] == [k * HOP_NS for k in range(1, 13)]
    assert {p.status for p in played.predictions} == {Status.FINAL}
    assert played.offered == played.predictions
    for prediction in played.predictions:
        assert prediction.start_ns == max(0, prediction.end_ns - 10_000_000_000)
        for head in prediction.heads.values():
            assert sum(head.probabilities) == pytest.approx(1.0)


def test_two_flat_out_runs_give_the_same_bytes(models: Models) -> None:
    first, second = (play(models, open_replay(GRID_CLIP, GRID_CHAT)) for _ in range(2))
    assert [stable_json(p) for p in first.predictions] == [
        stable_json(p) for p in second.predictions
    ]


@pytest.mark.parametrize("speed", [0.1, 0.7, 1.0, 3.0])
def test_replay_at_any_pace_gives_what_flat_out_replay_gives(models: Models, speed: float) -> None:
    flat = play(models, open_replay(GRID_CLIP, GRID_CHAT))
    runtime = VirtualRuntime()
    paced = runtime.run(play_async(models, open_replay(GRID_CLIP, GRID_CHAT), runtime, speed=speed))
    assert [stable_json(p) for p in paced.predictions] == [stable_json(p) for p in flat.predictions]


def test_everything_is_encoded_once_however_many_windows_it_is_in(models: Models) -> None:
    calls = dict.fromkeys(("vision", "audio", "text", "ngrams", "fusion"), 0)
    graphs = {role: _Counting(models.graphs[role], calls) for role in calls}
    counted = replace(models, graphs={**models.graphs, **graphs})
    played = play(counted, open_replay(GRID_CLIP, GRID_CHAT))
    lines = len(GRID_CHAT.read_text(encoding="utf-8").splitlines())
    # Twelve windows of eight instants and twelve hops each: 96 and 78 uses, twelve encodings.
    assert calls == {"vision": 12, "audio": 12, "text": lines, "ngrams": lines, "fusion": 12}
    assert played.summary.encoded.frames == 12
    uses = sum(min(k, 8) for k in range(1, 13))
    assert uses > played.summary.encoded.frames


def test_nothing_that_came_in_is_unaccounted_for(models: Models) -> None:
    played = play(models, open_replay(GRID_CLIP, GRID_CHAT))
    tallies = played.summary.counters.items
    assert tallies[Modality.VIDEO].received == 75
    for tally in tallies.values():
        rest = (tally.used, tally.late, tally.duplicate, tally.not_sampled, tally.out_of_range)
        assert tally.received == sum(rest) + tally.in_flight
        assert tally.in_flight == 0
        assert tally.late == 0


@pytest.mark.parametrize(
    ("wanted", "absent"),
    [({"audio": "none"}, Modality.AUDIO), ({"video": "none"}, Modality.VIDEO)],
)
def test_a_modality_without_a_source_is_stated_as_missing(
    models: Models, wanted: dict[str, str], absent: Modality
) -> None:
    given = {"video": f"file:{GRID_CLIP}", "audio": f"file:{GRID_CLIP}", "chat": "none", **wanted}
    played = play(models, open_sources(**given))
    assert len(played.predictions) == 12
    for prediction in played.predictions:
        for modality in (absent, Modality.CHAT):
            report = prediction.modalities[modality]
            assert (report.state, report.reason) == (State.MISSING, "no source")
            assert not any(any(values) for values in report.contributions.values())
        present = Modality.VIDEO if absent is Modality.AUDIO else Modality.AUDIO
        assert prediction.modalities[present].coverage == 1.0


def test_a_picture_without_a_face_is_missing_not_zeros(models: Models, tmp_path: Path) -> None:
    path = write_media(tmp_path / "grey.mp4", seconds=1.0, audio_codec=None)
    played = play(models, open_replay(path))
    assert len(played.predictions) == 4
    for prediction in played.predictions:
        report = prediction.modalities[Modality.VIDEO]
        assert (report.state, report.reason) == (State.MISSING, "no face")
    assert played.summary.encoded.faces == 0


def test_a_file_that_breaks_off_ends_its_modality_and_the_windows_go_on(
    models: Models, tmp_path: Path
) -> None:
    whole = write_media(tmp_path / "whole.mkv", seconds=4.0)
    broken = truncate(whole, 0.4)
    played = play(models, open_replay(broken))
    assert [p.window for p in played.predictions] == list(range(1, 17))
    assert played.summary.errors
    last = played.predictions[-1].modalities[Modality.AUDIO]
    assert last.coverage < 1.0
    assert last.reason is not None
    assert "ended" in last.reason


@pytest.mark.parametrize("speed", [0.3, 1.0, 4.0])
def test_a_file_that_breaks_off_plays_out_at_the_pace_of_the_session(
    models: Models, tmp_path: Path, speed: float
) -> None:
    broken = truncate(write_media(tmp_path / "whole.mkv", seconds=4.0), 0.4)
    flat = play(models, open_replay(broken))
    runtime = VirtualRuntime()
    paced = runtime.run(play_async(models, open_replay(broken), runtime, speed=speed))
    assert paced.summary.skipped == 0
    assert [stable_json(p) for p in paced.predictions] == [stable_json(p) for p in flat.predictions]
    for prediction in paced.predictions:
        late_ns = prediction.emitted_wall_ns - prediction.end_wall_ns
        assert 0 <= late_ns <= 250_000_000


def test_slow_models_skip_windows_and_say_so(models: Models) -> None:
    runtime = _SlowModels()
    played = runtime.run(play_async(models, open_replay(GRID_CLIP), runtime, speed=1.0))
    assert 3 <= len(played.predictions) < 12
    indices = [p.window for p in played.predictions]
    assert indices == sorted(set(indices))
    for before, after in zip(played.predictions, played.predictions[1:], strict=False):
        assert after.skipped_windows == after.window - before.window - 1
    assert played.summary.skipped == sum(p.skipped_windows for p in played.predictions)
    assert played.summary.skipped > 0


def test_a_reader_that_stops_reading_loses_predictions_but_stops_nothing(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterpoint.engine.session.READOUT_SIZE", 4)
    runtime = VirtualRuntime()
    sink = RememberingSink()
    session = new_session(models, open_replay(GRID_CLIP), runtime, sink=sink, speed=1.0)

    async def run() -> list[int]:
        await session.run()
        return [prediction.window async for prediction in session.predictions()]

    assert runtime.run(run()) == [9, 10, 11, 12]
    assert [prediction.window for prediction in sink.taken] == list(range(1, 13))
    assert session.summary().unread == 8


def test_hung_models_end_the_session_with_a_reason(models: Models) -> None:
    class Hung:
        async def submit(self, fn: Callable[[], T]) -> T:
            raise TimeoutError

    class Hanging(VirtualRuntime):
        def lane(self, name: str) -> Lane:
            return Hung() if name.startswith("inference") else super().lane(name)

    runtime = Hanging()
    session = new_session(models, open_replay(GRID_CLIP), runtime, speed=1.0)
    with pytest.raises(FailedError, match="the models gave nothing"):
        runtime.run(session.run())


def test_a_hop_may_be_a_multiple_of_the_bundles(models: Models) -> None:
    every = play(models, open_replay(GRID_CLIP))
    config = replace(Config(), time=TimeSection(hop_ms=1_000))
    played = play(models, open_replay(GRID_CLIP), config=config)
    assert [(p.window, p.end_ns) for p in played.predictions] == [
        (k, k * 1_000_000_000) for k in (1, 2, 3)
    ]
    assert [p.heads for p in played.predictions] == [p.heads for p in every.predictions[3::4]]
    with pytest.raises(ConfigError, match="multiple of the bundle's hop of 250 ms"):
        play(models, open_replay(GRID_CLIP), config=replace(config, time=TimeSection(hop_ms=300)))


def test_flat_out_loses_nothing_even_with_room_for_one(models: Models) -> None:
    config = replace(Config(), queues=QueueSection(video_frames=1, audio_chunks=1, chat_lines=1))
    narrow = play(models, open_replay(GRID_CLIP, GRID_CHAT), config=config)
    wide = play(models, open_replay(GRID_CLIP, GRID_CHAT))
    assert narrow.summary.dropped == {}
    assert [stable_json(p) for p in narrow.predictions] == [
        stable_json(p) for p in wide.predictions
    ]


class _Counting:
    """A graph that counts the rows it is given."""

    def __init__(self, graph: Graph, calls: dict[str, int]) -> None:
        self._graph = graph
        self._calls = calls

    @property
    def role(self) -> str:
        return self._graph.role

    @property
    def spec(self) -> GraphSpec:
        return self._graph.spec

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        self._calls[self.role] += len(next(iter(inputs.values())))
        return self._graph.run(inputs)


class _SlowModels(VirtualRuntime):
    """Inference lanes take 600 ms of virtual time for each call."""

    def lane(self, name: str) -> Lane:
        inner = super().lane(name)
        return _SlowLane(self, inner) if name.startswith("inference") else inner


class _SlowLane:
    def __init__(self, runtime: VirtualRuntime, inner: Lane) -> None:
        self._runtime = runtime
        self._inner = inner

    async def submit(self, fn: Callable[[], T]) -> T:
        await self._runtime.sleep_until(self._runtime.now_ns() + 600_000_000)
        return await self._inner.submit(fn)


def test_the_reader_of_a_session_sees_its_end_when_the_session_fails(models: Models) -> None:
    class Failing:
        modalities = frozenset({Modality.VIDEO})

        def step(self, now_ns: int) -> Step:
            raise RuntimeError("a bug")

        def close(self) -> None:
            return

    async def run() -> int:
        runtime = VirtualRuntime()
        sources = replace(open_replay(GRID_CLIP), source=Failing())
        session = new_session(models, sources, runtime)
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError, match="a bug"):
                await session.run()
        return len([p async for p in session.predictions()])

    assert asyncio.run(run()) == 0
