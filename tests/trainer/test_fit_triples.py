"""Class-matched triples from sets made by hand: whose face, voice and line stand in which split."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.trainer.cli import main
from counterpoint.trainer.data.index import Index, read_index
from counterpoint.trainer.data.split import split_index
from counterpoint.trainer.fit.config import read_config
from counterpoint.trainer.labels import EMOTION, FERPLUS, MELD

pytestmark = pytest.mark.trainer

PICTURES = 140
OUTSIDE = ("contempt", "unknown", "NF")


def write_faces(folder: Path, split: str, shade: int) -> None:
    """Twenty pictures of each emotion in turn; the shade says emotion and file."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(FERPLUS)
    mosaic = np.zeros((-(-PICTURES // 60) * 48, 60 * 48), np.uint8)
    with (folder / f"FER2013{split}.labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["name", *names, *OUTSIDE])
        table.writeheader()
        for place in range(PICTURES):
            votes = dict.fromkeys((*names, *OUTSIDE), 0)
            votes[names[place % 7]] = 10
            table.writerow({"name": f"{split}-{place}.png", **votes})
            row, column = divmod(place, 60)
            tile = np.s_[row * 48 : row * 48 + 48, column * 48 : column * 48 + 48]
            mosaic[tile] = shade + 10 * (place % 7)
    assert cv2.imwrite(str(folder / f"FER2013{split}.00.png"), mosaic)


def write_lines(folder: Path, split: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID"]
    rows += [
        f"{place},{split} dialogue {dialogue} {emotion},Joey,{emotion},neutral,{dialogue},{place}"
        for dialogue in range(20)
        for place, emotion in enumerate(MELD)
    ]
    (folder / f"{split}_sent_emo.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    data = tmp_path_factory.mktemp("data")
    for split, shade in (("Train", 20), ("Valid", 120)):
        write_faces(data / "ferplus", split, shade)
    (data / "ferplus" / "duplicates_to_drop.csv").write_text("name,split\n")
    sounds = data / "ravdess_speech" / "audio"
    sounds.mkdir(parents=True)
    for actor in range(1, 21):
        for code in range(1, 9):
            (sounds / f"03-01-{code:02d}-01-01-01-{actor:02d}.opus").write_bytes(b"sound")
    for split in ("train", "dev"):
        write_lines(data / "text" / "meld", split)
    out = tmp_path_factory.mktemp("out")
    arguments = ["triples", "--data", str(data), "--out", str(out), "--per-class", "30"]
    assert main(arguments) == 0
    assert main(arguments) == 2  # nothing is written over
    assert "class-matched" in read_config(out / "config.toml").bundle.licence_notice
    return read_index(Path(read_config(out / "config.toml").data.index), tasks={"emotion": None})


def test_all_three_have_the_class_of_the_row(index: Index) -> None:
    labels = index.tasks[0].labels
    codes = {"neutral": {"01", "02"}, "happy": {"03"}, "sad": {"04"}, "angry": {"05"},
             "fear": {"06"}, "disgust": {"07"}, "surprise": {"08"}}  # fmt: skip
    of_face = list(FERPLUS.values())
    for row in index.examples:
        name = labels[int(row.labels["emotion"])]
        assert row.audio is not None
        assert row.text is not None
        picture = cv2.imread(str(row.video), cv2.IMREAD_GRAYSCALE)
        assert picture is not None
        shade = int(picture[100, 100]) - (120 if row.split == "test" else 20)
        assert of_face[shade // 10] == name
        assert row.audio.name.split("-")[2] in codes[name]
        assert MELD[row.text.split()[-1]] == name


def test_splits_share_neither_voices_nor_faces_nor_dialogues(index: Index) -> None:
    actors = {"train": range(1, 15), "validation": range(15, 17), "test": range(17, 21)}
    seen: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        rows = index.of(split)
        assert {row.speaker for row in rows} == {f"ravdess-{actor:02d}" for actor in actors[split]}
        seen[split] = {str(row.video) for row in rows}
        seen[split] |= {str(row.text).rsplit(" ", 1)[0] for row in rows}
        per_class = {len(rows) / len(EMOTION)}
        assert per_class == {{"train": 30, "validation": 40, "test": 60}[split]}
    assert not seen["train"] & seen["validation"]
    assert not (seen["train"] | seen["validation"]) & seen["test"]
    assert split_index(index) == index


def test_each_is_drawn_as_often_as_any_other(index: Index) -> None:
    """30 triples of a class from 18 lines: each once or twice."""
    rows = [row for row in index.of("train") if row.id.startswith("train-happy-")]
    counts = [sum(other.text == row.text for other in rows) for row in rows]
    assert set(counts) == {1, 2}
    assert len({row.text for row in rows}) == 18
