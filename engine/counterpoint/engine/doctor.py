"""What this machine can do for Counterpoint, and what to do about what it cannot."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from counterpoint.engine.bundle import default_bundle_path
from counterpoint.engine.device import open_device
from counterpoint.engine.golden import verify_bundle
from counterpoint.engine.redis_server import find_server_binary
from counterpoint.streams.errors import CounterpointError

Status = Literal["ok", "note", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.

    Fields:
        name: what was looked at.
        status: ``ok``; ``note`` (works, but less is to be had); ``fail`` (the engine cannot run).
        detail: what was found.
        remedy: what to do, empty when there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(bundle: Path | None = None, device: str = "auto") -> Iterator[Check]:
    """All checks, one after the other; each catches its own trouble."""
    yield Check(
        name="python",
        status="ok" if sys.version_info >= (3, 11) else "fail",
        detail=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        remedy="" if sys.version_info >= (3, 11) else "install Python 3.11 or newer",
    )
    yield Check(name="processor", status="ok", detail=f"{os.cpu_count()} cores")
    yield _packages()
    yield _torchvision()
    yield _guarded("redis server", _redis_server)
    yield _guarded("gpu", _gpu)
    yield _guarded("bundle", lambda: _bundle(bundle, device))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except CounterpointError as error:
        return Check(name=name, status="fail", detail=str(error))


def _packages() -> Check:
    names = ("av", "numpy", "onnxruntime", "opencv-python-headless", "redis", "soxr", "tokenizers")
    found: list[str] = []
    missing: list[str] = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(
            name="packages",
            status="fail",
            detail=f"missing: {', '.join(missing)}",
            remedy="install them: make run, or pip install counterpoint",
        )
    return Check(name="packages", status="ok", detail=", ".join(found))


def _torchvision() -> Check:
    """A torchvision made for another torch breaks transformers with an unrelated message."""
    if importlib.util.find_spec("torch") is None:
        return Check(
            name="trainer",
            status="note",
            detail="torch is not installed; the engine runs without it",
            remedy="for training: pip install 'counterpoint[trainer]'",
        )
    torch_version = importlib.metadata.version("torch")
    if importlib.util.find_spec("torchvision") is not None:
        return Check(
            name="trainer",
            status="note",
            detail=f"torch {torch_version} with torchvision "
            f"{importlib.metadata.version('torchvision')}: Counterpoint needs no torchvision, "
            "and one built for another torch breaks the trainer's libraries",
            remedy="if the trainer reports torchvision::nms: pip uninstall torchvision",
        )
    return Check(name="trainer", status="ok", detail=f"torch {torch_version}")


def _redis_server() -> Check:
    return Check(name="redis server", status="ok", detail=f"embedded from {find_server_binary()}")


def _gpu() -> Check:
    try:
        device = open_device("cuda")
    except CounterpointError as error:
        return Check(
            name="gpu",
            status="note",
            detail=str(error),
            remedy="none needed: the engine runs on the CPU",
        )
    device.close()
    return Check(name="gpu", status="ok", detail=device.name)


def _bundle(path: Path | None, choice: str) -> Check:
    verified = verify_bundle(path or default_bundle_path(), choice)
    bundle = verified.bundle
    return Check(
        name="bundle",
        status="ok",
        detail=f"{bundle.manifest.id} {bundle.digest[:12]}: {len(verified.results)} graphs give "
        f"their golden outputs on {verified.device}",
    )
