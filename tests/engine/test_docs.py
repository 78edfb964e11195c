"""What the documents say is what the code does."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import asdict
from pathlib import Path

from counterpoint.engine.cli import parse_arguments
from counterpoint.engine.config import Config, load_config

ROOT = Path(__file__).parents[2]


def test_the_configuration_document_lists_every_key_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    assert tomllib.loads(block[1]) == asdict(Config())
    path = tmp_path / "all.toml"
    path.write_text(block[1], encoding="utf-8")
    assert load_config(path) == Config()


def test_the_readmes_commands_are_ones_the_command_line_takes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"(?m)^ +\.venv/bin/counterpoint (.*)$", text)
    assert len(commands) >= 3
    for command in commands:
        parse_arguments(shlex.split(command))
    table = re.findall(r"(?m)^\| `counterpoint ([a-z]+)", text)
    assert table == [
        "demo",
        "replay",
        "run",
        "serve",
        "record",
        "replay",
        "timeline",
        "subscribe",
        "bundle",
        "devices",
        "token",
        "doctor",
    ]


def test_links_between_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert broken == []


def test_the_structure_document_names_every_module_of_engine_and_streams_and_no_other() -> None:
    text = (ROOT / "docs/structure.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:engine|streams)\.[a-z0-9_]+)`", text))
    there = {
        f"{layer}.{path.stem}"
        for layer in ("engine", "streams")
        for path in (ROOT / layer / "counterpoint" / layer).iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    assert named == there
