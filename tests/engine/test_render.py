"""What people see."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from counterpoint.engine.models import Models
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.render import BAR_CELLS, LiveTable, bar, in_words
from counterpoint.engine.sources import open_replay
from counterpoint.engine.subscribe import Gap, GapCause, StateChange, StateKind
from tests.support.bundles import tiny_bundle
from tests.support.sessions import GRID_CLIP, load_models, play


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    models: Models = load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))
    return play(models, open_replay(GRID_CLIP)).predictions[-1]


def test_the_table_shows_heads_states_latency_and_losses(prediction: Prediction) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=110, color_system=None)
    with LiveTable(console, "Counterpoint · test", paced=True) as table:
        table.note("hello")
        table.show(replace(prediction, skipped_windows=2, dropped={"video: mailbox full": 3}))
        table.show(replace(prediction, skipped_windows=1, dropped={"video: mailbox full": 4}))
    shown = out.getvalue()
    for words in (
        *("sentiment", "negative", "emotion", "surprise", "video", "present", "missing"),
        *("no source", "window 12", "final", "skipped 3", "dropped video: mailbox full 7"),
        *("window end → prediction", "hello"),
    ):
        assert words in shown, words
    top, share = prediction.heads["emotion"].top
    assert any(top in line and f"{share:.0%}" in line for line in shown.splitlines())


def test_flat_out_replay_claims_no_latency(prediction: Prediction) -> None:
    out = io.StringIO()
    with LiveTable(Console(file=out, force_terminal=True, width=110), "t", paced=False) as table:
        table.show(prediction)
    assert "window end" not in out.getvalue()


@pytest.mark.parametrize(
    ("share", "cells"), [(0.0, 0), (1.0, BAR_CELLS), (0.5, BAR_CELLS // 2), (2.0, BAR_CELLS)]
)
def test_a_bar_is_as_long_as_its_share(share: float, cells: int) -> None:
    assert bar(share) == "█" * cells


def test_bars_never_shrink_as_shares_grow() -> None:
    blocks = " ▏▎▍▌▋▊▉█"
    lengths = [sum(blocks.index(c) for c in bar(n / 1000)) for n in range(1001)]
    assert lengths == sorted(lengths)
    assert lengths[-1] == BAR_CELLS * 8


def test_gaps_and_changes_are_said_in_words() -> None:
    gap = Gap(session="s", epoch=0, first_window=4, last_window=6, cause=GapCause.SKIPPED)
    assert in_words(gap) == "gap: windows 4 to 6 missing (3, skipped)"
    assert in_words(replace(gap, last_window=4)) == "gap: window 4 missing (1, skipped)"
    lost = StateChange(session="s", kind=StateKind.DISCONNECTED, detail="refused")
    assert in_words(lost) == "redis disconnected: refused"
    ended = StateChange(session="s", kind=StateKind.ENDED, detail="done")
    assert in_words(ended) == "session s ended: done"
