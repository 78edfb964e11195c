"""A recorded session replays to the bit: at any speed, overloaded, cut off, without its media."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from counterpoint.engine.capsule.format import PREAMBLE, Kind, check, pack, records
from counterpoint.engine.capsule.header import new_header
from counterpoint.engine.capsule.reader import Capsule, open_capsule
from counterpoint.engine.capsule.session import verify_session
from counterpoint.engine.capsule.verify import Verdict, Verifier
from counterpoint.engine.capsule.writer import recording
from counterpoint.engine.cli import main
from counterpoint.engine.config import Config, PurposeSection, QueueSection, TimeSection
from counterpoint.engine.device import Arrays, DeviceError, Graph
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import from_json, stable_json, to_json
from counterpoint.engine.session import Session
from counterpoint.engine.sources import OpenSources, open_replay
from counterpoint.streams.errors import FailedError, UsageError
from counterpoint.streams.runtime import Lane, Runtime
from counterpoint.streams.types import AudioChunk, ChatLine, VideoFrame
from tests.engine.test_session_revisions import burst, scripted
from tests.support.bundles import tiny_bundle
from tests.support.sessions import GRID_CHAT, GRID_CLIP, RememberingSink, load_models
from tests.support.virtual import VirtualRuntime

T = TypeVar("T")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


class _StoppedError(Exception):
    """A person has had enough."""


async def record(
    path: Path,
    models: Models,
    runtime: Runtime,
    *,
    sources: OpenSources | None = None,
    speed: float | None = None,
    config: Config | None = None,
    windows: list[int] | None = None,
    stop_at: int | None = None,
) -> RememberingSink:
    sources = sources or open_replay(GRID_CLIP, GRID_CHAT)
    config = config or Config()
    sink = RememberingSink()
    header = new_header(
        session="test",
        sources=sources.names,
        config=config,
        bundle=models.bundle,
        created_ns=runtime.wall_ns(),
    )
    async with recording(path, header, runtime, paced=speed is not None) as tap:
        session = Session(
            name="test",
            source=sources.source,
            sources=sources.names,
            models=models,
            runtime=runtime,
            config=config,
            sink=sink,
            speed=speed,
            duration_ns=sources.duration_ns,
            tap=tap,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(session.run())
            async for prediction in session.predictions():
                if windows is not None:
                    windows.append(prediction.window)
                if prediction.window == stop_at:
                    raise _StoppedError
    return sink


def verify(
    capsule: Capsule,
    models: Models,
    *,
    speed: float | None = None,
    verifier: Verifier | None = None,
) -> Verdict:
    runtime = VirtualRuntime(start_ns=77)
    return runtime.run(
        verify_session(capsule, models, Config(), runtime, speed=speed, verifier=verifier)
    )


@pytest.fixture(scope="module")
def clip(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GRID clip, recorded as a live session would be."""
    path = tmp_path_factory.mktemp("capsule") / "clip.capsule"
    runtime = VirtualRuntime()
    runtime.run(record(path, models, runtime, speed=1.0))
    return path


@pytest.mark.parametrize("speed", [None, 0.5, 3.0])
def test_a_recorded_clip_is_reproduced_at_any_speed(
    models: Models, clip: Path, speed: float | None
) -> None:
    capsule = open_capsule(clip)
    assert capsule.complete
    verdict = verify(capsule, models, speed=speed)
    assert verdict.exact
    assert verdict.differences == []
    assert verdict.compared == capsule.predictions_total == 12
    assert verdict.exit_code == 0


