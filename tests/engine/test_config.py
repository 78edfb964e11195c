"""Configuration is strict, and its errors say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from counterpoint.engine.config import Config, ConfigError, load_config


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "counterpoint.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file() -> None:
    assert load_config() == Config()


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[time]\ndeadline_ms = 400\n"))
    assert config.time.deadline_ms == 400
    assert config.time.idle_ms == Config().time.idle_ms
    assert config.redis == Config().redis


def test_a_set_pair_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[redis]\nurl = "redis://a"\n')
    assert load_config(path, ["redis.url=redis://b"]).redis.url == "redis://b"
    assert load_config(path, ['redis.url="redis://c"']).redis.url == "redis://c"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[time]\n\ndeadline = 3\n", 3, "unknown key 'deadline'"),
        ("# x\n[tiem]\nhop_ms = 3\n", 2, "unknown section 'tiem'"),
        ('[time]\nhop_ms = "3"\n', 2, "must be int"),
        ("[time]\nhop_ms = true\n", 2, "must be int"),
        ("[redis]\nqueue_size = 0\n", 2, "queue_size must be at least 2"),
        ("time = 3\n", 1, "must be a table"),
        ("time.hop = 3\n", 1, "unknown key 'hop'"),
        ("\ntime = { hop = 3 }\n", 2, "unknown key 'hop'"),
        ('[engine]\ndevice = "tpu"\n', 2, "device is auto, cpu or cuda"),
    ],
)
def test_an_error_names_file_line_and_remedy(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pair", ["time", "time.hop_ms", "=3", "a.b.c=3", "nope.x=1", "time.x=1"])
def test_a_bad_set_pair_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_config(None, [pair])


def test_a_missing_file_and_bad_toml_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 1"):
        load_config(write(tmp_path, "time = = 3\n"))
