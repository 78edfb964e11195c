"""``evaluate`` from an index to its report, with a bundle of random weights."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import csv
import html.parser
import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.trainer.cli import main
from counterpoint.trainer.evaluation.document import (
    Block,
    Heading,
    Paragraph,
    Table,
    to_html,
    to_markdown,
)
from tests.support.bundles import tiny_bundle
from tests.support.sessions import GRID_CLIP

pytestmark = pytest.mark.trainer

COLUMNS = (
    "id",
    "video",
    "audio",
    "text",
    "end_s",
    "speaker",
    "split",
    "label:emotion",
    "label:sentiment",
)
NOTE = "Made up <b>rows</b>."
NASTY = "<script>alert(1)</script> | `a`"


def write_index(
    path: Path, rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS
) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle").root


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = str(GRID_CLIP)
    return write_index(
        tmp_path_factory.mktemp("set") / "index.csv",
        [
            ["a", clip, clip, "so good", "0.5", "ann", "validation", "happy", "positive"],
            ["b", clip, clip, "bad", "0.5", "bob", "validation", "sad", ""],
            [NASTY, "", "", "i am sad", "", "cem", "validation", "sad", "negative"],
            ["d", "", "", "wow", "", "dan", "validation", "surprise", ""],
            ["e", "", "", "not scored", "", "eve", "train", "happy", "positive"],
            ["f", "", "", "no label of a head", "", "fay", "validation", "", ""],
        ],
    )


@pytest.fixture(scope="module")
def report(bundle: Path, index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    options = ["--split", "validation", "--out", str(out), "--resamples", "20"]
    options += ["--note", NOTE]
    assert main(["evaluate", str(bundle), str(index), *options]) == 0
    return out


def test_the_report_has_all_its_parts(report: Path) -> None:
    pictures = [
        f"{head}-{kind}.svg"
        for head in ("sentiment", "emotion")
        for kind in ("confusion", "reliability", "subsets")
    ]
    assert sorted(path.name for path in report.iterdir()) == sorted(
        [*pictures, "metrics.json", "predictions.csv", "report.html", "report.md"]
    )
    markdown = (report / "report.md").read_text()
    assert "\n\nMade up &lt;b&gt;rows&lt;/b&gt;.\n\n" in markdown
    assert "--note" in markdown
    for name in pictures:
        assert f"({name})" in markdown
        assert ET.parse(report / name).getroot().tag.endswith("svg")


def test_metrics_count_the_rows_that_have_a_label_in_the_split(report: Path) -> None:
    found = json.loads((report / "metrics.json").read_text())
    assert found["dataset"]["rows"] == 4
    emotion, sentiment = found["heads"]["emotion"], found["heads"]["sentiment"]
    assert (emotion["rows"], emotion["speakers"]) == (4, 4)
    assert (sentiment["rows"], sentiment["speakers"]) == (2, 2)
    assert sum(map(sum, emotion["confusion"])) == 4
    assert set(emotion["figures"]) == {"accuracy", "macro_recall", "macro_f1", "weighted_f1", "ece"}
    assert {mask: part["rows"] for mask, part in emotion["subsets"].items()} == {
        "001": 4, "010": 2, "011": 2, "100": 2, "101": 2, "110": 2, "111": 2,
    }  # fmt: skip
    assert {name: part["rows"] for name, part in emotion["contributions"].items()} == {
        "video": 2,
        "audio": 2,
        "chat": 4,
    }


def test_predicted_stands_beside_actual(report: Path) -> None:
    with (report / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    emotion = {row["id"]: row for row in rows if row["head"] == "emotion"}
    assert {name: row["actual"] for name, row in emotion.items()} == {
        "a": "happy",
        "b": "sad",
        NASTY: "sad",
        "d": "surprise",
    }
    accuracy = json.loads((report / "metrics.json").read_text())["heads"]["emotion"]["figures"][
        "accuracy"
    ]
    right = sum(row["actual"] == row["predicted"] for row in emotion.values())
    assert accuracy["value"] == right / 4


class Tags(html.parser.HTMLParser):
    """The tags of a page, the addresses it asks for, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_is_whole_by_itself_and_runs_nothing(report: Path) -> None:
    page = Tags()
    page.feed((report / "report.html").read_text())
    assert "script" not in page.tags
    assert len(page.addresses) == 6
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert NASTY in page.words


def test_markdown_shows_marks_as_they_are() -> None:
    blocks: list[Block] = [
        Heading(text="a_b"),
        Paragraph(text="*x*\ny"),
        Table(columns=["c"], rows=[[NASTY]]),
    ]
    assert to_markdown("T", blocks) == (
        "# T\n\n## a\\_b\n\n\\*x\\* y\n\n| c |\n| --- |\n"
        "| &lt;script&gt;alert(1)&lt;/script&gt; \\| \\`a\\` |\n"
    )
    assert "<script>" not in to_html(NASTY, blocks)


def test_a_report_is_the_same_when_it_is_made_again(
    bundle: Path, index: Path, report: Path, tmp_path: Path
) -> None:
    options = ["--split", "validation", "--out", str(tmp_path), "--resamples", "20"]
    options += ["--note", NOTE]
    assert main(["evaluate", str(bundle), str(index), *options]) == 0
    for path in report.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("columns", "row", "options", "said"),
    [
        (("id", "text", "label:mood"), ("a", "x", "y"), [], "'label:sentiment', 'label:emotion'"),
        (
            ("id", "text", "label:emotion"),
            ("a", "x", "joyful"),
            [],
            "row 2, column 'label:emotion'",
        ),
        (("id", "audio", "label:emotion"), ("a", "no.wav", "sad"), [], "row 2, column 'audio'"),
        (
            ("id", "text", "split", "label:emotion"),
            ("a", "x", "train", "sad"),
            ["--split", "test"],
            "no row of split test",
        ),
        (("id", "text", "label:emotion"), ("a", "x", "sad"), ["--resamples", "-1"], "--resamples"),
    ],
)
def test_bad_input_is_said_in_one_line(
    bundle: Path, tmp_path: Path, columns: Sequence[str], row: Sequence[str],
    options: Sequence[str], said: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    index = write_index(tmp_path / "index.csv", [row], columns)
    assert main(["evaluate", str(bundle), str(index), *options]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert said in message


def test_broken_media_name_their_row(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"not sound")
    index = write_index(
        tmp_path / "index.csv", [("a", "broken.wav", "sad")], ("id", "audio", "label:emotion")
    )
    assert main(["evaluate", str(bundle), str(index)]) == 2
    assert "row 2 (a)" in capsys.readouterr().err
