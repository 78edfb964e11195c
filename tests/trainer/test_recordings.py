"""Readers of GRID, RAVDESS' action units and TweetEval's emotions, on sets made here."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.streams.errors import UsageError
from counterpoint.trainer.data.recordings import (
    TWEET_EMOTIONS,
    list_grid,
    read_action_units,
    read_tweeteval_emotion,
)

pytestmark = pytest.mark.trainer

ALIGN = "0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 35500 at\n35500 41000 f\n"
END = "41000 47250 two\n47250 47300 sp\n47300 53000 now\n53000 74500 sil\n"


def make_grid(data: Path, align: str) -> None:
    for name in ("clips", "align"):
        (data / "grid_s1" / name).mkdir(parents=True)
    (data / "grid_s1" / "clips" / "bbaf2n.mp4").write_bytes(b"")
    (data / "grid_s1" / "align" / "bbaf2n.align").write_text(align)


def test_the_words_of_grid_have_their_times(tmp_path: Path) -> None:
    make_grid(tmp_path, ALIGN + END)
    (clip,) = list_grid(tmp_path)
    assert (clip.word("colour").text, clip.word("digit").text) == ("blue", "two")
    assert clip.word("digit").start_ns == 1_640_000_000
    assert clip.word("adverb").end_ns == 2_120_000_000


def test_a_clip_of_grid_with_another_number_of_words_is_refused(tmp_path: Path) -> None:
    make_grid(tmp_path, ALIGN)
    with pytest.raises(UsageError, match=r"bbaf2n\.align: 4 words, not 6"):
        list_grid(tmp_path)


def test_action_units_stand_beside_the_sound_of_their_take(tmp_path: Path) -> None:
    sounds = tmp_path / "ravdess_speech" / "audio"
    sounds.mkdir(parents=True)
    for name in ("03-01-05-01-01-02-08", "03-01-03-01-01-02-09"):
        (sounds / f"{name}.opus").write_bytes(b"")
    folder = tmp_path / "ravdess_av_features"
    folder.mkdir()
    table = folder / "openface_action_units_mean.csv"
    rows = "AU01_r,AU01_c,name\n0.5,1,01-01-05-01-01-02-08\n0.25,0,01-01-03-01-01-02-09\n"
    table.write_text(rows)
    units = read_action_units(tmp_path)
    assert units.names == ("AU01_r", "AU01_c")
    assert [clip.speaker for clip in units.clips] == ["ravdess-09", "ravdess-08"]
    assert units.values.tolist() == [[0.25, 0], [0.5, 1]]
    table.write_text(rows + "0,0,01-01-03-01-01-02-10\n")
    with pytest.raises(UsageError, match="there is no sound of 01-01-03-01-01-02-10"):
        read_action_units(tmp_path)


def test_tweets_with_their_emotions(tmp_path: Path) -> None:
    folder = tmp_path / "text" / "tweeteval_emotion"
    folder.mkdir(parents=True)
    (folder / "val_text.txt").write_text("Worry  is bad\nSo happy\n", encoding="utf-8")
    (folder / "val_labels.txt").write_text("2\n1\n")
    found = read_tweeteval_emotion(tmp_path, "val")
    assert [(text, TWEET_EMOTIONS[label]) for text, label in found] == [
        ("Worry is bad", "optimism"),
        ("So happy", "joy"),
    ]
    with pytest.raises(UsageError, match="train_text"):
        read_tweeteval_emotion(tmp_path, "train")
