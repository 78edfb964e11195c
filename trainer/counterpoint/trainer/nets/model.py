"""The whole network: encoders of cells, pooling over a window, fusion, heads.

It is cut as the engine's graphs are, so that a trained one is a bundle's graphs already: a cell (a
picture, a hop of sound, a line) is encoded by itself, the rest happens once a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

MISSING, PRESENT, SILENT = 0, 1, 2
"""States as the engine's fusion graph knows them."""

NAMES: Final = ("video", "audio", "text")
Cells = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What the network says of N windows.

    Fields:
        fused: task -> (N, C) logits, or (N, 1) for a number.
        single: task -> (N, M, C), what each modality says by itself.
    """

    fused: Mapping[str, Tensor]
    single: Mapping[str, Tensor]


class Blank(nn.Module):
    """The encoder of what a model does not use: zeros, one wide."""

    def __init__(self, rows: int = 0) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, first: Tensor, *_: Tensor) -> Tensor:
        if self.rows:
            return torch.zeros_like(first[:, : self.rows, :1], dtype=torch.float32)
        return torch.zeros_like(first.flatten(1)[:, :1], dtype=torch.float32)


class LineEncoder(nn.Module):
    """A line's words and its hashed n-grams, one vector after the other."""

    def __init__(self, words: nn.Module, ngrams: nn.Module) -> None:
        super().__init__()
        self.words, self.ngrams = words, ngrams

    def forward(self, input_ids: Tensor, attention_mask: Tensor, buckets: Tensor) -> Tensor:
        return torch.cat((self.words(input_ids, attention_mask), self.ngrams(buckets)), dim=1)


class Model(nn.Module):
    """Encoders, pooling and fusion.

    Args:
        encoders: by modality; video (K, 1, S, S) -> (K, W), audio (K, F, B) -> (K, steps, W),
            text (ids, mask, buckets) -> (K, W).
        pools: by modality, `nets.pooling`.
        fusion: `nets.fusion`.
        width: of a modality's vector.
        tasks: number of logits of each task.
    """

    missing: Tensor

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        pools: Mapping[str, nn.Module],
        fusion: nn.Module,
        *,
        width: int,
        tasks: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.modalities = tuple(name for name in NAMES if name in encoders)
        self.tasks = tuple(tasks)
        self.encoders = nn.ModuleDict({name: encoders[name] for name in self.modalities})
        self.pools = nn.ModuleDict({name: pools[name] for name in self.modalities})
        # Modality by modality, for each the tasks in order.
        self.single = nn.ModuleList(
            nn.Linear(width, size) for _ in self.modalities for size in tasks.values()
        )
        self.fusion = fusion
        self.missing = nn.Parameter(torch.zeros(2, len(self.modalities), width))
        for index, size in enumerate(tasks.values()):
            self.register_buffer(f"prior_{index}", torch.zeros(size))

    def set_prior(self, task: str, logits: Tensor) -> None:
        """What is said where nothing is heard: the log of the classes' shares in train."""
        self._prior(task).copy_(logits)

    def _prior(self, task: str) -> Tensor:
        return self.get_buffer(f"prior_{self.tasks.index(task)}")

    def encode(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Cells (N, T, W) and their mask (N, T) of each modality, from a batch as `fit.dataset`
        gives it. Only cells that are there are encoded."""
        return {name: self._encode(name, batch) for name in self.modalities}

    def _encode(self, name: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        mask = batch[f"{name}_mask"]
        inputs = [batch[key] for key in INPUTS[name]]
        encoder = self.encoders[name]
        cells, steps = inputs[0].shape[1], mask.shape[1] // inputs[0].shape[1]
        there = mask.view(len(mask), cells, steps).amax(dim=2) > 0
        if not there.any():
            # One row, so that every parameter takes part and the width is known.
            first = torch.zeros_like(there)
            first[0, 0] = True
            found = encoder(*(tensor[first] for tensor in inputs)) * 0.0
            there = first
        else:
            found = encoder(*(tensor[there] for tensor in inputs))
        width = found.shape[-1]
        out = found.new_zeros(len(mask), cells, steps, width)
        out[there] = found.view(-1, steps, width)
        return out.view(len(mask), cells * steps, width), mask

    def forward(self, cells: Cells, state: Tensor) -> Answers:
        """
        Args:
            cells: as `encode` gives them.
            state: (N, M) int64, `MISSING`, `PRESENT` or `SILENT`.
        """
        return self.answer(self.tokens(cells), state)

    def tokens(self, cells: Cells) -> Tensor:
        """(N, M, D): each modality's own vector."""
        pooled = [torch.tanh(self.pools[name](*cells[name])) for name in self.modalities]
        return torch.stack(pooled, dim=1)

    def answer(self, tokens: Tensor, state: Tensor) -> Answers:
        """What is said of modalities' vectors in these states."""
        there = state == PRESENT
        silent = (state == SILENT).unsqueeze(2)
        learned = torch.where(silent, self.missing[1], self.missing[0])
        filled = torch.where(there.unsqueeze(2), tokens, learned)
        own = [head(filled[:, index // len(self.tasks)]) for index, head in enumerate(self.single)]
        single = {
            task: torch.stack(own[index :: len(self.tasks)], dim=1)
            for index, task in enumerate(self.tasks)
        }
        fused = self.fusion(filled, there, single)
        heard = there.to(tokens.dtype).sum(dim=1, keepdim=True) > 0
        return Answers(
            fused={
                task: torch.where(heard, logits, self._prior(task))
                for task, logits in fused.items()
            },
            single=single,
        )


INPUTS: Final[Mapping[str, Sequence[str]]] = {
    "video": ("faces",),
    "audio": ("logmel",),
    "text": ("input_ids", "attention_mask", "buckets"),
}
"""Tensors of a batch that each encoder takes, in order; each (N, cells, …)."""
