"""Indexes of the sets that the bundle affect is evaluated on, from sets made by hand."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.engine.preprocess.faces import FaceTracker
from counterpoint.streams.types import VideoFrame
from counterpoint.trainer.affect import sets
from counterpoint.trainer.cli import main
from counterpoint.trainer.data.index import read_index
from counterpoint.trainer.data.table import read_table
from counterpoint.trainer.labels import EMOTION, SENTIMENT
from tests.support.sessions import DATA

pytestmark = pytest.mark.trainer


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"media")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for actor in (1, 17, 20):
        for code in ("01", "05"):
            name = f"03-01-{code}-01-01-01-{actor:02d}.opus"
            touch(folder / "ravdess_speech" / "audio" / name)
    meld = folder / "text" / "meld" / "dev_sent_emo.csv"
    meld.parent.mkdir(parents=True)
    meld.write_text(
        "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
        '1,"Oh my God, no",Phoebe,sadness,negative,0,0\n'
        "2,Great!,Joey,joy,positive,0,1\n"
    )
    touch(folder / "grid_s1" / "clips" / "bbaf2n.mp4")
    align = folder / "grid_s1" / "align" / "bbaf2n.align"
    align.parent.mkdir(parents=True)
    align.write_text("0 23750 sil\n23750 29500 bin\n29500 34000 blue\n53000 74500 sil\n")
    touch(folder / "clips" / "grid_other.mpg")
    return folder


def test_only_speakers_that_were_held_out_are_named(data: Path, tmp_path: Path) -> None:
    assert main(["index", "ravdess", "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    index = read_index(tmp_path / "out" / "index.csv", tasks={"emotion": EMOTION})
    assert {row.speaker for row in index.examples} == {"ravdess-17", "ravdess-20"}
    assert {row.split for row in index.examples} == {"validation"}
    assert [EMOTION[int(row.labels["emotion"])] for row in index.examples] == [
        "neutral",
        "neutral",
        "angry",
        "angry",
    ]
    assert all(row.modalities == ("audio",) for row in index.examples)


def test_lines_have_speakers_and_both_labels(data: Path, tmp_path: Path) -> None:
    assert main(["index", "meld", "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    tasks = {"emotion": EMOTION, "sentiment": SENTIMENT}
    rows = read_index(tmp_path / "out" / "index.csv", tasks=tasks).examples
    assert [(row.speaker, row.text) for row in rows] == [
        ("Phoebe", "Oh my God, no"),
        ("Joey", "Great!"),
    ]
    assert [SENTIMENT[int(row.labels["sentiment"])] for row in rows] == ["negative", "positive"]


def test_grid_has_picture_sound_and_the_words_said(data: Path, tmp_path: Path) -> None:
    assert main(["index", "grid", "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    _, rows = read_table(tmp_path / "out" / "index.csv")
    assert [(row["id"], row["text"]) for row in rows] == [
        ("grid-s1-bbaf2n", "bin blue"),
        ("grid_other", ""),
    ]
    assert all(row["video"] == row["audio"] != "" for row in rows)


def test_a_small_face_is_saved_so_that_it_is_found(tmp_path: Path) -> None:
    picture = cv2.imread(str(DATA / "grid_face.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    side = min(picture.shape)
    square = np.asarray(picture[:side, :side], np.uint8)
    sets.save_face(tmp_path / "a" / "face.png", cv2.resize(square, (48, 48)).astype(np.uint8))
    saved = cv2.imread(str(tmp_path / "a" / "face.png"), cv2.IMREAD_GRAYSCALE)
    assert saved is not None
    assert saved.shape == (288, 288)
    frame = VideoFrame(source="x", t_ns=0, y=np.asarray(saved, np.uint8), sequence=0)
    assert FaceTracker().update(frame) is not None


def test_a_missing_set_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in sets.SETS:
        assert main(["index", name, "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "missing" in message
