"""People's own data: a table of recordings, texts, speakers and labels (docs/datasets.md).

A row is one example. Whatever is wrong with the table is said with its row and column before
anything is decoded. Rows count as a spreadsheet shows them: the header is row 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from counterpoint.streams.errors import UsageError
from counterpoint.trainer.data.table import read_table

Split: TypeAlias = Literal["train", "validation", "test"]
Kind: TypeAlias = Literal["classes", "number"]

SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")
MEDIA: Final = ("video", "audio")
MODALITIES: Final = ("video", "audio", "text")
LABEL: Final = "label:"
_COLUMNS: Final = ("id", *MODALITIES, "before", "start_s", "end_s", "speaker", "split")
_SHOWN: Final = 5


class DatasetError(UsageError):
    """A table that cannot be trained on or scored: row, column, what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is predicted.

    Fields:
        name: what follows ``label:`` in the column's name.
        labels: names of the classes in the order of the head's logits; empty for a number.
    """

    name: str
    labels: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        return "classes" if self.labels else "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row.

    Fields:
        row: its number in the table, the header being 1.
        id: unlike that of any other row.
        video: a picture or a video file that is there; None where there is none.
        audio: a sound file (or a video with sound) that is there; None where there is none.
        text: the words themselves, read already; None where there are none.
        before: the lines of text said before ``text``, from the oldest to the newest; empty where
            the table has none.
        start_ns, end_ns: the part of ``video`` and ``audio`` that is meant; end None: to the end.
        speaker: who is seen, heard or writes; None where the table does not say.
        split: None before `split_index`.
        labels: by task, the position in ``Task.labels`` or a number; a task that is not in it has
            no label here and does not count.
    """

    row: int
    id: str
    video: Path | None
    audio: Path | None
    text: str | None
    before: tuple[str, ...] = ()
    start_ns: int
    end_ns: int | None
    speaker: str | None
    split: Split | None
    labels: Mapping[str, int | float]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of `MODALITIES` that this row has."""
        return tuple(name for name in MODALITIES if getattr(self, name) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A table as read: examples in the table's order, tasks in the order of its columns."""

    path: Path
    examples: tuple[Example, ...]
    tasks: tuple[Task, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of `MODALITIES` that at least one row has."""
        return tuple(
            name for name in MODALITIES if any(name in row.modalities for row in self.examples)
        )

    def of(self, *splits: Split) -> tuple[Example, ...]:
        """The examples of these splits."""
        return tuple(example for example in self.examples if example.split in splits)


def read_index(
    path: Path, *, tasks: Mapping[str, Sequence[str] | Kind | None] | None = None
) -> Index:
    """Read and check a table.

    Args:
        path: ``.csv`` (UTF-8, commas, quoted as in RFC 4180) or ``.parquet``.
        tasks: only these tasks, in this order. A sequence of names says which classes there are
            and in which order; ``"classes"`` and ``"number"`` say how to read a column; None
            leaves it to the column: numbers where all its values are numbers, else classes in
            alphabetical order. By default all columns ``label:…``, each left to itself.

    Raises:
        DatasetError: naming row and column.
    """
    columns, rows = read_table(path)
    found = [name.removeprefix(LABEL) for name in columns if name.startswith(LABEL)]
    _check_columns(path, columns, found)
    chosen = dict.fromkeys(found) if tasks is None else dict(tasks)
    for name in chosen:
        if name not in found:
            raise DatasetError(f"{path}: there is no column '{LABEL}{name}'")
    if not rows:
        raise DatasetError(f"{path}: the table has no rows")
    problems = _Problems(path)
    read = tuple(
        _task(name, wanted, [row.get(LABEL + name, "") for row in rows], problems)
        for name, wanted in chosen.items()
    )
    examples = tuple(
        _example(number, row, read, problems) for number, row in enumerate(rows, start=2)
    )
    _check_ids(examples, problems)
    _check_splits_given(examples, problems)
    problems.raise_if_any()
    return Index(path=path, examples=examples, tasks=read)


class _Problems:
    """What is wrong with a table, collected so that one reading shows more than one mistake."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[str] = []

    def add(self, row: int, column: str, what: str) -> None:
        self._found.append(f"row {row}, column {column!r}: {what}")

    def raise_if_any(self) -> None:
        if self._found:
            more = len(self._found) - _SHOWN
            tail = f"; and {more} more" if more > 0 else ""
            raise DatasetError(f"{self.path}: {'; '.join(self._found[:_SHOWN])}{tail}")


def _check_columns(path: Path, columns: Sequence[str], tasks: Sequence[str]) -> None:
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled:
        raise DatasetError(f"{path}: column {doubled[0]!r} is there twice")
    for name in columns:
        if name not in _COLUMNS and not (name.startswith(LABEL) and len(name) > len(LABEL)):
            raise DatasetError(
                f"{path}: unknown column {name!r}; there are {', '.join(_COLUMNS)} and "
                f"'{LABEL}TASK'"
            )
    if "id" not in columns:
        raise DatasetError(f"{path}: column 'id' is missing")
    if not any(name in columns for name in MODALITIES):
        raise DatasetError(f"{path}: one of the columns {', '.join(MODALITIES)} is needed")
    if not tasks:
        raise DatasetError(f"{path}: a column '{LABEL}TASK' is needed, such as '{LABEL}mood'")


def _task(
    name: str, wanted: Sequence[str] | Kind | None, values: Sequence[str], problems: _Problems
) -> Task:
    column = LABEL + name
    given = [(row, value) for row, value in enumerate(values, start=2) if value]
    if not given:
        raise DatasetError(f"{problems.path}: column {column!r} has no label in any row")
    if not isinstance(wanted, str) and wanted is not None:
        return Task(name=name, labels=tuple(wanted))
    if wanted is None:
        names = [row for row, value in given if _number(value) is None]
        wanted = "classes" if names else "number"
        if names and len(names) < len(given):
            problems.add(
                names[0],
                column,
                "a name where other rows have numbers; say in the configuration whether the "
                "task is 'classes' or a 'number'",
            )
    if wanted == "number":
        return Task(name=name)
    labels = tuple(sorted({value for _, value in given}))
    if len(labels) < 2:
        raise DatasetError(
            f"{problems.path}: column {column!r} has only the class {labels[0]!r}; "
            "there must be two or more"
        )
    return Task(name=name, labels=labels)


def _example(
    number: int, row: Mapping[str, str], tasks: Iterable[Task], problems: _Problems
) -> Example:
    if not row.get("id"):
        problems.add(number, "id", "is empty")
    media = {name: _file(number, name, row.get(name, ""), problems) for name in MEDIA}
    text = _text(number, "text", row.get("text", ""), problems)
    if text is None and not any(row.get(name) for name in MEDIA):
        problems.add(number, "/".join(MODALITIES), "all empty; a row needs at least one")
    before = _text(number, "before", row.get("before", ""), problems)
    if before is not None and text is None:
        problems.add(number, "before", "is before no text; give the column 'text', too")
    start, end = _span(number, row, problems)
    labels: dict[str, int | float] = {}
    for task in tasks:
        if value := row.get(LABEL + task.name, ""):
            label = _label(number, task, value, problems)
            if label is not None:
                labels[task.name] = label
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        problems.add(number, "split", f"must be one of {', '.join(SPLITS)}, not {split!r}")
    return Example(
        row=number,
        id=row.get("id", ""),
        video=media["video"],
        audio=media["audio"],
        text=text,
        before=tuple(line for line in (before or "").splitlines() if line.strip()),
        start_ns=start,
        end_ns=end,
        speaker=row.get("speaker") or None,
        split=next((name for name in SPLITS if name == split), None),
        labels=labels,
    )


def _label(number: int, task: Task, value: str, problems: _Problems) -> int | float | None:
    if task.kind == "number":
        found = _number(value)
        if found is None:
            problems.add(number, LABEL + task.name, f"must be a finite number, not {value!r}")
        return found
    if value not in task.labels:
        problems.add(
            number, LABEL + task.name, f"unknown class {value!r}; there are {list(task.labels)}"
        )
        return None
    return task.labels.index(value)


def _file(number: int, column: str, value: str, problems: _Problems) -> Path | None:
    if not value:
        return None
    path = problems.path.parent / value
    if not path.is_file():
        problems.add(number, column, f"there is no file {path}")
    return path


def _text(number: int, column: str, value: str, problems: _Problems) -> str | None:
    """Words, or where the value is a name that ends in ``.txt``, what stands in that file."""
    if not value.strip():
        return None
    if not value.endswith(".txt") or "\n" in value:
        return value
    path = _file(number, column, value, problems)
    if path is None or not path.is_file():
        return value
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        problems.add(number, column, f"{path} is not UTF-8")
        return value


def _span(number: int, row: Mapping[str, str], problems: _Problems) -> tuple[int, int | None]:
    found: dict[str, float | None] = {}
    for column in ("start_s", "end_s"):
        value = row.get(column, "")
        found[column] = _number(value) if value else None
        if value and (found[column] is None or (found[column] or 0.0) < 0):
            problems.add(number, column, f"must be a number of seconds >= 0, not {value!r}")
    start, end = found["start_s"] or 0.0, found["end_s"]
    if end is not None and end <= start:
        problems.add(number, "end_s", f"must be after start_s ({start} s), not {end} s")
    return round(start * 1e9), None if end is None else round(end * 1e9)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _check_ids(examples: Iterable[Example], problems: _Problems) -> None:
    first: dict[str, int] = {}
    for example in examples:
        if example.id and first.setdefault(example.id, example.row) != example.row:
            problems.add(
                example.row, "id", f"{example.id!r} is the id of row {first[example.id]} already"
            )


def _check_splits_given(examples: Sequence[Example], problems: _Problems) -> None:
    given = [example for example in examples if example.split is not None]
    if given and len(given) < len(examples):
        empty = next(example for example in examples if example.split is None)
        problems.add(empty.row, "split", "is empty where other rows have one; give all or none")
    seen: dict[str, Example] = {}
    for example in given:
        if example.speaker is None:
            continue
        other = seen.setdefault(example.speaker, example)
        if other.split != example.split:
            problems.add(
                example.row,
                "speaker",
                f"{example.speaker!r} is in split {example.split!r} here and in "
                f"{other.split!r} in row {other.row}; a speaker must be in one split only",
            )


def with_splits(index: Index, split_of: Mapping[str, Split]) -> Index:
    """The index with each example's split by its id."""
    return replace(
        index,
        examples=tuple(replace(row, split=split_of[row.id]) for row in index.examples),
    )
