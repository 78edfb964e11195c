"""What a figure has to be read with: when, on what, at which commit, by which command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def circumstances() -> dict[str, str]:
    """Date, machine, versions, commit and command of this run."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": f"Python {platform.python_version()}, "
        f"ONNX Runtime {version('onnxruntime')}, NumPy {version('numpy')}",
        "commit": _commit(),
        "command": " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit, with ``+`` behind it when files have changed since; empty outside of git."""
    try:
        head, changed = (
            subprocess.run(
                ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
            ).stdout.strip()
            for arguments in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}+" if changed else head


def finish(document: dict[str, object], out: Path | None) -> None:
    """Print the document as the last line, and write it to ``out``."""
    text = json.dumps(document)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    print(text)
