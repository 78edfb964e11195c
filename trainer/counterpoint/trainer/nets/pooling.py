"""Over the cells of a window: (N, T, W) and a mask (N, T) of 0 and 1 -> (N, D).

A cell that is masked has no influence, whatever stands there. A row with nothing there gives
finite values of no meaning.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.streams.errors import UsageError


class MeanPool(nn.Module):
    """The mean of what is there."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, out)

    def forward(self, cells: Tensor, mask: Tensor) -> Tensor:
        there = mask.unsqueeze(2)
        kept = torch.where(there > 0, cells, torch.zeros_like(cells))
        pooled: Tensor = self.project(kept.sum(dim=1) / there.sum(dim=1).clamp(min=1))
        return pooled


class AttentionPool(nn.Module):
    """A weighted mean; the weights are learned from the cells themselves."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, out), nn.Tanh(), nn.Linear(out, 1))
        self.project = nn.Linear(width, out)

    def forward(self, cells: Tensor, mask: Tensor) -> Tensor:
        there = mask.unsqueeze(2) > 0
        kept = torch.where(there, cells, torch.zeros_like(cells))
        weight = torch.softmax(self.score(kept).masked_fill(~there, -1e4), dim=1)
        pooled: Tensor = self.project((weight * kept).sum(dim=1))
        return pooled


class RecurrentPool(nn.Module):
    """A GRU or LSTM in both directions, then attention over the steps that are there.

    A masked step is a learned vector before the recurrence and has no weight after it.
    """

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(width))
        layer = nn.GRU if kind == "gru" else nn.LSTM
        self.recurrent = layer(width, out, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * out, 1)
        self.project = nn.Linear(2 * out, out)

    def forward(self, cells: Tensor, mask: Tensor) -> Tensor:
        there = mask.unsqueeze(2) > 0
        # `where`, not a product: it also keeps out what is not finite.
        states, _ = self.recurrent(torch.where(there, cells, self.missing))
        weight = torch.softmax(self.attention(states).masked_fill(~there, -1e4), dim=1)
        pooled: Tensor = self.project((weight * states).sum(dim=1))
        return pooled


def make_pool(kind: str, width: int, out: int) -> nn.Module:
    """``mean``, ``attention``, ``gru`` or ``lstm``."""
    match kind:
        case "mean":
            return MeanPool(width, out)
        case "attention":
            return AttentionPool(width, out)
        case "gru" | "lstm":
            return RecurrentPool(width, out, kind)
    raise UsageError(f"pool: there is no {kind!r}; there are mean, attention, gru, lstm")
