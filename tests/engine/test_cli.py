"""The command line as people and scripts use it: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterpoint.engine.cli import main
from counterpoint.engine.prediction import VOLATILE_KEYS
from counterpoint.engine.redis_client import predictions_key
from tests.support.bundles import tiny_bundle
from tests.support.media_files import truncate, write_media
from tests.support.redis import RedisServer, redis_server
from tests.support.sessions import GRID_CHAT, GRID_CLIP


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").root


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def counterpoint(*arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """A real process, as in a shell."""
    return subprocess.run(
        [sys.executable, "-m", "counterpoint.engine.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def stable(lines: str) -> list[dict[str, Any]]:
    documents = [json.loads(line) for line in lines.splitlines()]
    for document in documents:
        for key in VOLATILE_KEYS:
            del document[key]
    return documents


def assert_one_line(capsys: pytest.CaptureFixture[str], *words: object) -> None:
    """The last line of stderr is the error; there is no traceback."""
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    error = [line for line in said.err.splitlines() if line.startswith("counterpoint: ")]
    assert len(error) == 1, said.err
    for word in words:
        assert str(word) in error[0]


# -- replay ----------------------------------------------------------------------------------------


def test_replay_prints_one_final_prediction_a_hop_and_redis_holds_the_same(
    bundle: Path, redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["replay", str(GRID_CLIP), "--chat", str(GRID_CHAT), "--speed", "max", "--json"]
    runs = []
    for session in ("one", "two"):
        code = main(
            [*arguments, "--bundle", str(bundle), "--redis", redis.url, "--session", session]
        )
        assert code == 0
        runs.append(capsys.readouterr().out)
    first, second = map(stable, runs)
    assert [document["window"] for document in first] == list(range(1, 13))
    assert {document["status"] for document in first} == {"final"}
    for document in first + second:
        del document["session"]
    assert first == second
    with redis.client() as client:
        entries: Any = client.xrange(predictions_key("one"))
    stored = [fields["data"] for _, fields in entries]
    assert stored == runs[0].splitlines()


def test_without_json_a_pipe_still_gets_json_lines(bundle: Path) -> None:
    done = counterpoint("replay", GRID_CLIP, "--speed", "max", "--bundle", bundle)
    assert done.returncode == 0, done.stderr
    assert len(stable(done.stdout)) == 12
    assert done.stderr == ""


def test_a_reader_that_goes_away_is_no_error(bundle: Path) -> None:
    command = f"{sys.executable} -m counterpoint.engine.cli replay {GRID_CLIP} --speed max --json"
    done = subprocess.run(
        ["bash", "-c", f"{command} --bundle {bundle} | head -n 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("codecs", "missing"), [({"audio_codec": None}, "audio"), ({"video_codec": None}, "video")]
)
def test_a_clip_without_a_modality_gives_predictions_that_say_so(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    codecs: dict[str, None],
    missing: str,
) -> None:
    clip = write_media(tmp_path / "clip.mkv", seconds=1.0, **codecs)  # type: ignore[arg-type]
    code = main(["replay", str(clip), "--speed", "max", "--json", "--bundle", str(bundle)])
    assert code == 0
    documents = stable(capsys.readouterr().out)
    assert len(documents) == 4
    for document in documents:
        report = document["modalities"][missing]
        assert (report["state"], report["reason"]) == ("missing", "no source")


# -- what can go wrong -----------------------------------------------------------------------------


def test_a_missing_file_is_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["replay", str(tmp_path / "none.mp4")]) == 2
    assert_one_line(capsys, tmp_path / "none.mp4")


def test_a_file_that_is_no_media_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(bytes(range(256)) * 40)
    assert main(["replay", str(path)]) == 1
    assert_one_line(capsys, path)


def test_a_truncated_file_plays_to_its_end_and_then_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path
) -> None:
    path = truncate(write_media(tmp_path / "clip.mkv", seconds=4.0), 0.5)
    assert main(["replay", str(path), "--speed", "max", "--json", "--bundle", str(bundle)]) == 1
    said = capsys.readouterr()
    assert [document["window"] for document in stable(said.out)] == list(range(1, 17))
    assert "went on to its end, but" in said.err
    assert "Traceback" not in said.err


def test_a_corrupt_chat_line_is_counted_and_skipped(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    bundle: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chat = tmp_path / "chat.jsonl"
    chat.write_text(
        '{"seconds": 0.1, "author": "ann", "text": "good"}\nnot json\n', encoding="utf-8"
    )
    arguments = ["replay", str(GRID_CLIP), "--chat", str(chat), "--speed", "max", "--json"]
    assert main([*arguments, "--bundle", str(bundle)]) == 0
    assert len(stable(capsys.readouterr().out)) == 12
    assert "corrupt chat line: 1 skipped" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [("[time]\nhop = 3\n", "unknown key 'hop'"), ("[tmie]\n", "unknown section 'tmie'")],
)
def test_an_unknown_configuration_key_is_named_with_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "counterpoint.toml"
    path.write_text(text, encoding="utf-8")
    assert main(["demo", "-c", str(path)]) == 2
    assert_one_line(capsys, f"{path}:", words)


def test_a_bundle_with_a_changed_byte_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(bundle, changed)
    model = next(changed.glob("models/vision/*.onnx"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    for arguments in (
        ["replay", str(GRID_CLIP), "--bundle", str(changed)],
        ["bundle", "verify", str(changed)],
    ):
        assert main(arguments) == 2
        assert_one_line(capsys, model.relative_to(changed), "sha256")


def test_a_device_that_is_not_there_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--device", "cuda"]) == 3
    assert_one_line(capsys, "cuda")


def test_redis_that_cannot_be_reached_at_the_start_is_stated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path
) -> None:
    url = f"unix://{tmp_path / 'none.sock'}"
    assert main(["replay", str(GRID_CLIP), "--redis", url, "--bundle", str(bundle)]) == 3
    assert_one_line(capsys, "none.sock")


def test_a_port_in_use_is_stated(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["replay", str(GRID_CLIP), "--redis", f"embedded:{port}"]
        assert main([*arguments, "--bundle", str(bundle)]) == 3
    assert_one_line(capsys, port)


def test_nobody_to_subscribe_to_is_stated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert main(["subscribe", "demo"]) == 3
    assert_one_line(capsys, "no embedded Redis")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["replay"],
        ["replay", "x.mp4", "--speed", "0"],
        ["replay", "x.mp4", "--speed", "fast"],
        ["demo", "--session", "a b"],
        ["demo", "--device", "tpu"],
        ["bundle"],
    ],
)
def test_wrong_usage_exits_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "source", ["mic:default", "irc://x/y", "clip.mp4", "file:"], ids=lambda s: s.replace("/", "_")
)
def test_a_kind_of_source_that_video_cannot_come_from_is_named(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--video", source]) == 2
    assert_one_line(capsys, source, "file:PATH")


def test_run_without_any_source_says_how_to_give_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert_one_line(capsys, "--video")


def test_a_bug_is_one_line_and_a_traceback_only_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> list[Path]:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("counterpoint.engine.cli.bundles.shipped_bundles", broken)
    assert main(["bundle", "list"]) == 1
    assert_one_line(capsys, "planted", "--debug")
    with pytest.raises(ZeroDivisionError):
        main(["bundle", "list", "--debug"])


# -- subscribe -------------------------------------------------------------------------------------


def test_a_subscriber_in_another_process_follows_the_demo_and_resumes_after_redis_restarts(
    bundle: Path, tmp_path: Path
) -> None:
    """As in two terminals: the engine plays on while Redis goes away and comes back."""
    with redis_server(appendonly=True) as server:
        common = ["--redis", server.url, "--json"]
        command = [sys.executable, "-m", "counterpoint.engine.cli"]
        made = tmp_path / "made.jsonl"
        with (
            made.open("w", encoding="utf-8") as made_file,
            subprocess.Popen(
                [*command, "subscribe", "demo", "--since", "start", "--until-end", *common],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as subscriber,
            subprocess.Popen(
                [*command, "demo", "--speed", "3", "--bundle", str(bundle), *common],
                stdout=made_file,
            ) as demo,
        ):
            try:
                assert subscriber.stdout is not None
                seen = [subscriber.stdout.readline() for _ in range(20)]
                server.restart()
                rest, said = subscriber.communicate(timeout=60)
                demo.wait(timeout=60)
            finally:
                subscriber.kill()
                demo.kill()
    assert (demo.returncode, subscriber.returncode) == (0, 0)
    documents = [json.loads(line) for line in [*seen, *rest.splitlines()]]
    assert [d["window"] for d in documents] == [
        json.loads(line)["window"] for line in made.read_text(encoding="utf-8").splitlines()
    ]
    assert documents[-1]["window"] == 108
    assert "session demo ended: done" in said


# -- bundles and machine ---------------------------------------------------------------------------


def test_bundle_commands_describe_and_verify(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "path", "--bundle", str(bundle)]) == 0
    assert capsys.readouterr().out.strip() == str(bundle)
    assert main(["bundle", "inspect", str(bundle), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["heads"]["sentiment"] == ["negative", "neutral", "positive"]
    assert main(["bundle", "inspect", str(bundle)]) == 0
    assert "graph fusion" in capsys.readouterr().out
    assert main(["bundle", "verify", str(bundle), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["graphs"]) == 6
    assert main(["bundle", "verify", str(bundle)]) == 0
    assert "golden outputs" in capsys.readouterr().out


def test_doctor_says_what_it_found(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--bundle", str(bundle)]) == 0
    checks = {c["name"]: c for c in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"python", "packages", "redis server", "gpu", "bundle"} <= set(checks)
    assert checks["bundle"]["status"] == "ok"
    assert main(["doctor", "--bundle", "nowhere"]) == 3
    assert "✗ bundle" in capsys.readouterr().out
