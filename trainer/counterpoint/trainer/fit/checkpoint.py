"""Checkpoints without pickle: one safetensors file, with all that is no tensor as JSON inside.

Lightning's own checkpoints are pickles, which run whatever they were made to run when they are
read. Here tensors are tensors and the rest (loops, schedules, callbacks) is a tree of plain
values in the file's metadata, under a schema version.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import torch
from lightning.fabric.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from counterpoint.streams.errors import UsageError

FORMAT: Final = "counterpoint-fit"
SCHEMA_VERSION: Final = 1
_TENSOR, _TUPLE, _MAP, _FLOAT = "$tensor", "$tuple", "$map", "$float"


class SafetensorsIO(CheckpointIO):
    """Lightning's checkpoints as safetensors."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ARG002 # Lightning's interface
    ) -> None:
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,  # noqa: ARG002 # Lightning moves what it loads
        weights_only: bool | None = None,  # noqa: ARG002 # there is nothing else in it
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write under a temporary name, then rename: an interruption leaves the old one whole.

    Raises:
        TypeError: something in it is neither tensor nor plain value.
    """
    tensors: dict[str, Tensor] = {}
    tree = _plain(checkpoint, "", tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    metadata = {
        "format": FORMAT,
        "schema_version": str(SCHEMA_VERSION),
        "state": json.dumps(tree, allow_nan=False),
    }
    save_file(tensors, str(partial), metadata=metadata)
    partial.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The inverse of `write_checkpoint`.

    Raises:
        UsageError: no such file, no checkpoint of a fit, or one of another schema.
    """
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UsageError(f"{path}: is no checkpoint of counterpoint-trainer fit")
            version = metadata.get("schema_version")
            if version != str(SCHEMA_VERSION):
                raise UsageError(
                    f"{path}: is a checkpoint of schema {version}, this trainer reads "
                    f"{SCHEMA_VERSION}; resume it with the version that wrote it, or fit anew"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checkpoint: dict[str, Any] = _restored(json.loads(metadata["state"]), tensors)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    return checkpoint


def _plain(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A tree that JSON can hold; tensors go to ``tensors`` by their path in it."""
    match value:
        case Tensor():
            # A copy: parameters that share memory cannot be stored under two names.
            tensors[path] = value.detach().cpu().contiguous().clone()
            return {_TENSOR: path}
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {_FLOAT: str(value)}
        case Path():
            return str(value)
        case tuple():
            return {_TUPLE: [_plain(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
        case list():
            return [_plain(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
        case dict():
            # As pairs: JSON would turn keys that are numbers into strings.
            return {_MAP: [[key, _plain(v, f"{path}/{key}", tensors)] for key, v in value.items()]}
    raise TypeError(f"a checkpoint cannot hold {path} of {type(value).__name__}")


def _restored(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "$tensor":
            return tensors[content]
        case "$float":
            return float(content)
        case "$tuple":
            return tuple(_restored(item, tensors) for item in content)
    return {key: _restored(item, tensors) for key, item in content}


def weights_of(path: Path, prefix: str = "model.") -> dict[str, Tensor]:
    """The network's parameters in a checkpoint, without ``prefix``.

    Raises:
        UsageError: as `read_checkpoint`.
    """
    state: dict[str, torch.Tensor] = read_checkpoint(path)["state_dict"]
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
