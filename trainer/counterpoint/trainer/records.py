"""What a run leaves behind: resolved configuration, stage times, metrics, weights. No pickle."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from counterpoint.streams.errors import UsageError


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@dataclass(slots=True)
class StageRecord:
    """One stage of a run: its folder, its metrics, the wall time of its steps and its CPU time.

    Every line said goes to standard output and to ``log.txt``.
    """

    folder: Path
    name: str
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log.txt").write_text("")

    def say(self, line: str) -> None:
        text = f"[{self.name} {time.perf_counter() - self.started:7.1f} s] {line}"
        print(text, flush=True)
        with (self.folder / "log.txt").open("a") as file:
            file.write(text + "\n")

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - start, 1)
        self.say(f"{step}: {self.seconds[step]} s")

    def finish(self) -> None:
        self.seconds["total"] = round(time.perf_counter() - self.started, 1)
        # On a shared machine the wall says more about the neighbours than about the stage.
        self.seconds["cpu"] = round(time.process_time(), 1)
        write_json(self.folder / "metrics.json", {"metrics": self.metrics, "seconds": self.seconds})
        self.say(f"done in {self.seconds['total']} s")


def save_weights(path: Path, module: nn.Module) -> None:
    """All parameters and buffers as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, str(path))


def load_weights(path: Path, module: nn.Module) -> None:
    """The inverse of `save_weights`.

    Raises:
        UsageError: the stage that writes ``path`` has not run.
    """
    if not path.exists():
        raise UsageError(f"{path} is missing; run the stage {path.parent.name!r} first")
    module.load_state_dict(load_file(str(path)))


def save_arrays(path: Path, **arrays: Tensor | np.ndarray[Any, Any]) -> None:
    """Named arrays as one uncompressed npz, written under a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("partial." + path.name)
    plain = {
        name: value.numpy() if isinstance(value, Tensor) else value
        for name, value in arrays.items()
    }
    np.savez(partial, **plain)  # type: ignore[arg-type] # the stub takes allow_pickle for a name
    partial.replace(path)


def load_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    if not path.exists():
        raise UsageError(f"{path} is missing; run the stage {path.parent.name!r} first")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def multiplies_in_bfloat16() -> bool:
    """Whether this processor has the instructions; without them it is ten times slower, not
    faster."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def seed_everything(seed: int, threads: int = 1) -> torch.Generator:
    """Fix every random source a stage uses and give the generator for its data order."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
