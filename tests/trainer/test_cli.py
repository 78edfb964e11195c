"""The trainer's command line: wrong usage is one line and exit code 2."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.streams.errors import FailedError
from counterpoint.trainer.affect import recipe
from counterpoint.trainer.cli import main
from counterpoint.trainer.config import AffectConfig
from counterpoint.trainer.records import StageRecord, read_json, write_json

pytestmark = pytest.mark.trainer


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "affect", "--out", "OUT", "--data", "nowhere"],
        ["evaluate", "nowhere", "nowhere.csv"],
        ["validate", "nowhere", "--data", "nowhere"],
        ["fit", "affect", "--stage", "vision", "--out", "OUT", "--data", "EMPTY"],
        ["fit", "affect", "--stage", "audio", "--out", "OUT", "--data", "EMPTY"],
        ["fit", "affect", "--stage", "text", "--out", "OUT", "--data", "EMPTY"],
        ["fit", "affect", "--stage", "fusion", "--out", "OUT", "--data", "EMPTY"],
        ["evaluate", "EMPTY", "nowhere.csv"],
        ["validate", "EMPTY", "--data", "EMPTY"],
    ],
)
def test_what_is_missing_is_said_in_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"OUT": str(tmp_path / "out"), "EMPTY": str(tmp_path / "empty")}
    assert main([places.get(word, word) for word in arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("counterpoint-trainer: ")
    assert "nowhere" in message or str(tmp_path) in message


def test_a_failing_stage_ends_the_run_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []

    def run(stage: str, data: Path, out: Path, config: AffectConfig) -> None:
        started.append(stage)
        if stage == "audio":
            raise FailedError("stage audio failed with exit code 1")

    monkeypatch.setattr(recipe, "_run_process", run)
    assert main(["fit", "affect", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "stage audio failed" in capsys.readouterr().err
    assert sorted(started) == ["audio", "vision"]  # nothing is built on what failed


def test_a_run_keeps_its_configuration_and_the_time_of_each_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(recipe, "_run_process", lambda stage, *_: order.append(stage))
    out = tmp_path / "out"
    assert main(["fit", "affect", "--data", str(tmp_path), "--out", str(out), "--seed", "7"]) == 0
    assert read_json(out / "config.json")["seed"] == 7
    assert set(read_json(out / "seconds.json")) == {*recipe.STAGES, "all, wall"}
    assert order.index("audio") < order.index("text") < order.index("fusion")
    assert order[-2:] == ["fusion", "export"]


def test_a_stage_leaves_its_metrics_and_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = StageRecord(tmp_path / "stage", "stage")
    with record.timed("work"):
        record.metrics["accuracy"] = 0.5
    record.finish()
    stored = json.loads((tmp_path / "stage" / "metrics.json").read_text())
    assert stored["metrics"] == {"accuracy": 0.5}
    assert set(stored["seconds"]) == {"work", "total", "cpu"}
    assert (tmp_path / "stage" / "log.txt").read_text() == capsys.readouterr().out


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"b": 1})
    write_json(path, {"a": [1, 2]})
    assert read_json(path) == {"a": [1, 2]}
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]
