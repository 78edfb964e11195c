"""A table of words from CSV or Parquet: column names, and rows of stripped strings."""

from __future__ import annotations

import csv
import importlib
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from counterpoint.streams.errors import UnavailableError, UsageError


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows; an empty cell is an empty string.

    Raises:
        UsageError: no such file, or it is no table.
        UnavailableError: Parquet, and pyarrow is not installed.
    """
    if not path.is_file():
        raise UsageError(f"there is no index {path}")
    match path.suffix.lower():
        case ".csv":
            return _read_csv(path)
        case ".parquet":
            return _read_parquet(path)
    raise UsageError(f"{path}: an index is a .csv or a .parquet file")


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = list(csv.reader(file, strict=True))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 (byte {error.start})") from error
    except csv.Error as error:
        raise UsageError(f"{path}: is no CSV: {error}") from error
    if not table or not any(table[0]):
        raise UsageError(f"{path}: row 1 must have the columns' names")
    columns = [name.strip() for name in table[0]]
    rows = []
    for number, cells in enumerate(table[1:], start=2):
        if len(cells) != len(columns):
            raise UsageError(
                f"{path}: row {number} has {len(cells)} cells, the header has {len(columns)}; "
                "a text with a comma needs double quotes around it"
            )
        rows.append(_row(columns, cells))
    return columns, rows


def _read_parquet(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UnavailableError(
            f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or save it as .csv"
        ) from error
    try:
        table = parquet.read_table(str(path))
    except (OSError, ValueError) as error:  # pyarrow's own errors are kinds of these
        raise UsageError(f"{path}: is no Parquet: {error}") from error
    columns = [str(name) for name in table.column_names]
    cells = [column.to_pylist() for column in table.columns]
    rows = []
    for number, values in enumerate(zip(*cells, strict=True), start=2):
        try:
            rows.append(_row(columns, [_spelled(value) for value in values]))
        except TypeError as error:
            raise UsageError(f"{path}: row {number}: {error}") from error
    return columns, rows


def _spelled(value: object) -> str:
    """As a CSV would have it. Numbers with gaps come as floating point: 1.0 is the class 1."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float | Decimal):
        return str(value)
    raise TypeError(f"a cell must be text or a number, not {type(value).__name__}")


def _row(columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    return {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
