"""The processes of a fit: one, or as many as torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from counterpoint.streams.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among its like."""

    rank: int = 0
    world: int = 1
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started; by itself, this one alone.

    Args:
        device: ``cuda`` for NCCL, else gloo.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ:
        yield Processes()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Processes(
            rank=int(os.environ["RANK"]),
            world=world,
            local_world=int(os.environ["LOCAL_WORLD_SIZE"]),
        )
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def device_of(wanted: str) -> str:
    """``cpu`` or ``cuda``.

    Raises:
        UsageError: ``cuda`` where there is none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UsageError("fit.device: 'cuda' is not to be had here; take 'auto' or 'cpu'")
    return "cuda" if wanted != "cpu" and there else "cpu"
