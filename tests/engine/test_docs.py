"""What the documents say is what the code does."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict
from pathlib import Path

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


def test_links_between_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert broken == []


def test_every_module_named_in_the_structure_document_exists() -> None:
    text = (ROOT / "docs/structure.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:engine|streams)\.[a-z_]+)`", text):
        layer, module = name.split(".")
        folder = ROOT / layer / "counterpoint" / layer / module
        assert folder.with_suffix(".py").exists() or (folder / "__init__.py").exists(), name
