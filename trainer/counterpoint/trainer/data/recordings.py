"""Sets for studies of single questions: GRID's aligned words, faces' action units of RAVDESS, and
TweetEval's emotions.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from counterpoint.engine.preprocess.text import normalise
from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.data.files import need
from counterpoint.trainer.data.speech import Clip, list_ravdess

GRID_FIELDS: Final = ("command", "colour", "preposition", "letter", "digit", "adverb")

TWEET_EMOTIONS: Final = ("anger", "joy", "optimism", "sadness")

_ALIGN_RATE: Final = 25_000
_PAUSES: Final = ("sil", "sp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word that is said: when it begins and ends in its clip."""

    text: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GridClip:
    """A clip of GRID (Cooke et al. 2006): face and voice of one moment.

    Fields:
        path: MP4.
        words: six, in the order of `GRID_FIELDS`.
    """

    path: Path
    words: tuple[Word, ...]

    def word(self, field: str) -> Word:
        """The word of one of `GRID_FIELDS`."""
        return self.words[GRID_FIELDS.index(field)]


def list_grid(data: Path) -> list[GridClip]:
    """The clips of GRID's speaker 1 with the times of their words, by name.

    Raises:
        UsageError: the set or an alignment is missing, or has another number of words.
    """
    folder = need(data / "grid_s1" / "clips", "GRID")
    clips = []
    for path in sorted(folder.glob("*.mp4")):
        align = need(folder.parent / "align" / f"{path.stem}.align", "GRID")
        rows = [line.split() for line in align.read_text().splitlines() if line.strip()]
        words = tuple(
            Word(text=text, start_ns=_instant(start), end_ns=_instant(end))
            for start, end, text in rows
            if text not in _PAUSES
        )
        if len(words) != len(GRID_FIELDS):
            raise UsageError(f"{align}: {len(words)} words, not {len(GRID_FIELDS)}")
        clips.append(GridClip(path=path, words=words))
    return clips


def _instant(units: str) -> int:
    return int(units) * 1_000_000_000 // _ALIGN_RATE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActionUnits:
    """Mean facial action units of RAVDESS' recordings, each beside its sound.

    Fields:
        names: 35 of OpenFace: intensities ``AU01_r`` …, presences ``AU01_c`` ….
        clips: N recordings, as `list_ravdess` has them.
        values: (N, 35) float32.
    """

    names: tuple[str, ...]
    clips: tuple[Clip, ...]
    values: Float32Array


def read_action_units(data: Path) -> ActionUnits:
    """Action units (Luna-Jiménez 2022) and the sound of the same takes.

    A take's name differs in its first field only, the modality.

    Raises:
        UsageError: the table or a take's sound is missing.
    """
    path = need(
        data / "ravdess_av_features" / "openface_action_units_mean.csv", "RAVDESS action units"
    )
    with path.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["name"])
    names = tuple(name for name in rows[0] if name != "name")
    sounds = {clip.path.stem[3:]: clip for clip in list_ravdess(data)}
    missing = [row["name"] for row in rows if row["name"][3:] not in sounds]
    if missing:
        raise UsageError(
            f"{path}: there is no sound of {missing[0]}, nor of {len(missing) - 1} more"
        )
    return ActionUnits(
        names=names,
        clips=tuple(sounds[row["name"][3:]] for row in rows),
        values=np.array([[float(row[name]) for name in names] for row in rows], np.float32),
    )


def read_tweeteval_emotion(data: Path, split: str) -> list[tuple[str, int]]:
    """TweetEval emotion (Barbieri et al. 2020), ``train`` or ``val``: normalised text, and the
    position of its class in `TWEET_EMOTIONS`.

    Raises:
        UsageError: the set is missing.
    """
    folder = need(data / "text" / "tweeteval_emotion", "TweetEval emotion")
    texts = need(folder / f"{split}_text.txt", "TweetEval").read_text(encoding="utf-8").split("\n")
    labels = need(folder / f"{split}_labels.txt", "TweetEval").read_text().split()
    return [
        (normalise(text), int(label))
        for text, label in zip(texts[: len(labels)], labels, strict=True)
    ]
