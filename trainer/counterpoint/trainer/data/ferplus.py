"""FER+ (Barsoum et al. 2016, arXiv:1608.01041): grey faces with the votes of ten annotators.

Stored as lossless mosaics of 48×48 pictures, 60 columns, row by row, 6,000 a file.

How votes become labels:
    * Pictures named in ``duplicates_to_drop.csv`` are left out of both splits.
    * Only the seven emotions of the bundle are classes. Contempt, "unknown" and "NF" (no face) are
      not: a picture for which one of these three got strictly more votes than every one of the
      seven is left out; otherwise their votes are ignored.
    * The hard label (majority vote) is the class of the seven with the most votes; a tie goes to
      the class that stands first in ``labels.EMOTION``.
    * The soft label for training is the share of votes over the seven, after single votes are
      removed as outliers (as the set's authors do) wherever another class has more than one.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from counterpoint.streams.types import Float32Array, UInt8Array
from counterpoint.trainer.data.files import need, read_grey_picture
from counterpoint.trainer.labels import EMOTION, FERPLUS, index_of

SIZE_PX = 48
PICTURES_A_FILE = 6_000
OUTSIDE = ("contempt", "unknown", "NF")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Faces:
    """One split.

    Fields:
        images: (N, 48, 48) uint8 grey.
        soft: (N, 7) float32, rows sum to 1.
        hard: (N,) int64 majority vote.
        left_out: how many pictures were left out, by reason.
    """

    images: UInt8Array
    soft: Float32Array
    hard: npt.NDArray[np.int64]
    left_out: dict[str, int]


def soft_labels(votes: npt.NDArray[np.int64]) -> Float32Array:
    """(N, 7) vote counts -> (N, 7) shares, single votes removed where another class has more."""
    kept = np.where((votes == 1) & (votes.max(axis=1, keepdims=True) > 1), 0, votes)
    shares: Float32Array = (kept / kept.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def read_ferplus(data: Path, split: str) -> Faces:
    """The split ``"Train"`` or ``"Valid"`` of ``data``/ferplus.

    Raises:
        UsageError: a file of the set is missing.
    """
    folder = need(data / "ferplus", "FER+")
    with need(folder / "duplicates_to_drop.csv", "FER+").open(newline="") as file:
        drop = {row["name"] for row in csv.DictReader(file) if row["split"] == split}
    with need(folder / f"FER2013{split}.labels.csv", "FER+").open(newline="") as file:
        rows = list(csv.DictReader(file))

    position = index_of(EMOTION, FERPLUS)
    votes = np.zeros((len(rows), len(EMOTION)), np.int64)
    for name, column in position.items():
        votes[:, column] = [int(row[name]) for row in rows]
    outside = np.array([max(int(row[name]) for name in OUTSIDE) for row in rows])
    duplicate = np.array([row["name"] in drop for row in rows])
    other = ~duplicate & (outside > votes.max(axis=1))
    keep = np.flatnonzero(~duplicate & ~other)

    files = sorted(folder.glob(f"FER2013{split}.*.png"))
    need(folder / f"FER2013{split}.{(len(rows) - 1) // PICTURES_A_FILE:02d}.png", "FER+")
    images = np.concatenate([_tiles(read_grey_picture(path)) for path in files])[: len(rows)]
    return Faces(
        images=images[keep],
        soft=soft_labels(votes[keep]),
        hard=votes[keep].argmax(axis=1),
        left_out={"duplicate": int(duplicate.sum()), "other_class": int(other.sum())},
    )


def _tiles(mosaic: UInt8Array) -> UInt8Array:
    """(rows * 48, columns * 48) -> (rows * columns, 48, 48), row by row."""
    rows, columns = mosaic.shape[0] // SIZE_PX, mosaic.shape[1] // SIZE_PX
    grid = mosaic.reshape(rows, SIZE_PX, columns, SIZE_PX)
    return grid.transpose(0, 2, 1, 3).reshape(rows * columns, SIZE_PX, SIZE_PX)
