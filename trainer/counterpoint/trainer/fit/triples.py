"""``counterpoint-trainer triples``: what the textbook model learns from.

A face of FER+, a voice of RAVDESS and a line of MELD with the same emotion, of three different
people: class-matched triples. They are not aligned recordings, and nothing of time can be learned
from them. A row's speaker is its voice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.random import Generator

from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import UInt8Array
from counterpoint.trainer.affect.sets import Row, save_face, write_rows
from counterpoint.trainer.data.ferplus import read_ferplus
from counterpoint.trainer.data.index import Split
from counterpoint.trainer.data.speech import CALIBRATION, RAVDESS_VALIDATION, Clip, list_ravdess
from counterpoint.trainer.data.text import TextLine, read_meld
from counterpoint.trainer.fit.init import CONFIG, TEXTBOOK
from counterpoint.trainer.labels import EMOTION, SENTIMENT

PER_CLASS: Final = 300
_HELD: Final[dict[Split, int]] = {"validation": 40, "test": 60}
_PART: Final = 10
"""Of the training files every tenth picture and dialogue is validation."""


_NOTICE: Final = (
    "Learned from class-matched triples (no aligned recordings) of FER+ (research use), RAVDESS "
    "(CC BY-NC-SA 4.0) and MELD (GPL-3.0): non-commercial research only."
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pool:
    """What triples of one split are drawn from.

    Fields:
        name: of the set's file, for the names of pictures.
        images: (N, 48, 48).
        emotions: (N,) of the images; -1: not of this split.
    """

    name: str
    images: UInt8Array
    emotions: np.ndarray
    clips: Sequence[Clip]
    lines: Sequence[TextLine]


def write_triples(data: Path, out: Path, *, per_class: int = 0, seed: int = 0) -> Path:
    """Write ``index.csv``, the faces, and the textbook configuration beside them.

    train and validation are of the sets' training files (every tenth picture and dialogue is
    validation) and of RAVDESS' actors 1 to 14, and 15 and 16; test is of the sets' own validation
    files and of actors 17 to 20. So whatever chooses epochs or temperatures does so on
    validation, and test is neither learned from nor chosen by.

    Args:
        per_class: triples of each class in train; 0: `PER_CLASS`.

    Returns:
        the configuration.

    Raises:
        UsageError: a set is missing below ``data``, or a configuration is there already.
    """
    if (out / CONFIG).exists():
        raise UsageError(f"{out / CONFIG} is there already; take another folder")
    random, rows = np.random.default_rng(seed), list[Row]()
    wanted: dict[Split, int] = {"train": per_class or PER_CLASS, **_HELD}
    for split, pool in _pools(data.resolve()).items():
        for emotion in range(len(EMOTION)):
            rows += _triples(pool, split, emotion, wanted[split], out, random)
    write_rows(out, rows)
    text = TEXTBOOK.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^licence_notice = .*$", f'licence_notice = "{_NOTICE}"', text)
    (out / CONFIG).write_text(text, encoding="utf-8")
    return out / CONFIG


def _pools(data: Path) -> dict[Split, _Pool]:
    learned, kept = read_ferplus(data, "Train"), read_ferplus(data, "Valid")
    clips = list_ravdess(data)
    held = {clip.speaker for clip in clips} & (CALIBRATION | RAVDESS_VALIDATION)
    lines = [line for line in read_meld(data, "train") if line.text]
    groups = list(dict.fromkeys(line.group for line in lines))
    apart = set(groups[::_PART])
    own = np.arange(len(learned.hard)) % _PART == 0
    return {
        "train": _Pool(
            name="train",
            images=learned.images,
            emotions=np.where(own, -1, learned.hard),
            clips=[clip for clip in clips if clip.speaker not in held],
            lines=[line for line in lines if line.group not in apart],
        ),
        "validation": _Pool(
            name="train",
            images=learned.images,
            emotions=np.where(own, learned.hard, -1),
            clips=[clip for clip in clips if clip.speaker in CALIBRATION],
            lines=[line for line in lines if line.group in apart],
        ),
        "test": _Pool(
            name="valid",
            images=kept.images,
            emotions=kept.hard,
            clips=[clip for clip in clips if clip.speaker in RAVDESS_VALIDATION],
            lines=[line for line in read_meld(data, "dev") if line.text],
        ),
    }


def _triples(
    pool: _Pool, split: Split, emotion: int, wanted: int, out: Path, random: Generator
) -> list[Row]:
    faces = np.flatnonzero(pool.emotions == emotion)
    voices = np.flatnonzero([clip.emotion == emotion for clip in pool.clips])
    said = np.flatnonzero([line.emotion == (emotion,) for line in pool.lines])
    rows: list[Row] = []
    drawn = (_drawn(some, wanted, random) for some in (faces, voices, said))
    for number, (face, voice, words) in enumerate(zip(*drawn, strict=True)):
        picture = f"faces/{pool.name}-{face}.png"
        if not (out / picture).exists():
            save_face(out / picture, pool.images[face])
        clip, line = pool.clips[voice], pool.lines[words]
        rows.append(
            (f"{split}-{EMOTION[emotion]}-{number}", picture, str(clip.path), line.text,
             "\n".join(line.before), clip.speaker, split, EMOTION[emotion],
             SENTIMENT[line.sentiment])
        )  # fmt: skip
    return rows


def _drawn(some: np.ndarray, wanted: int, random: Generator) -> list[int]:
    """So many of them, each as often as any other, give or take one."""
    turns = -(-wanted // len(some))
    order = np.concatenate([random.permutation(some) for _ in range(turns)])
    chosen: list[int] = order[:wanted].tolist()
    return chosen
