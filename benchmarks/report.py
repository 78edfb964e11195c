"""A benchmark's result as a page to read: circumstances, tables, and the JSON document beneath."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers are set as they are given, None as a dash."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [_line(row, widths) for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return "–" if value is None else str(value)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"


def write_page(
    path: Path, title: str, parts: Sequence[str], document: Mapping[str, object]
) -> None:
    """Write the page; date, machine, versions, commit and command are taken from the document."""
    facts = [
        f"- {key}: {document[key]}" for key in ("date", "machine", "versions", "commit", "command")
    ]
    text = "\n\n".join([f"# {title}", "\n".join(facts), *parts])
    path.write_text(f"{text}\n\n```json\n{json.dumps(document)}\n```\n", encoding="utf-8")