def test_the_recording_is_what_was_published(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "a.capsule"
    runtime = VirtualRuntime()
    sink = runtime.run(record(path, models, runtime, speed=1.0))
    published = [json.loads(to_json(prediction)) for prediction in sink.taken]
    assert list(open_capsule(path).predictions()) == published


def test_flat_out_recordings_are_reproduced(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "flat.capsule"
    runtime = VirtualRuntime()
    runtime.run(record(path, models, runtime, speed=None))
    assert verify(open_capsule(path), models).same


class _SlowModels(VirtualRuntime):
    """Encoding and fusing a batch takes 0.6 s, so that windows of 0.25 s must be skipped."""

    def lane(self, name: str) -> Lane:
        inline = super().lane(name)
        return _Slow(self, inline) if name.startswith("inference") else inline


class _Slow:
    def __init__(self, runtime: VirtualRuntime, inline: Lane) -> None:
        self._runtime, self._inline = runtime, inline

    async def submit(self, fn: Callable[[], T]) -> T:
        result = await self._inline.submit(fn)
        await self._runtime.sleep_until(self._runtime.now_ns() + 600_000_000)
        return result


@pytest.mark.parametrize("speed", [None, 0.5, 3.0])
def test_what_an_overloaded_session_skipped_is_skipped_again_on_a_fast_machine(
    models: Models, tmp_path: Path, speed: float | None
) -> None:
    path = tmp_path / "slow.capsule"
    runtime = _SlowModels()
    runtime.run(record(path, models, runtime, speed=1.0))
    capsule = open_capsule(path)
    skipped = [document["skipped_windows"] for document in capsule.predictions()]
    assert sum(skipped) >= 5
    assert len(skipped) + sum(skipped) == 12
    verdict = verify(capsule, models, speed=speed)
    assert (verdict.exact, verdict.differences) == (True, [])
    assert verdict.compared == len(skipped)


def test_revised_windows_and_waited_for_chat_are_reproduced(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "late.capsule"
    runtime = VirtualRuntime()
    time = TimeSection(lateness_ms=600, deadline_ms=100, required="video,audio,chat", hop_ms=500)
    runtime.run(record(path, models, runtime, speed=1.0, config=Config(time=time)))
    capsule = open_capsule(path)
    assert capsule.header.time == time
    assert capsule.predictions_total >= 6
    assert verify(capsule, models, speed=2.0).differences == []


def test_lines_that_were_read_anew_are_so_again(tmp_path: Path) -> None:
    models = load_models(tiny_bundle(tmp_path / "reading", before_lines=2))
    path = tmp_path / "read.capsule"
    config = Config(time=TimeSection(lateness_ms=1_000))
    sources = scripted(burst(ChatLine, 350, 450, 1_250))
    runtime = VirtualRuntime()
    runtime.run(record(path, models, runtime, speed=1.0, config=config, sources=sources))
    capsule = open_capsule(path)
    keys = [key for batch in capsule.batches() for key in batch.cells if key[0] == "line"]
    assert max(len(key) for key in keys) == 4  # a line that was given again
    verdict = verify(capsule, models, speed=2.0)
    assert (verdict.differences, verdict.exact) == ([], True)


def test_dropped_items_are_stated_again(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "narrow.capsule"
    runtime = VirtualRuntime()
    config = Config(queues=QueueSection(video_frames=1, audio_chunks=1, chat_lines=1))
    runtime.run(record(path, models, runtime, speed=50.0, config=config))
    assert verify(open_capsule(path), models).differences == []


# -- cut off -----------------------------------------------------------------------------------


def test_a_recording_cut_after_any_record_verifies_as_far_as_it_goes(
    models: Models, clip: Path, tmp_path: Path
) -> None:
    data = clip.read_bytes()
    found = list(records(clip, check(clip), tuple(Kind)))
    path = tmp_path / "cut.capsule"
    for record_ in found[len(found) // 8 :: len(found) // 6]:
        path.write_bytes(data[: record_.offset + 3])
        capsule = open_capsule(path)
        assert not capsule.complete
        assert f"byte {record_.offset} is cut" in str(capsule.reason)
        verdict = verify(capsule, models)
        assert verdict.differences == []
        assert verdict.compared == capsule.predictions_total
        assert verdict.beyond <= 1


def test_a_session_that_was_stopped_early_verifies_as_far_as_it_went(
    models: Models, tmp_path: Path
) -> None:
    path = tmp_path / "stopped.capsule"
    runtime = _SlowModels()
    with pytest.raises(ExceptionGroup) as raised:
        runtime.run(record(path, models, runtime, speed=1.0, stop_at=3))
    assert raised.group_contains(_StoppedError)
    capsule = open_capsule(path)
    assert capsule.complete
    assert capsule.end_ns is None
    verdict = verify(capsule, models)
    assert verdict.differences == []
    assert verdict.compared == capsule.predictions_total > 0
    assert verdict.beyond <= 1


def test_a_recorder_killed_while_writing_leaves_what_it_had_written(
    models: Models, tmp_path: Path
) -> None:
    path = tmp_path / "killed.capsule"
    bundle = models.bundle.root
    chat, clip = f"--chat=file:{GRID_CHAT}", f"file:{GRID_CLIP}"
    command = ["record", f"--video={clip}", f"--audio={clip}", chat, f"--out={path}", "--json"]
    recorder = subprocess.Popen(
        [sys.executable, "-m", "counterpoint.engine.cli", *command, f"--bundle={bundle}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert recorder.stdout is not None
    with recorder:
        for _ in range(4):
            assert recorder.stdout.readline()
        recorder.send_signal(signal.SIGKILL)
    capsule = open_capsule(path)
    assert not capsule.complete
    assert capsule.predictions_total >= 3
    verdict = verify(capsule, models)
    assert verdict.differences == []
    assert verdict.compared == capsule.predictions_total


# -- without media -----------------------------------------------------------------------------


def test_features_alone_hold_no_media_and_no_words_and_reproduce(
    models: Models, tmp_path: Path
) -> None:
    path = tmp_path / "features.capsule"
    runtime = VirtualRuntime()
    config = Config(purpose=PurposeSection(media=False))
    runtime.run(record(path, models, runtime, speed=1.0, config=config))
    capsule = open_capsule(path)
    assert not capsule.header.media
    data = path.read_bytes()
    for line in GRID_CHAT.read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        assert said["text"].encode() not in data
        assert said["author"].encode() not in data
    found = list(records(path, check(path), tuple(Kind)))
    assert Kind.PICTURES not in {record_.kind for record_ in found}
    assert all(not record_.raw for record_ in found if record_.kind == Kind.ARRIVAL)
    for _, item in capsule.arrivals():
        if isinstance(item, VideoFrame):
            assert not item.y.any()
        elif isinstance(item, AudioChunk):
            assert not item.samples.any()
    verdict = verify(capsule, models, speed=0.7)
    assert verdict.differences == []
    assert verdict.compared == 12


# -- differences -------------------------------------------------------------------------------


def changed(path: Path, to: Path, change: Callable[[dict[str, Any]], None], kind: Kind) -> Capsule:
    """A copy in which every record of a kind went through ``change``."""
    out = bytearray(PREAMBLE)
    for record_ in records(path, check(path), tuple(Kind)):
        fields, raw = dict(record_.fields), record_.raw
        if record_.kind == kind == Kind.PREDICTION:
            document = json.loads(raw)
            change(document)
            raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        elif record_.kind == kind:
            change(fields)
        out += pack(Kind(record_.kind), fields, raw)
    to.write_bytes(out)
    return open_capsule(to)


def test_a_manipulated_prediction_is_shown_field_by_field(
    models: Models, clip: Path, tmp_path: Path
) -> None:
    before: list[float] = []

    def change(document: dict[str, Any]) -> None:
        if document["window"] == 5:
            before.append(document["heads"]["sentiment"]["probabilities"][1])
            document["heads"]["sentiment"]["probabilities"][1] = before[0] + 1e-6
            document["modalities"]["chat"]["reason"] = "made up"

    verdict = verify(changed(clip, tmp_path / "m.capsule", change, Kind.PREDICTION), models)
    assert not verdict.same
    assert verdict.exit_code == 1
    assert [(d.window, d.revision, d.path) for d in verdict.differences] == [
        (5, 0, "heads.sentiment.probabilities[1]"),
        (5, 0, "modalities.chat.reason"),
    ]
    assert verdict.differences[0].now == before[0]
    assert verdict.differences[1].recorded == "made up"
    assert "window 5 revision 0: modalities.chat.reason: recorded 'made up'" in str(
        verdict.differences[1]
    )


@pytest.mark.parametrize(
    ("shift", "tolerated"), [(0.019, True), (-0.019, True), (0.021, False), (-0.021, False)]
)
def test_on_another_cpu_probabilities_may_differ_within_the_tolerance(
    models: Models, clip: Path, tmp_path: Path, shift: float, tolerated: bool
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["heads"]["emotion"]["probabilities"][2] += shift

    def other_cpu(fields: dict[str, Any]) -> None:
        fields["platform"] = {**fields["platform"], "cpu": "Another CPU"}

    changed(clip, tmp_path / "p.capsule", change, Kind.PREDICTION)
    here = open_capsule(tmp_path / "p.capsule")
    assert verify(here, models).differing == 12
    there = changed(tmp_path / "p.capsule", tmp_path / "c.capsule", other_cpu, Kind.HEADER)
    verdict = verify(there, models)
    assert (verdict.exact, verdict.because) == (False, ["cpu"])
    assert verdict.same is tolerated


def test_on_another_cpu_contributions_have_their_tolerance_and_all_else_is_exact(
    models: Models, clip: Path, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        video = document["modalities"]["video"]
        if document["window"] == 7:
            video["contributions"]["emotion"][0] += 0.09
            video["contributions"]["emotion"][1] += 0.11
            video["coverage"] -= 0.001

    capsule = changed(clip, tmp_path / "m.capsule", change, Kind.PREDICTION)
    elsewhere = {**capsule.header.platform, "flags": "none"}
    verdict = verify(capsule, models, verifier=Verifier(capsule, platform=elsewhere))
    assert [d.path for d in verdict.differences] == [
        "modalities.video.contributions.emotion[1]",
        "modalities.video.coverage",
    ]


def test_predictions_that_are_missing_or_too_many_are_differences(
    models: Models, clip: Path, tmp_path: Path
) -> None:
    found = list(records(clip, check(clip), tuple(Kind)))
    documents = [record_ for record_ in found if record_.kind == Kind.PREDICTION]
    path = tmp_path / "fewer.capsule"
    data = clip.read_bytes()
    last = documents[-1]
    following = next(record_.offset for record_ in found if record_.offset > last.offset)
    path.write_bytes(data[: last.offset] + data[following:])
    (extra,) = verify(open_capsule(path), models).differences
    assert (extra.window, extra.recorded, extra.now) == (12, "(no prediction)", "a prediction")
    path.write_bytes(data[:following] + data[last.offset :])
    (missing,) = verify(open_capsule(path), models).differences
    assert (missing.window, missing.recorded, missing.now) == (
        12,
        "a prediction",
        "(no prediction)",
    )


# -- wrong usage, failing disks ----------------------------------------------------------------


def test_another_bundle_is_refused(clip: Path, tmp_path: Path) -> None:
    other = load_models(tiny_bundle(tmp_path / "other", seed=9))
    with pytest.raises(UsageError, match=r"recorded with bundle tiny .* --bundle"):
        verify(open_capsule(clip), other)


def test_an_existing_file_is_never_overwritten(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "there.capsule"
    path.write_bytes(b"precious")
    runtime = VirtualRuntime()
    with pytest.raises(UsageError, match="exists already"):
        runtime.run(record(path, models, runtime, speed=1.0))
    assert path.read_bytes() == b"precious"


def test_a_full_disk_ends_the_recording_and_not_the_session(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.write, [100_000]

    def full(file: int, data: memoryview) -> int:
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(file, data)

    monkeypatch.setattr("counterpoint.engine.capsule.writer.os.write", full)
    path = tmp_path / "full.capsule"
    runtime = VirtualRuntime()
    sink: list[int] = []

    async def run() -> None:
        try:
            await record(path, models, runtime, speed=1.0, windows=sink)
        finally:
            monkeypatch.undo()

    with pytest.raises(FailedError, match=r"incomplete: .* No space left"):
        runtime.run(run())
    assert sink == list(range(1, 13))
    capsule = open_capsule(path)
    assert not capsule.complete
    assert verify(capsule, models).same


class _SlowDisk(VirtualRuntime):
    """The first write takes 2.5 s."""

    def lane(self, name: str) -> Lane:
        inline = super().lane(name)
        return _SlowFirst(self, inline) if name == "capsule" else inline


class _SlowFirst:
    def __init__(self, runtime: VirtualRuntime, inline: Lane) -> None:
        self._runtime, self._inline = runtime, inline
        self._slow = True

    async def submit(self, fn: Callable[[], T]) -> T:
        if self._slow:
            self._slow = False
            await self._runtime.sleep_until(self._runtime.now_ns() + 2_500_000_000)
        return await self._inline.submit(fn)


def test_a_disk_that_cannot_keep_up_ends_the_recording_with_the_reason(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterpoint.engine.capsule.writer.MAX_PENDING_BYTES", 2_000_000)
    path = tmp_path / "slow.capsule"
    runtime = _SlowDisk()
    windows: list[int] = []
    with pytest.raises(FailedError, match="the disk cannot keep up"):
        runtime.run(record(path, models, runtime, speed=1.0, windows=windows))
    assert windows == list(range(1, 13))
    capsule = open_capsule(path)
    assert capsule.reason == "the recording was stopped: the disk cannot keep up"
    verdict = verify(capsule, models)
    assert verdict.same
    assert 0 < verdict.compared < 12


class _NoGraph:
    """A device that fails."""

    def __init__(self, graph: Graph) -> None:
        self.role, self.spec = graph.role, graph.spec

    def run(self, inputs: Arrays) -> dict[str, Any]:
        raise DeviceError("the device fell off the bus")


def test_a_device_that_fails_while_verifying_is_told_as_it_is(models: Models, clip: Path) -> None:
    broken = replace(models, graphs={**models.graphs, "fusion": _NoGraph(models.graphs["fusion"])})
    with pytest.raises(DeviceError, match="fell off the bus"):
        verify(open_capsule(clip), broken)


# -- the command line --------------------------------------------------------------------------


def test_verify_of_a_media_file_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(GRID_CLIP), "--verify"]) == 2
    assert "is no capsule" in capsys.readouterr().err


def test_record_and_verify_by_command(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, bundle = tmp_path / "cli.capsule", f"--bundle={models.bundle.root}"
    clip = f"file:{GRID_CLIP}"
    given = [f"--video={clip}", f"--audio={clip}", f"--chat=file:{GRID_CHAT}", bundle]
    assert main(["record", *given, "--speed=max", f"--out={path}"]) == 0
    published = capsys.readouterr().out.splitlines()
    assert main(["replay", str(path), "--verify", "--speed=max", bundle]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["same"], verdict["compared"], len(published)) == (True, 12, 12)
    assert main(["replay", str(path), "--speed=max", bundle]) == 0
    again = capsys.readouterr().out.splitlines()
    assert [_stable(line) for line in again] == [_stable(line) for line in published]
    assert main(["record", *given, f"--out={path}"]) == 2

    def change(document: dict[str, Any]) -> None:
        document["skipped_windows"] += 1

    changed(path, tmp_path / "m.capsule", change, Kind.PREDICTION)
    assert main(["replay", str(tmp_path / "m.capsule"), "--verify", bundle, "--speed=max"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["differences"][0] == {
        "window": 1,
        "revision": 0,
        "path": "skipped_windows",
        "recorded": 1,
        "now": 0,
    }


def _stable(line: str) -> str:
    return stable_json(from_json(line))
