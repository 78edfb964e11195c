"""Modality dropout: in training, modalities are as they may be in service.

``missing`` and ``silent`` are states of the engine's fusion graph. ``stalled`` (the newest cells
are not there) and ``partial`` (gaps) are present to it, with a mask that says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from counterpoint.trainer.nets.model import MISSING, PRESENT, SILENT

_KINDS = 4  # missing, silent, stalled, partial


def states_of(masks: Mapping[str, Tensor]) -> Tensor:
    """(N, M) int64: present where a cell is there, else missing."""
    there = torch.stack([mask.amax(dim=1) > 0 for mask in masks.values()], dim=1)
    return torch.where(there, PRESENT, MISSING)


def drop_modalities(
    masks: Mapping[str, Tensor], probability: float
) -> tuple[dict[str, Tensor], Tensor]:
    """Masks and states with each modality of each row changed at ``probability``.

    At least one modality of a row stays present. What the table does not have is missing or
    silent, evenly: a table cannot tell a source that is not there from one that says nothing.

    Args:
        masks: modality -> (N, T) of 0 and 1.

    Returns:
        masks of the same shapes, and states (N, M).
    """
    first = next(iter(masks.values()))
    there = states_of(masks) == PRESENT
    rows, count = there.shape
    drawn = (torch.rand(rows, count, device=first.device) < probability) & there
    kind = torch.randint(0, _KINDS, (rows, count), device=first.device)
    gone = drawn & (kind < 2)
    # Where all would go, one that is drawn evenly stays.
    chance = torch.rand(rows, count, device=first.device).masked_fill(~there, -1)
    stays = torch.zeros_like(there).scatter(1, chance.argmax(dim=1, keepdim=True), 1).bool()
    gone &= ~(stays & (there & ~gone).logical_not().all(dim=1, keepdim=True))
    silent = torch.where(gone, kind == 1, torch.rand(rows, count, device=first.device) < 0.5)
    state = torch.where(there & ~gone, PRESENT, torch.where(silent, SILENT, MISSING))
    changed = {
        name: _thin(mask, drawn[:, index], kind[:, index]) * (~gone[:, index]).unsqueeze(1)
        for index, (name, mask) in enumerate(masks.items())
    }
    return changed, state


def _thin(mask: Tensor, drawn: Tensor, kind: Tensor) -> Tensor:
    """Stalled and partial; a row of which nothing would be left stays as it was."""
    rows, cells = mask.shape
    newest = torch.arange(cells, 0, -1, device=mask.device)
    span = torch.rand(rows, 1, device=mask.device) * cells / 2
    stalled = mask * (newest > span)
    partial = mask * (torch.rand(mask.shape, device=mask.device) < 0.5)
    choice = (drawn & (kind >= 2)).unsqueeze(1)
    out = torch.where(choice, torch.where(kind.unsqueeze(1) == 2, stalled, partial), mask)
    empty = out.amax(dim=1, keepdim=True) == 0
    return torch.where(empty, mask, out)
