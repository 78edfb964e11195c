"""A report as blocks, written as Markdown with pictures beside it and as one HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells are plain text; what a data set wrote into them is shown as it is, never run."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An SVG with what it shows in words.

    Fields:
        name: of its file, without ``.svg``.
    """

    name: str
    alt: str
    svg: bytes


Block: TypeAlias = Heading | Paragraph | Table | Picture

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2b3a; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #d5dce3; padding: .3rem .7rem; text-align: left; }
td { font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
""".strip()


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """GitHub's Markdown; pictures are linked by their names."""
    parts = [f"# {_plain(title)}"]
    for block in blocks:
        match block:
            case Heading():
                parts.append(f"{'#' * block.level} {_plain(block.text)}")
            case Paragraph():
                parts.append(_plain(block.text))
            case Table():
                parts.append(_markdown_table(block))
            case Picture():
                parts.append(f"![{_plain(block.alt)}]({block.name}.svg)")
    return "\n\n".join(parts) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One file that needs nothing else, and runs nothing."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for block in blocks:
        match block:
            case Heading():
                parts.append(f"<h{block.level}>{html.escape(block.text)}</h{block.level}>")
            case Paragraph():
                parts.append(f"<p>{html.escape(block.text)}</p>")
            case Table():
                parts.append(_html_table(block))
            case Picture():
                data = base64.b64encode(block.svg).decode()
                parts.append(
                    f'<p><img alt="{html.escape(block.alt)}" '
                    f'src="data:image/svg+xml;base64,{data}"></p>'
                )
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown_table(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _plain(text: str) -> str:
    """``text`` so that Markdown shows it as it is, on one line."""
    marked = html.escape(" ".join(text.split()), quote=False)
    for mark in ("\\", "|", "`", "*", "_", "[", "]", "~"):
        marked = marked.replace(mark, "\\" + mark)
    return marked
