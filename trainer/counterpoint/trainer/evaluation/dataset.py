"""An index as a bundle's tasks need it: the labels of its heads, in their order, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from counterpoint.engine.bundle import Bundle
from counterpoint.trainer.data.index import LABEL, DatasetError, Example, Kind, Split, read_index
from counterpoint.trainer.data.table import read_table


def read_for(bundle: Bundle, path: Path, splits: Sequence[Split]) -> tuple[Example, ...]:
    """The rows of these splits (of all, where none is named) with a label of any task.

    Raises:
        DatasetError: no column is a task of the bundle, a label is none of its classes or no
            number (naming row and column), or no row is left.
    """
    wanted: dict[str, Sequence[str] | Kind | None] = {
        name: spec.labels for name, spec in bundle.manifest.heads.items()
    }
    for name in bundle.manifest.numbers:
        wanted[name] = "number"
    _, rows = read_table(path)
    tasks = {
        name: kind for name, kind in wanted.items() if any(row.get(LABEL + name) for row in rows)
    }
    if not tasks:
        columns = ", ".join(f"'{LABEL}{name}'" for name in wanted)
        raise DatasetError(
            f"{path}: no row has a label in any of the columns {columns} of bundle "
            f"{bundle.manifest.id}"
        )
    index = read_index(path, tasks=tasks)
    chosen = index.of(*splits) if splits else index.examples
    labelled = tuple(example for example in chosen if example.labels)
    if not labelled:
        which = f" of split {', '.join(splits)}" if splits else ""
        raise DatasetError(f"{path}: no row{which} has a label of {', '.join(tasks)}")
    return labelled
