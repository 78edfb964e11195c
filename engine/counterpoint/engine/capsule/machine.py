"""On what a capsule was made: what decides whether a replay can be the same to the bit."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("counterpoint", "onnxruntime", "numpy", "av", "soxr"),
    *("opencv-python-headless", "tokenizers"),
)
_DRIFT = ("river",)
_CPUINFO = Path("/proc/cpuinfo")


def fingerprint(*, drift: bool = False) -> dict[str, Any]:
    """CPU model and instruction flags, and the version of everything that computes.

    Args:
        drift: whether river computes, too.

    Two machines with equal fingerprints give the same bits.
    """
    model, flags = _cpu()
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": model,
        "flags": flags,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in (*_PACKAGES, *(_DRIFT if drift else ()))},
    }


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys in which two fingerprints differ; empty if they are the same."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def commit() -> str | None:
    """The git commit of the source tree that this package runs from, if it does."""
    for folder in Path(__file__).resolve().parents:
        git = folder / ".git"
        if not git.is_dir():
            continue
        try:
            head = (git / "HEAD").read_text(encoding="ascii").strip()
            if head.startswith("ref: "):
                head = (git / head[5:]).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return head if re.fullmatch(r"[0-9a-f]{40,64}", head) else None
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> tuple[str, str]:
    """Model and sorted instruction flags of the first core."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return platform.processor() or "unknown", ""
    entries = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    model = entries.get("model name") or entries.get("CPU part") or "unknown"
    flags = entries.get("flags") or entries.get("Features") or ""
    return model, " ".join(sorted(flags.split()))
