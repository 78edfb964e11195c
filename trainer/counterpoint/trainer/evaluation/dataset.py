"""An index as a bundle's heads need it: their labels, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from counterpoint.engine.bundle import Bundle
from counterpoint.trainer.data.index import LABEL, DatasetError, Example, Split, read_index
from counterpoint.trainer.data.table import read_table


def read_for(bundle: Bundle, path: Path, splits: Sequence[Split]) -> tuple[Example, ...]:
    """The rows of these splits (of all, where none is named) with a label of any head.

    Raises:
        DatasetError: no column is a head of the bundle, a label is none of its classes (naming
            row and column), or no row is left.
    """
    heads = bundle.manifest.heads
    _, rows = read_table(path)
    tasks = {
        name: spec.labels
        for name, spec in heads.items()
        if any(row.get(LABEL + name) for row in rows)
    }
    if not tasks:
        wanted = ", ".join(f"'{LABEL}{name}'" for name in heads)
        raise DatasetError(
            f"{path}: no row has a label in any of the columns {wanted} of bundle "
            f"{bundle.manifest.id}"
        )
    index = read_index(path, tasks=tasks)
    chosen = index.of(*splits) if splits else index.examples
    labelled = tuple(example for example in chosen if example.labels)
    if not labelled:
        which = f" of split {', '.join(splits)}" if splits else ""
        raise DatasetError(f"{path}: no row{which} has a label of {', '.join(tasks)}")
    return labelled
