"""A session's timeline: the trace is what a session does, and the picture shows it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from benchmarks.timeline_example import SOURCES, SPEC, picture, session
from counterpoint.engine.align import State, Status
from counterpoint.engine.cli import main
from counterpoint.engine.timeline import trace
from counterpoint.engine.timeline_svg import MAX_ARRIVALS, STATUS_COLOURS, draw
from counterpoint.streams.types import Modality, SourceEnded, VideoFrame
from tests.support.sessions import GRID_CLIP

S = 1_000_000_000
SVG = "{http://www.w3.org/2000/svg}"


def test_a_trace_has_every_arrival_and_the_windows_of_the_aligner() -> None:
    arrivals = session(7)
    traced = trace(arrivals, SPEC, SOURCES, until_ns=10 * S)
    # Up to the deadline and the lateness of the last window.
    frames = [item for at, item in arrivals if isinstance(item, VideoFrame) and at <= 11.5 * S]
    seen = [a.t_ns for a in traced.tracks[Modality.VIDEO].arrivals]
    assert seen == [frame.t_ns for frame in frames]
    ends = [window.end_ns for window in traced.windows if window.revision == 0]
    assert ends == [SPEC.hop_ns * (n + 1) for n in range(len(ends))]
    assert len(ends) == 40
    assert {window.status for window in traced.windows} == set(Status)


def test_a_camera_that_stalls_is_stalled_in_the_trace_and_comes_back() -> None:
    traced = trace(session(7), SPEC, SOURCES, until_ns=10 * S)
    states = {window.end_ns: window.parts[Modality.VIDEO].state for window in traced.windows}
    assert states[4_250_000_000] is State.STALLED
    assert states[5 * S] is State.PRESENT


def test_bounds_never_go_back_and_stop_while_nothing_comes() -> None:
    track = trace(session(7), SPEC, SOURCES, until_ns=10 * S).tracks[Modality.VIDEO]
    assert track.bounds == sorted(track.bounds)
    assert [b for b in track.bounds if 3_250_000_000 < b[0] < 4_400_000_000] == []


def test_without_a_cut_a_trace_goes_to_the_end_of_its_sources() -> None:
    frame = VideoFrame(source="camera", t_ns=0, y=np.zeros((2, 2), np.uint8), sequence=0)
    ended = SourceEnded(source="camera", modality=Modality.VIDEO, t_ns=S, error="unplugged")
    traced = trace([(0, frame), (S, ended)], SPEC, {Modality.VIDEO: "camera"})
    assert traced.end_ns == S
    assert [w.end_ns for w in traced.windows if w.revision == 0] == [S // 4, S // 2, S * 3 // 4, S]
    svg = ET.fromstring(draw(traced, title="a <b> & c"))
    assert "ended: unplugged" in [title.text for title in svg.iter(f"{SVG}title")]
    assert svg.get("aria-label") == "a <b> & c"


def test_a_picture_has_a_pin_for_each_output_and_a_line_for_each_arrival() -> None:
    traced = trace(session(7), SPEC, SOURCES, until_ns=10 * S)
    svg = ET.fromstring(draw(traced, title="one", to_ns=10 * S))
    pins = [c for c in svg.iter(f"{SVG}circle") if c.get("r") == "3.2"]
    assert len(pins) == len(traced.windows)
    for status, colour in STATUS_COLOURS.items():
        given = sum(window.status is status for window in traced.windows)
        assert sum(pin.get("fill") == colour for pin in pins) == given > 0
    lines = [path.get("d", "") for path in svg.iter(f"{SVG}path")]
    slanted = max(line.count("L") for line in lines if "H" not in line and "Z" not in line)
    sound = traced.tracks[Modality.AUDIO].arrivals
    assert slanted == sum(arrival.t_ns <= 10 * S for arrival in sound)


def test_a_part_of_a_picture_holds_that_part_alone() -> None:
    traced = trace(session(7), SPEC, SOURCES, until_ns=10 * S)
    part = draw(traced, title="part", from_ns=3 * S, to_ns=4 * S)
    windows = {int(n) for n in re.findall(r"<title>window (\d+), revision", part)}
    assert windows == {12, 13, 14, 15, 16}


def test_what_cannot_be_drawn_is_refused() -> None:
    traced = trace(session(7), SPEC, SOURCES, until_ns=10 * S)
    with pytest.raises(ValueError, match="nothing lies between"):
        draw(traced, title="none", from_ns=5 * S, to_ns=5 * S)
    track = traced.tracks[Modality.VIDEO]
    track.arrivals *= 2 * MAX_ARRIVALS // len(track.arrivals)
    with pytest.raises(ValueError, match="more than a picture holds"):
        draw(traced, title="full")


def test_the_command_draws_a_recording(tmp_path: Path) -> None:
    out = tmp_path / "clip.svg"
    assert main(["timeline", str(GRID_CLIP), "--to", "1.5", "--out", str(out)]) == 0
    pins = re.findall(r"<title>window (\d+), revision 0, final", out.read_text(encoding="utf-8"))
    assert [int(n) for n in pins] == [1, 2, 3, 4, 5, 6]
    assert main(["timeline", str(GRID_CLIP), "--out", str(out)]) == 2  # never overwritten


def test_the_command_draws_a_capsule_as_it_came(tmp_path: Path) -> None:
    capsule, out = tmp_path / "c.capsule", tmp_path / "c.svg"
    recorded = ["record", "--video", f"file:{GRID_CLIP}", "--audio", f"file:{GRID_CLIP}"]
    recorded += ["--redis", "embedded", "--speed", "max", "--out", str(capsule)]
    assert main(recorded) == 0
    assert main(["timeline", str(capsule), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert len(re.findall(r"<title>window \d+, revision 0, final", text)) == 12


def test_the_picture_in_the_readme_is_what_its_command_draws() -> None:
    drawn = Path(__file__).parents[2] / "docs/images/timeline.svg"
    assert drawn.read_text(encoding="utf-8") == picture(7)
