"""A row is scored as the engine would run it, with all it has and with each part of it."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.engine.manifest import MASKS
from counterpoint.engine.models import Models
from counterpoint.engine.sources import open_sources
from counterpoint.trainer.data.index import Example
from counterpoint.trainer.evaluation.scoring import Scored, score_rows, subsets_of
from tests.support.bundles import tiny_bundle
from tests.support.sessions import GRID_CLIP, load_models, play

pytestmark = pytest.mark.trainer

WHOLE = Example(
    row=2,
    id="clip",
    video=GRID_CLIP,
    audio=GRID_CLIP,
    text="so good !",
    start_ns=0,
    end_ns=None,
    speaker="s1",
    split=None,
    labels={"emotion": 1},
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle"))


@pytest.fixture(scope="module")
def whole(models: Models) -> Scored:
    return score_rows(models, [WHOLE])[0]


def reduced(mask: str) -> Example:
    return replace(
        WHOLE,
        video=WHOLE.video if mask[0] == "1" else None,
        audio=WHOLE.audio if mask[1] == "1" else None,
        text=WHOLE.text if mask[2] == "1" else None,
    )


def test_subsets_are_all_parts_and_nothing_else() -> None:
    assert subsets_of("100") == ("100",)
    assert subsets_of("101") == ("001", "100", "101")
    assert set(subsets_of("111")) == set(MASKS)
    for mask, part in itertools.product(MASKS, MASKS):
        within = all(a >= b for a, b in zip(mask, part, strict=True))
        assert (part in subsets_of(mask)) == within


def test_what_is_scored_is_what_the_session_published(models: Models, whole: Scored) -> None:
    assert whole.mask == "111"
    said = whole.said["111"]
    assert len(whole.predictions) == len(said.heard) > 0
    for at, prediction in enumerate(whole.predictions):
        for head, result in prediction.heads.items():
            assert tuple(said.probabilities[head][at]) == result.probabilities
            for row, report in enumerate(prediction.modalities.values()):
                assert report.contributions[head] == pytest.approx(
                    said.contributions[head][at][row]
                )


def test_an_engine_session_of_ones_own_says_the_same(models: Models) -> None:
    row = replace(WHOLE, text=None)
    scored = score_rows(models, [row])[0]
    name = f"file:{GRID_CLIP}"
    played = play(models, open_sources(video=name, audio=name, chat="none"))
    last = played.predictions[-1]
    assert last.end_ns == scored.predictions[-1].end_ns
    for head, result in last.heads.items():
        assert tuple(scored.said["110"].probabilities[head][-1]) == result.probabilities


def test_a_line_is_read_with_those_before_it_and_these_are_in_no_window(
    models: Models, tmp_path: Path
) -> None:
    alone = replace(reduced("001"), text="what")
    after = replace(alone, before=("so good !",))
    reading = load_models(tiny_bundle(tmp_path / "reading", before_lines=1))
    first, second = (
        [score_rows(these, [row])[0].said["001"].logits["emotion"] for row in (alone, after)]
        for these in (models, reading)
    )
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(second[0], second[1])


@pytest.mark.parametrize("mask", [mask for mask in MASKS if mask != "111"])
def test_a_subset_says_what_a_session_with_only_these_sources_would(
    models: Models, whole: Scored, mask: str
) -> None:
    alone = score_rows(models, [reduced(mask)])[0]
    assert alone.mask == mask
    # Other windows may count for a shorter context: the newest is in both.
    for head in models.bundle.manifest.heads:
        np.testing.assert_array_equal(
            alone.said[mask].logits[head][-1],
            whole.said[mask].logits[head][-1] if mask != "001" else _text_alone(whole, head),
        )


def _text_alone(whole: Scored, head: str) -> np.ndarray:
    """A line says the same however long it has stood there."""
    logits: np.ndarray = whole.said["001"].logits[head][0]
    return logits


def test_windows_count_from_the_first_whole_context_on(models: Models, whole: Scored) -> None:
    context_ns = models.bundle.manifest.modalities.audio.context_ns
    ends = [prediction.end_ns for prediction in whole.predictions]
    assert ends == sorted(ends)
    assert ends[0] >= min(context_ns, ends[-1])
    short = score_rows(models, [replace(WHOLE, end_ns=600_000_000)])[0]
    assert [prediction.end_ns for prediction in short.predictions] == [500_000_000]


def test_an_answer_is_the_mean_of_its_windows_and_sums_to_one(whole: Scored) -> None:
    for said in whole.said.values():
        for head, windows in said.probabilities.items():
            assert said.answer(head) == pytest.approx(windows.mean(axis=0))
            assert said.answer(head).sum() == pytest.approx(1)


def test_scoring_twice_gives_the_same_to_the_bit(models: Models, whole: Scored) -> None:
    again = score_rows(models, [WHOLE])[0]
    for mask, said in whole.said.items():
        for head in said.logits:
            np.testing.assert_array_equal(said.logits[head], again.said[mask].logits[head])
