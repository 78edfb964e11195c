"""``counterpoint-trainer index SET``: sets that the bundle affect can be evaluated on, as indexes.

Media stay where they are and are named by their paths; only pictures of FER+, which come as
mosaics, are cut out into the folder of the index. Rows are of held-out speakers and of validation
files alone.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import cv2
import numpy as np

from counterpoint.streams.types import UInt8Array
from counterpoint.trainer.data.ferplus import read_ferplus
from counterpoint.trainer.data.files import need
from counterpoint.trainer.data.speech import RAVDESS_VALIDATION, Clip, list_ravdess
from counterpoint.trainer.data.text import TextLine, read_meld
from counterpoint.trainer.labels import EMOTION, SENTIMENT

COLUMNS: Final = (
    "id", "video", "audio", "text", "before", "speaker", "split", "label:emotion",
    "label:sentiment",
)  # fmt: skip
GRID_CLIPS: Final = 60
MATCHED_PER_CLASS: Final = 20
_ENLARGED: Final = 4
_BORDER: Final = 0.25

Row: TypeAlias = tuple[str, str, str, str, str, str, str, str, str]


def run_index(options: argparse.Namespace) -> None:
    """Write ``index.csv`` into the folder ``--out``.

    Raises:
        UsageError: a set is missing below ``--data``.
    """
    rows = SETS[options.set](options.data.resolve(), options.out)
    path = write_rows(options.out, rows)
    print(f"{path}: {len(rows)} rows")


def write_rows(out: Path, rows: Sequence[Row]) -> Path:
    """``out``/index.csv."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "index.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(rows)
    return path


def ravdess(data: Path, _: Path) -> list[Row]:
    """Speech of RAVDESS' actors 17 to 20: sound with an emotion."""
    return [
        (clip.path.stem, "", str(clip.path), "", "", clip.speaker, "validation",
         EMOTION[clip.emotion], "")
        for clip in _spoken(data)
    ]  # fmt: skip


def meld(data: Path, _: Path) -> list[Row]:
    """MELD's dev file: lines with an emotion and a sentiment, by character, each with the lines of
    its dialogue before it."""
    path = need(data / "text" / "meld" / "dev_sent_emo.csv", "MELD")
    with path.open(newline="", encoding="utf-8") as file:
        speakers = [row["Speaker"] for row in csv.DictReader(file)]
    return [
        (f"meld-{number}", "", "", line.text, "\n".join(line.before), speaker, "validation",
         EMOTION[line.emotion[0]], SENTIMENT[line.sentiment])
        for number, (line, speaker) in enumerate(
            zip(read_meld(data, "dev"), speakers, strict=True), start=1
        )
        if line.text
    ]  # fmt: skip


def grid(data: Path, _: Path) -> list[Row]:
    """GRID's clips: picture and sound of one moment, and the words said as text.

    GRID has no emotions: somebody reads commands. Its rows are called neutral here, by us.
    """
    folder = need(data / "grid_s1" / "clips", "GRID")
    clips = sorted(folder.glob("*.mp4"))
    chosen = clips[:: max(1, len(clips) // GRID_CLIPS)][:GRID_CLIPS]
    rows = []
    for path in chosen:
        words = (folder.parent / "align" / f"{path.stem}.align").read_text().split()[2::3]
        said = " ".join(word for word in words if word not in ("sil", "sp"))
        rows.append(_neutral(f"grid-s1-{path.stem}", path, said, "grid-s1"))
    others = sorted(need(data / "clips", "GRID").glob("*.mpg"))
    return rows + [_neutral(path.stem, path, "", path.stem) for path in others]


def matched(data: Path, out: Path) -> list[Row]:
    """A face, a voice and a line of the same class, of three different people: no real moment.

    Shows how evidence adds up over all classes, through faces found, voices detected and lines
    encoded, each as in a session.
    """
    random = np.random.default_rng(0)
    faces, clips = read_ferplus(data, "Valid"), _spoken(data)
    lines = [line for line in read_meld(data, "dev") if line.text]
    rows: list[Row] = []
    for place, name in enumerate(EMOTION):
        pictures = _drawn(np.flatnonzero(faces.hard == place), random)
        voices = _drawn([at for at, clip in enumerate(clips) if clip.emotion == place], random)
        written = _drawn([at for at, line in enumerate(lines) if line.emotion == (place,)], random)
        for number, (face, voice, line) in enumerate(zip(pictures, voices, written, strict=True)):
            picture = out / "faces" / f"{name}-{number}.png"
            save_face(picture, faces.images[face])
            rows.append(_triple(f"{name}-{number}", picture, clips[voice], lines[line]))
    return rows


def save_face(path: Path, face: UInt8Array) -> None:
    """A face of 48 x 48 as a picture in which a face can be looked for: larger, with a border."""
    large = cv2.resize(face, None, fx=_ENLARGED, fy=_ENLARGED, interpolation=cv2.INTER_CUBIC)
    width = int(large.shape[0] * _BORDER)
    framed = cv2.copyMakeBorder(large, width, width, width, width, cv2.BORDER_REPLICATE)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), framed)


def _triple(name: str, picture: Path, clip: Clip, line: TextLine) -> Row:
    return (
        name, f"faces/{picture.name}", str(clip.path), line.text, "\n".join(line.before),
        clip.speaker, "validation", EMOTION[clip.emotion], SENTIMENT[line.sentiment],
    )  # fmt: skip


def _neutral(name: str, path: Path, said: str, speaker: str) -> Row:
    return (name, str(path), str(path), said, "", speaker, "validation", "neutral", "neutral")


def _spoken(data: Path) -> list[Clip]:
    return [clip for clip in list_ravdess(data) if clip.speaker in RAVDESS_VALIDATION]


def _drawn(rows: Sequence[int] | np.ndarray, random: np.random.Generator) -> list[int]:
    """`MATCHED_PER_CLASS` of them; some twice where there are fewer."""
    several = len(rows) < MATCHED_PER_CLASS
    chosen: list[int] = random.choice(np.asarray(rows), MATCHED_PER_CLASS, replace=several).tolist()
    return chosen


SETS: Final[dict[str, Callable[[Path, Path], list[Row]]]] = {
    "ravdess": ravdess,
    "meld": meld,
    "grid": grid,
    "matched": matched,
}
