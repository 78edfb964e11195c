"""The table of people's own data: what it says, what is refused, how it is split."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from counterpoint.streams.errors import CounterpointError, UnavailableError
from counterpoint.trainer.data.index import Index, Task, read_index, with_splits
from counterpoint.trainer.data.split import Shares, split_index, write_split
from tests.support.requirements import require


def write(folder: Path, text: str) -> Path:
    (folder / "face.png").write_bytes(b"png")
    (folder / "voice.wav").write_bytes(b"wav")
    (folder / "words.txt").write_text("read from a file", encoding="utf-8")
    path = folder / "index.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_is_read_as_written(tmp_path: Path) -> None:
    index = read_index(
        write(
            tmp_path,
            "id,video,audio,text,start_s,end_s,speaker,label:mood,label:stress\n"
            'a,face.png,voice.wav,"well, yes",0.5,2,ann,glad,0.25\n'
            "b,,,words.txt,,,bob,sad,\n",
        )
    )
    first, second = index.examples
    assert index.tasks == (Task(name="mood", labels=("glad", "sad")), Task(name="stress"))
    assert (first.video, first.audio) == (tmp_path / "face.png", tmp_path / "voice.wav")
    assert (first.text, first.start_ns, first.end_ns) == ("well, yes", 500_000_000, 2_000_000_000)
    assert first.labels == {"mood": 0, "stress": 0.25}
    assert (second.text, second.modalities) == ("read from a file", ("text",))
    assert second.labels == {"mood": 1}
    assert (second.row, second.end_ns, second.split) == (3, None, None)


def test_lines_before_are_those_of_their_column_or_of_a_file(tmp_path: Path) -> None:
    index = read_index(
        write(
            tmp_path,
            'id,text,before,label:mood\na,no,"hi\n\nyou there",glad\nb,yes,words.txt,sad\n'
            "c,so,,sad\n",
        )
    )
    assert [row.before for row in index.examples] == [
        ("hi", "you there"), ("read from a file",), (),
    ]  # fmt: skip
    assert index.modalities == ("text",)


def test_the_configuration_says_which_classes_and_in_which_order(tmp_path: Path) -> None:
    path = write(tmp_path, "id,text,label:digit,label:x\na,hi,1,2\nb,ho,0,3\n")
    assert read_index(path).tasks == (Task(name="digit"), Task(name="x"))
    only = read_index(path, tasks={"digit": "classes"})
    assert only.tasks == (Task(name="digit", labels=("0", "1")),)
    assert [row.labels for row in only.examples] == [{"digit": 1}, {"digit": 0}]
    ordered = read_index(path, tasks={"digit": ("1", "0")})
    assert [row.labels["digit"] for row in ordered.examples] == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,text,mood\na,hi,glad\n", "unknown column 'mood'"),
        ("text,label:m\nhi,glad\n", "column 'id' is missing"),
        ("id,text\na,hi\n", "a column 'label:TASK' is needed"),
        ("id,label:m\na,x\n", "one of the columns video, audio, text"),
        ("id,text,text,label:m\na,b,c,x\n", "column 'text' is there twice"),
        ("id,text,label:m\na,hi,there,x\n", "row 2 has 4 cells, the header has 3"),
        ("id,text,label:m\na,hi,x\na,ho,y\n", "row 3, column 'id': 'a' is the id of row 2"),
        ("id,text,label:m\n,hi,x\nb,ho,y\n", "row 2, column 'id': is empty"),
        ("id,video,label:m\na,no.png,x\nb,face.png,y\n", "row 2, column 'video': there is no file"),
        ("id,text,label:m\na,hi,x\nb,no.txt,y\n", "row 3, column 'text': there is no file"),
        ("id,text,label:m\na,hi,x\nb,,y\n", "row 3, column 'video/audio/text': all empty"),
        (
            "id,audio,text,before,label:m\na,voice.wav,,so,x\nb,,hi,,y\n",
            "row 2, column 'before': is before no text",
        ),
        (
            "id,text,before,label:m\na,hi,no.txt,x\nb,hi,,y\n",
            "row 2, column 'before': there is no file",
        ),
        ("id,text,label:m\na,hi,x\nb,ho,x\n", "has only the class 'x'"),
        ("id,text,label:m\na,hi,1\nb,ho,glad\n", "row 3, column 'label:m': a name where"),
        ("id,text,label:m\na,hi,\nb,ho,\n", "'label:m' has no label in any row"),
        ("id,text,split,label:m\na,hi,dev,x\nb,ho,train,y\n", "row 2, column 'split': must be"),
        ("id,text,split,label:m\na,hi,,x\nb,ho,train,y\n", "row 2, column 'split': is empty"),
        (
            "id,text,speaker,split,label:m\na,hi,ann,train,x\nb,ho,ann,test,y\n",
            "row 3, column 'speaker': 'ann' is in split 'test' here and in 'train' in row 2",
        ),
        ("id,audio,start_s,end_s,label:m\na,voice.wav,2,1,x\nb,voice.wav,,,y\n", "'end_s': must"),
        ("id,audio,start_s,label:m\na,voice.wav,-1,x\nb,voice.wav,,y\n", "'start_s': must be"),
        ("", "row 1 must have"),
        ("id,text,label:m\n", "has no rows"),
    ],
)
def test_what_is_wrong_is_said_with_row_and_column(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError) as caught:
        read_index(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_that_is_not_there_and_a_class_that_is_unknown(tmp_path: Path) -> None:
    path = write(tmp_path, "id,text,label:m\na,hi,x\nb,ho,y\n")
    with pytest.raises(CounterpointError, match="no column 'label:n'"):
        read_index(path, tasks={"n": None})
    with pytest.raises(CounterpointError, match=r"row 3, column 'label:m': unknown class 'y'"):
        read_index(path, tasks={"m": ("x", "z")})
    with pytest.raises(CounterpointError, match=r"row 2, column 'label:m': must be a finite"):
        read_index(path, tasks={"m": "number"})


def table(speakers: int, rows: int = 6) -> str:
    lines = [
        f"{speaker}-{row},hi,s{speaker},{'xy'[row % 2]}"
        for speaker in range(speakers)
        for row in range(rows)
    ]
    return "id,text,speaker,label:m\n" + "\n".join(lines) + "\n"


def speakers_of(index: Index, split: str) -> set[str | None]:
    return {row.speaker for row in index.examples if row.split == split}


def test_speakers_stay_whole_and_the_draw_is_seeded(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, table(10)))
    drawn = split_index(index, seed=1)
    parts = [speakers_of(drawn, name) for name in ("train", "validation", "test")]
    assert sum(len(part) for part in parts) == 10
    assert len(set().union(*parts)) == 10
    assert len(parts[1]) in (1, 2)
    assert len(parts[2]) in (1, 2)
    assert split_index(index, seed=1) == drawn
    assert any(split_index(index, seed=seed) != drawn for seed in range(2, 6))


def test_what_was_drawn_can_be_read_again_from_anywhere(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "id,video,text,before,speaker,label:m\na,face.png,words.txt,,ann,x\n"
        "b,,ho,words.txt,bob,y\nc,,h,so,cy,x\nd,,i,,dan,y\n",
    )
    drawn = split_index(read_index(path), shares=Shares(validation=0.3, test=0))
    write_split(drawn, tmp_path / "elsewhere" / "index.csv")
    again = split_index(read_index(tmp_path / "elsewhere" / "index.csv"))
    assert again.examples == drawn.examples


def test_too_few_speakers_and_no_speakers(tmp_path: Path) -> None:
    index = read_index(write(tmp_path, table(2)))
    with pytest.raises(CounterpointError, match="2 speakers cannot be split into 3"):
        split_index(index)
    two = split_index(index, shares=Shares(validation=0.3, test=0))
    assert len(speakers_of(two, "train")) == len(speakers_of(two, "validation")) == 1
    nameless = read_index(write(tmp_path, "id,text,label:m\na,hi,x\nb,ho,y\nc,ha,x\nd,he,y\n"))
    with pytest.raises(CounterpointError, match=r"row 2, column 'speaker'.*allow_random_split"):
        split_index(nameless)
    drawn = split_index(nameless, allow_random=True, shares=Shares(validation=0.3, test=0))
    assert {row.split for row in drawn.examples} == {"train", "validation"}


def test_a_class_without_an_example_in_train(tmp_path: Path) -> None:
    given = "id,text,split,label:m\na,hi,train,x\nb,ho,train,y\nc,ha,validation,z\n"
    with pytest.raises(CounterpointError, match=r"'label:m': class 'z' has no example.*row 4"):
        split_index(read_index(write(tmp_path, given)))
    alone = "id,text,speaker,label:m\na,hi,ann,x\nb,ho,bob,y\n"
    with pytest.raises(CounterpointError, match="no split by speaker found"):
        split_index(read_index(write(tmp_path, alone)), shares=Shares(validation=0.5, test=0))
    named = read_index(write(tmp_path, table(4)), tasks={"m": ("x", "y", "z")})
    with pytest.raises(CounterpointError, match=r"csv: column 'label:m': class 'z' .* at all"):
        split_index(named)


@pytest.fixture
def arrow() -> Any:
    """pyarrow, which the trainer needs for this alone."""
    there = importlib.util.find_spec("pyarrow") is not None
    require("pyarrow", there, "pip install pyarrow")
    importlib.import_module("pyarrow.parquet")
    return importlib.import_module("pyarrow")


def write_parquet(arrow: Any, path: Path, columns: Mapping[str, object]) -> Path:
    arrow.parquet.write_table(arrow.table(dict(columns)), path)
    return path


def test_parquet_says_the_same_as_csv(tmp_path: Path, arrow: Any) -> None:
    text = (
        "id,video,audio,text,start_s,end_s,speaker,label:mood,label:stress,label:digit\n"
        'a,face.png,voice.wav,"well, yes",0.5,2,ann,glad,0.25,1\n'
        "b,,,words.txt,,,bob,sad,,\n"
        "c,,,ho,,,cy,,3,0\n"
    )
    tasks = {"mood": None, "stress": "number", "digit": "classes"}
    from_csv = read_index(write(tmp_path, text), tasks=tasks)
    frame = pd.read_csv(tmp_path / "index.csv")
    assert frame["label:digit"].tolist()[:1] == [1.0]  # pandas has no gaps in whole numbers
    frame.to_parquet(tmp_path / "index.parquet")
    found = read_index(tmp_path / "index.parquet", tasks=tasks)
    assert found.examples == from_csv.examples
    assert found.tasks == from_csv.tasks
    # Not a number is no label, however the column has it.
    columns = {"id": ["a", "b"], "text": ["x", "y"], "label:m": [1.5, float("nan")]}
    rows = read_index(write_parquet(arrow, tmp_path / "nan.parquet", columns)).examples
    assert [row.labels for row in rows] == [{"m": 1.5}, {}]
    # What a fit drew of it is written as CSV.
    drawn = with_splits(found, {"a": "train", "b": "validation", "c": "test"})
    write_split(drawn, tmp_path / "elsewhere" / "index.csv")
    again = read_index(tmp_path / "elsewhere" / "index.csv", tasks=tasks)
    assert again.examples == drawn.examples


def test_what_is_wrong_in_parquet_is_said_by_row(tmp_path: Path, arrow: Any) -> None:
    path = tmp_path / "index.parquet"
    lists = {"id": ["a", "b"], "text": ["x", "y"], "label:m": [["glad"], ["sad"]]}
    write_parquet(arrow, path, lists)
    with pytest.raises(
        CounterpointError, match=r"row 2: a cell must be text or a number, not list"
    ):
        read_index(path)
    write_parquet(arrow, path, {"id": ["a", "b"], "text": ["x", "y"], "mood": ["glad", "sad"]})
    with pytest.raises(CounterpointError, match="unknown column 'mood'"):
        read_index(path)
    path.write_bytes(b"not a table")
    with pytest.raises(CounterpointError, match="is no Parquet"):
        read_index(path)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.parquet").write_bytes(b"not a table")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UnavailableError, match="needs pyarrow: pip install pyarrow"):
        read_index(tmp_path / "index.parquet")
