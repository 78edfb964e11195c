"""Training, validation and test: by speaker, or as the table says, or not at all.

A random split puts a speaker on both sides and reports figures that no new speaker reaches, so it
must be asked for by name.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from counterpoint.trainer.data.index import (
    LABEL,
    MEDIA,
    MODALITIES,
    SPLITS,
    DatasetError,
    Example,
    Index,
    Split,
    with_splits,
)
from counterpoint.trainer.data.table import read_table

_TRIES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Parts of the rows that validation and test shall have, roughly: speakers stay whole."""

    validation: float = 0.15
    test: float = 0.15

    def __post_init__(self) -> None:
        if not (self.validation > 0 and self.test >= 0 and self.validation + self.test < 1):
            raise ValueError(
                f"validation must be > 0, test >= 0 and both together < 1, not {self.validation} "
                f"and {self.test}"
            )


def split_index(
    index: Index, *, seed: int = 0, shares: Shares | None = None, allow_random: bool = False
) -> Index:
    """Give each example its split.

    Where the table has the column ``split``, that stands. Otherwise speakers are drawn, seeded,
    until each class has an example in train.

    Args:
        allow_random: where there is no column ``speaker``, draw rows instead.

    Raises:
        DatasetError: no speakers and no ``allow_random``; too few speakers; a class without an
            example in train; nothing to train on or to validate with.
    """
    if index.examples[0].split is None:
        index = _draw(index, seed, shares or Shares(), allow_random=allow_random)
    if (missing := untrained(index)) is not None:
        raise DatasetError(f"{index.path}: {missing}")
    for name in ("train", "validation"):
        if not any(example.split == name for example in index.examples):
            raise DatasetError(f"{index.path}: column 'split': no row has {name!r}")
    return index


def write_split(index: Index, path: Path) -> None:
    """The table again as CSV, with each row's split and with paths that hold anywhere.

    What was drawn for a fit can so be held apart by whatever scores or calibrates it.
    """
    columns, rows = read_table(index.path)
    columns = list(dict.fromkeys((*columns, "split")))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        for row, example in zip(rows, index.examples, strict=True):
            found: dict[str, str] = {"split": example.split or ""}
            for name in (*MODALITIES, "before"):
                value = row.get(name, "")
                named = value.endswith(".txt") and "\n" not in value
                if value and (name in MEDIA or named):
                    found[name] = str((index.path.parent / value).resolve())
            table.writerow({**row, **found})


def untrained(index: Index) -> str | None:
    """A class that has no example in train, in words that name its task (and a row with it)."""
    for task in index.tasks:
        labelled = [example for example in index.examples if task.name in example.labels]
        if not any(example.split == "train" for example in labelled):
            return f"column '{LABEL}{task.name}': no row of train has a label"
        for position, name in enumerate(task.labels):
            rows = [example for example in labelled if example.labels[task.name] == position]
            if not any(example.split == "train" for example in rows):
                where = f"in train (row {rows[0].row} is in {rows[0].split})" if rows else "at all"
                return f"column '{LABEL}{task.name}': class {name!r} has no example {where}"
    return None


def _draw(index: Index, seed: int, shares: Shares, *, allow_random: bool) -> Index:
    groups = _groups(index, allow_random=allow_random)
    wanted = 3 if shares.test else 2
    if len(groups) < wanted:
        raise DatasetError(
            f"{index.path}: {len(groups)} speakers cannot be split into {wanted} parts without "
            "one in two; add speakers, set the test share to 0, or give a column 'split'"
        )
    everything: dict[str, Split] = {example.id: "train" for example in index.examples}
    if (missing := untrained(with_splits(index, everything))) is not None:
        raise DatasetError(f"{index.path}: {missing}")
    for attempt in range(_TRIES):
        random = np.random.default_rng([seed, attempt])
        order = [groups[position] for position in random.permutation(len(groups))]
        drawn = with_splits(index, _assign(order, len(index.examples), shares))
        missing = untrained(drawn)
        if missing is None:
            return drawn
    raise DatasetError(f"{index.path}: no split by speaker found in {_TRIES} draws: {missing}")


def _groups(index: Index, *, allow_random: bool) -> list[list[Example]]:
    nameless = [example for example in index.examples if example.speaker is None]
    if nameless and not allow_random:
        raise DatasetError(
            f"{index.path}: row {nameless[0].row}, column 'speaker': is empty, and there is no "
            "column 'split'; a random split would put one speaker on both sides: name the "
            "speakers, give a column 'split', or allow it with data.allow_random_split = true"
        )
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in index.examples:
        key = ("row", example.id) if example.speaker is None else ("speaker", example.speaker)
        groups.setdefault(key, []).append(example)
    return [groups[key] for key in sorted(groups)]


def _assign(order: Sequence[list[Example]], rows: int, shares: Shares) -> dict[str, Split]:
    """The first groups to validation and test until their shares are filled, the rest to train."""
    targets: dict[Split, float] = {
        "validation": shares.validation * rows,
        "test": shares.test * rows,
    }
    filled: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    split_of: dict[str, Split] = {}
    for position, group in enumerate(order):
        left = len(order) - position
        name: Split = "train"
        for candidate, target in targets.items():
            # At least one group for each part that is wanted, and one for train.
            if target > 0 and left > 1 and filled[candidate] < max(1, target - len(group) / 2):
                name = candidate
                break
        filled[name] += len(group)
        split_of.update(dict.fromkeys((example.id for example in group), name))
    return split_of
