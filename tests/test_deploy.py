"""The container files, as far as they can be checked without a container engine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from counterpoint.engine.cli import parse_arguments

ROOT = Path(__file__).parents[1]
CONTAINERFILE = ROOT / "deploy/Containerfile"


def instructions() -> list[tuple[str, str]]:
    text = CONTAINERFILE.read_text(encoding="utf-8")
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    found = []
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        name, _, rest = line.partition(" ")
        found.append((name.upper(), rest.strip()))
    return found


def stages() -> list[list[tuple[str, str]]]:
    result: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            result.append([])
        result[-1].append((name, rest))
    return result


def last(name: str) -> str:
    return [rest for found, rest in stages()[-1] if found == name][-1]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_every_instruction_is_one_that_container_engines_know() -> None:
    known = {
        *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER"),
        *("HEALTHCHECK", "ENTRYPOINT", "CMD", "EXPOSE", "ARG", "LABEL"),
    }
    assert {name for name, _ in instructions()} <= known


def test_everything_copied_exists_and_is_let_through_by_the_ignore_file() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    let_through = {line[1:] for line in ignore if line.startswith("!")}
    assert ignore[0] == "*"
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            *sources, _ = shlex.split(rest)
            for source in sources:
                assert (ROOT / source).exists(), source
                assert source in let_through, source


def test_the_image_is_not_root_and_has_no_torch() -> None:
    user = last("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a numeric id, so that Kubernetes can check it"
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert installs
    assert not any("trainer]" in rest or "torch" in rest for rest in installs)


def test_the_images_own_commands_are_ones_the_command_line_takes() -> None:
    entrypoint = yaml.safe_load(last("ENTRYPOINT"))
    assert entrypoint == ["counterpoint"]
    parse_arguments(yaml.safe_load(last("CMD")))
    health = yaml.safe_load(last("HEALTHCHECK").split("CMD", 1)[1])
    assert health[0] == "counterpoint"
    parse_arguments(health[1:])


def test_compose_starts_the_engine_after_redis_with_a_command_it_takes(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    engine = services["engine"]
    assert (ROOT / "deploy" / engine["build"]["context"]).resolve() == ROOT
    assert (ROOT / engine["build"]["dockerfile"]) == CONTAINERFILE
    assert engine["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert services["redis"]["healthcheck"]["test"][0] == "CMD"
    arguments = parse_arguments(engine["command"])
    assert arguments.redis.startswith("redis://redis:")
    assert engine["cap_drop"] == ["ALL"]
    assert engine["read_only"] is True


def test_commands_in_the_compose_files_comments_are_ones_the_command_line_takes() -> None:
    text = (ROOT / "deploy/compose.yaml").read_text(encoding="utf-8")
    commands = re.findall(r"run --rm engine (.*)", text)
    assert len(commands) == 2
    for command in commands:
        parse_arguments(shlex.split(command))
