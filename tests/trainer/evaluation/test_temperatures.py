"""``calibrate``: a bundle whose temperatures are those of held-out rows."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.engine.bundle import Bundle, load_bundle
from counterpoint.engine.manifest import MASKS, MODEL_CARD_FILE
from counterpoint.trainer.calibrate import HIGHEST, LOWEST
from counterpoint.trainer.cli import main
from counterpoint.trainer.evaluation.temperatures import LEAST_ROWS
from tests.support.bundles import WORDS, tiny_bundle
from tests.trainer.evaluation.test_report import write_index

pytestmark = pytest.mark.trainer

COLUMNS = ("id", "text", "speaker", "split", "label:emotion")
EMOTIONS = ("happy", "sad", "angry")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def index(path: Path, rows: int, split: str = "validation") -> Path:
    words = itertools.cycle(WORDS[4:])
    return write_index(
        path,
        [
            [f"{n}", f"{next(words)} {next(words)}", f"s{n % 4}", split, EMOTIONS[n % 3]]
            for n in range(rows)
        ],
        COLUMNS,
    )


def test_masks_with_enough_rows_are_fitted_and_the_others_stay(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = index(tmp_path / "index.csv", LEAST_ROWS), tmp_path / "calibrated"
    assert main(["calibrate", str(bundle.root), str(table), "--out", str(out)]) == 0
    assert "emotion      001" in capsys.readouterr().out
    made = load_bundle(out)
    assert made.digest != bundle.digest
    for head in bundle.manifest.heads:
        for mask in MASKS:
            if (head, mask) == ("emotion", "001"):
                assert made.temperature(head, mask) != bundle.temperature(head, mask)
                assert LOWEST <= made.temperature(head, mask) <= HIGHEST
            else:
                assert made.temperature(head, mask) == bundle.temperature(head, mask)
    # What the head says on average of the rows that it is calibrated on now.
    shares = made.shares("emotion", "001")
    assert shares is not None
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert set(made.manifest.shares) == {"emotion"}
    assert set(made.manifest.shares["emotion"]) == {"001"}
    for role, spec in bundle.manifest.graphs.items():
        assert made.manifest.graphs[role] == spec
        assert made.read_bytes(spec.file) == bundle.read_bytes(spec.file)
    card = made.read_bytes(MODEL_CARD_FILE).decode()
    assert card.startswith(bundle.read_bytes(MODEL_CARD_FILE).decode().rstrip())
    assert bundle.digest[:12] in card
    assert f"| emotion | 001 | {LEAST_ROWS} | 4 |" in card


def test_the_same_rows_give_the_same_temperatures(bundle: Bundle, tmp_path: Path) -> None:
    table = index(tmp_path / "index.csv", 12)
    digests = set()
    for name in ("a", "b"):
        out = tmp_path / name
        options = ["--out", str(out), "--least-rows", "5"]
        assert main(["calibrate", str(bundle.root), str(table), *options]) == 0
        digests.add(load_bundle(out).digest)
    assert len(digests) == 1


def test_a_row_in_which_a_modality_was_never_heard_counts_for_what_was(
    bundle: Bundle, tmp_path: Path
) -> None:
    """A picture without a face: nothing is heard of it, alone or beside the words."""
    assert cv2.imwrite(str(tmp_path / "wall.png"), np.full((96, 96), 127, np.uint8))
    rows = [
        [f"{n}", "wall.png", word, f"s{n % 3}", "validation", EMOTIONS[n % 3]]
        for n, word in enumerate(WORDS[4:10])
    ]
    columns = ("id", "video", "text", "speaker", "split", "label:emotion")
    table, out = write_index(tmp_path / "index.csv", rows, columns), tmp_path / "out"
    options = ["--out", str(out), "--least-rows", "1"]
    assert main(["calibrate", str(bundle.root), str(table), *options]) == 0
    card = load_bundle(out).read_bytes(MODEL_CARD_FILE).decode()
    for mask, count in (("100", 0), ("101", 0), ("001", 6)):
        assert f"| emotion | {mask} | {count} | {min(count, 3)} |" in card


def test_nothing_is_fitted_on_rows_of_train_or_test(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        table = index(tmp_path / f"{split}.csv", 4, split)
        out = tmp_path / "out"
        assert main(["calibrate", str(bundle.root), str(table), "--out", str(out)]) == 2
        assert "'validation'" in capsys.readouterr().err
        assert not out.exists()


def test_the_bundle_itself_is_not_written_over(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = index(tmp_path / "index.csv", 4)
    assert main(["calibrate", str(bundle.root), str(table), "--out", str(bundle.root)]) == 2
    assert "--out" in capsys.readouterr().err
    assert load_bundle(bundle.root).digest == bundle.digest
