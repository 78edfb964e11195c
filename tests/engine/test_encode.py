"""Encoding cells again when the aligner gives them again, and what waits for the models then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from counterpoint.engine.align import (
    Aligner,
    AlignSpec,
    AudioCell,
    Counters,
    Line,
    Output,
    VideoCell,
    Window,
)
from counterpoint.engine.encode import SessionEncoder
from counterpoint.engine.fuse import Feature
from counterpoint.engine.models import Models
from counterpoint.engine.work import Due, WorkQueue
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.types import BoolArray, ChatLine, Float32Array, Modality, VideoFrame
from tests.support.bundles import tiny_bundle
from tests.support.media import grid_speech
from tests.support.sessions import GRID_CLIP, load_models

HOP = 4_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


def encoder_of(models: Models, *, unsettled: int = 8) -> SessionEncoder:
    return SessionEncoder(models, lambda: 0, unsettled=unsettled, keep_features=True)


def sound(index: int, *, hole: slice | None = None, revision: int = 0) -> AudioCell:
    samples: Float32Array = grid_speech()[(index - 1) * HOP : index * HOP].copy()
    valid: BoolArray = np.ones(HOP, np.bool_)
    if hole is not None:
        samples[hole], valid[hole] = 0.0, False
    return AudioCell(index=index, samples=samples, valid=valid, revision=revision)


@cache
def frames() -> list[VideoFrame]:
    """Every tenth frame of the clip; the same face in each, moving."""
    source = MediaFileSource(GRID_CLIP, video=True, audio=False)
    items = []
    wake_ns: int | None = 0
    while wake_ns is not None:
        step = source.step(wake_ns)
        items += [item for _, item in step.items if isinstance(item, VideoFrame)]
        wake_ns = step.next_wake_ns
    source.close()
    return items[::10]


def picture(index: int, other: int = 0, *, revision: int = 0) -> VideoCell:
    return VideoCell(index=index, frame=frames()[other or index], revision=revision)


def newest(features: Sequence[Feature]) -> dict[tuple[Modality, int], tuple[bytes, bytes, bool]]:
    return {
        (f.modality, f.key): (
            b"" if f.embedding is None else f.embedding.tobytes(),
            b"" if f.steps is None else f.steps.tobytes(),
            f.voiced,
        )
        for f in features
    }


def test_sound_that_comes_late_is_encoded_as_if_it_had_always_been_there(models: Models) -> None:
    late, punctual = encoder_of(models), encoder_of(models)
    hole = slice(1_000, 2_600)
    late.encode([sound(1), sound(2, hole=hole), sound(3), sound(4)])
    with_hole = newest(late.take_features())
    late.encode([sound(2, revision=1), sound(5)])
    punctual.encode([sound(index) for index in range(1, 6)])
    expected = newest(punctual.take_features())
    amended = {**with_hole, **newest(late.take_features())}
    assert amended == expected
    assert with_hole[Modality.AUDIO, 2] != expected[Modality.AUDIO, 2]


def test_the_bundle_says_from_which_probability_on_a_hop_has_a_voice(models: Models) -> None:
    def voiced(threshold: float) -> list[bool]:
        manifest = models.bundle.manifest
        audio = replace(manifest.audio, voice_threshold=threshold)
        changed = replace(manifest, modalities=replace(manifest.modalities, audio=audio))
        with_threshold = replace(models, bundle=replace(models.bundle, manifest=changed))
        encoder = encoder_of(with_threshold)
        encoder.encode([sound(index) for index in range(1, 9)])
        return [feature.voiced for feature in encoder.take_features()]

    counts = [sum(voiced(threshold)) for threshold in (0.0, 0.1, 0.5)]
    assert counts[0] == 8
    assert counts == sorted(counts, reverse=True)
    assert 0 < counts[2] < counts[0]


def test_two_cells_that_change_together_are_both_as_if_they_had_always_been_there(
    models: Models,
) -> None:
    late, punctual = encoder_of(models), encoder_of(models)
    everything = slice(0, HOP)
    late.encode([sound(1), sound(2, hole=everything), sound(3, hole=slice(0, 800)), sound(4)])
    late.encode([sound(2, revision=1), sound(3, revision=1)])
    punctual.encode([sound(index) for index in range(1, 5)])
    assert newest(late.take_features()) == newest(punctual.take_features())


def test_pictures_that_come_late_are_encoded_as_if_they_had_always_been_there(
    models: Models,
) -> None:
    late, punctual = encoder_of(models), encoder_of(models)
    late.encode([picture(1), VideoCell(index=2, frame=None), picture(3, 1), picture(4)])
    before = newest(late.take_features())
    late.encode([picture(2, revision=1), picture(3, revision=1)])
    late.encode([picture(5)])
    punctual.encode([picture(index) for index in range(1, 6)])
    expected = newest(punctual.take_features())
    assert {**before, **newest(late.take_features())} == expected
    assert before[Modality.VIDEO, 3] != expected[Modality.VIDEO, 3]


def test_a_line_is_read_with_the_lines_before_it_where_the_bundle_says_so(
    models: Models, tmp_path: Path
) -> None:
    reading = load_models(tiny_bundle(tmp_path / "reading", before_lines=2))
    first, second = (
        ChatLine(source="room", t_ns=n, author="ann", text=text, sequence=n)
        for n, text in enumerate(("so good !", "what"))
    )

    def said(models: Models, *given: Line) -> dict[tuple[Modality, int], tuple[bytes, bytes, bool]]:
        encoder = encoder_of(models)
        encoder.encode(given)
        return newest(encoder.take_features())

    key = (Modality.CHAT, 1)
    alone, after = Line(line=second), Line(line=second, before=(first,))
    assert said(models, after)[key] == said(models, alone)[key]
    assert said(reading, after)[key] != said(reading, alone)[key]
    assert said(reading, alone)[key] == said(models, alone)[key]
    # Given again, it is as if the other line had been there at first.
    again = Line(line=second, before=(first,), revision=1)
    assert said(reading, alone, again)[key] == said(reading, after)[key]


def test_a_cell_given_again_after_an_overload_dropped_it_is_encoded_by_itself(
    models: Models,
) -> None:
    encoder, alone, undisturbed = encoder_of(models), encoder_of(models), encoder_of(models)
    encoder.encode([sound(1), sound(3)])
    encoder.take_features()
    encoder.encode([sound(2, revision=1), sound(4)])
    given = newest(encoder.take_features())
    alone.encode([sound(2)])
    undisturbed.encode([sound(1), sound(3), sound(4)])
    assert given[Modality.AUDIO, 2] == newest(alone.take_features())[Modality.AUDIO, 2]
    assert given[Modality.AUDIO, 4] == newest(undisturbed.take_features())[Modality.AUDIO, 4]


def test_without_an_allowed_lateness_nothing_is_kept_for_going_back(models: Models) -> None:
    encoder = SessionEncoder(models, lambda: 0)
    line = ChatLine(source="room", t_ns=0, author="ann", text="hello", sequence=0)
    encoder.encode([sound(1), picture(1), Line(line=line)])
    assert encoder.take_features() == []


def due(index: int, revision: int = 0) -> Due:
    spec = AlignSpec()
    aligner = Aligner(spec, {})
    outputs: list[Output] = aligner.advance(spec.hop_ns * (index + 2))
    window = next(o for o in outputs if isinstance(o, Window) and o.index == index)
    counters: Counters = aligner.counters()
    named = Window(**{**{f: getattr(window, f) for f in window.__slots__}, "revision": revision})
    return Due(window=named, counters=counters, ready_ns=0)


@pytest.mark.parametrize(
    ("put", "taken", "skipped", "dropped"),
    [
        ([due(1), due(2)], (2, 0), 1, 0),
        ([due(2), due(1, 1)], (2, 0), 0, 1),
        ([due(1, 1), due(5)], (5, 0), 0, 1),
        ([due(1, 1), due(2, 1)], (2, 1), 0, 1),
    ],
)
def test_a_revision_gives_way_to_a_window_that_was_not_given_yet_and_is_no_skipped_window(
    put: list[Due], taken: tuple[int, int], skipped: int, dropped: int
) -> None:
    async def run() -> None:
        work = WorkQueue(max_cells=4)
        for window in put:
            work.put_window(window)
        work.close()
        batch = await work.take()
        assert batch is not None
        assert batch.due is not None
        assert (batch.due.window.index, batch.due.window.revision) == taken
        assert (batch.skipped, work.skipped_total) == (skipped, skipped)
        assert work.drops.by_reason.get("revision skipped", 0) == dropped
        assert await work.take() is None

    asyncio.run(run())
