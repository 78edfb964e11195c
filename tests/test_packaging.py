"""What is installed: the three packages in one namespace, the data they need, and no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_a_wheel_has_only_the_namespace_at_its_top(wheel: zipfile.ZipFile) -> None:
    names = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"counterpoint"}
    assert "counterpoint/__init__.py" not in wheel.namelist()


@pytest.mark.parametrize(
    "path",
    [
        "engine/bundles/affect/manifest.json",
        "engine/bundles/affect/MODEL_CARD.md",
        "engine/demo/session.mp4",
        "engine/demo/chat.jsonl",
        "engine/demo/ATTRIBUTION.md",
        "engine/server/page/index.html",
        "engine/server/page/app.js",
        "engine/server/page/style.css",
        "engine/py.typed",
        "streams/py.typed",
        "trainer/py.typed",
    ],
)
def test_a_wheel_has_the_data_that_the_first_minutes_need(
    wheel: zipfile.ZipFile, path: str
) -> None:
    assert f"counterpoint/{path}" in wheel.namelist()


def test_the_shipped_bundle_is_at_most_40_mb(wheel: zipfile.ZipFile) -> None:
    sizes = [i.file_size for i in wheel.infolist() if "/bundles/affect/" in i.filename]
    assert 0 < sum(sizes) <= 40_000_000


def test_the_engine_asks_for_no_torch(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    needs = [
        line.removeprefix("Requires-Dist: ")
        for line in wheel.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist: ")
    ]
    assert any(need.startswith("torch") and "extra == 'trainer'" in need for need in needs)
    always = {need.split(">")[0].split("<")[0] for need in needs if "extra ==" not in need}
    assert not always & {"torch", "transformers", "onnx", "scikit-learn"}


def test_the_command_line_loads_without_the_trainers_libraries() -> None:
    script = (
        "import sys; import counterpoint.engine.cli; "
        "print(sorted({'torch', 'transformers', 'onnx', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


VERIFY = "from counterpoint.engine.cli import main; main(['bundle', 'verify'])"


@pytest.mark.parametrize(
    "script",
    [VERIFY, f"import counterpoint.trainer.sentence; {VERIFY}"],
    ids=["engine", "trainer"],
)
def test_running_models_reports_nothing_to_the_runtimes_vendor(script: str, tmp_path: Path) -> None:
    """ONNX Runtime's telemetry, where it is on, keeps an identifier below the home directory."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    }
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, timeout=90
    )
    found = [str(path) for path in tmp_path.rglob("*")]
    assert not any("microsoft" in path.lower() or "onnxruntime" in path for path in found), found
