"""`counterpoint devices`: a table for a person, JSON lines for a pipe."""

from __future__ import annotations

import argparse
import json

import pytest

from counterpoint.engine.cli import devices as command
from counterpoint.streams.devices import Device, Kind

FOUND = (
    Device(kind=Kind.CAMERA, argument="webcam:0", name="Front [HD]", detail="/dev/video0"),
    Device(kind=Kind.CAMERA, argument="webcam:2", name="Desk", problem="no permission; join video"),
    Device(kind=Kind.MICROPHONE, argument=None, problem="no microphone without PortAudio"),
)


def _run(
    monkeypatch: pytest.MonkeyPatch, found: tuple[Device, ...], *, as_json: bool, terminal: bool
) -> int:
    monkeypatch.setattr(command, "list_devices", lambda: found)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "120")
    return command.devices(argparse.Namespace(json=as_json))


@pytest.mark.parametrize(("as_json", "terminal"), [(True, True), (False, False)])
def test_a_pipe_gets_json_lines(
    as_json: bool,
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, FOUND, as_json=as_json, terminal=terminal) == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert documents[0] == {
        "kind": "camera",
        "option": "--video",
        "argument": "webcam:0",
        "name": "Front [HD]",
        "detail": "/dev/video0",
        "problem": None,
    }
    assert [document["argument"] for document in documents] == ["webcam:0", "webcam:2", None]


def test_a_person_gets_a_table_of_what_to_write(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = (*FOUND[:2], Device(kind=Kind.MICROPHONE, argument="mic:Desk USB", name="Desk USB"))
    assert _run(monkeypatch, found, as_json=False, terminal=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "--video webcam:0" in lines[0]
    assert "Front [HD]" in lines[0]
    assert "no permission; join video" in lines[1]
    assert "--audio 'mic:Desk USB'" in lines[2]


def test_where_nothing_can_be_used_the_exit_code_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, FOUND[1:], as_json=False, terminal=True) == 3
    assert "no microphone without PortAudio" in capsys.readouterr().out
