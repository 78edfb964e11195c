"""Fusion operators behind one interface, and what makes logits of them.

An operator takes a vector for each modality, (N, M, D), and which of them are there, (N, M), and
gives (N, F); its width F is its attribute ``out``. The vector of a modality that is not there is
a learned one, which starts as the operator's neutral element where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from counterpoint.streams.errors import UsageError
from counterpoint.trainer.nets.registry import Factory, make


class Concat(nn.Module):
    """One after the other."""

    def __init__(self, *, modalities: int, width: int) -> None:
        super().__init__()
        self.out = modalities * width

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:  # noqa: ARG002 # one interface
        return tokens.flatten(1)


class Add(nn.Module):
    """The sum."""

    def __init__(self, *, modalities: int, width: int) -> None:  # noqa: ARG002 # one interface
        super().__init__()
        self.out = width

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:  # noqa: ARG002 # one interface
        return tokens.sum(dim=1)


class Multiply(nn.Module):
    """The product of ``1 + token``: 1 is neutral, so what says nothing changes nothing."""

    def __init__(self, *, modalities: int, width: int) -> None:
        super().__init__()
        self.modalities, self.out = modalities, width

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:  # noqa: ARG002 # one interface
        product = 1 + tokens[:, 0]
        for index in range(1, self.modalities):
            product = product * (1 + tokens[:, index])
        return product


class Gated(nn.Module):
    """A sum with gates that all modalities decide on together (Arevalo et al. 2017)."""

    def __init__(self, *, modalities: int, width: int) -> None:
        super().__init__()
        self.out = width
        self.gate = nn.Linear(modalities * width, modalities * width)

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:  # noqa: ARG002 # one interface
        gates = torch.sigmoid(self.gate(tokens.flatten(1))).view_as(tokens)
        fused: Tensor = (gates * tokens).sum(dim=1)
        return fused


class CrossAttention(nn.Module):
    """Each modality asks the others (multi-head attention over those that are there)."""

    def __init__(self, *, modalities: int, width: int, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise TypeError(f"width {width} cannot be divided among {heads} heads")
        self.out, self.heads, self.size = modalities * width, heads, width // heads
        self.place = nn.Parameter(0.1 * torch.randn(modalities, width))
        self.ask = nn.Linear(width, width)
        self.tell = nn.Linear(width, 2 * width)
        self.join = nn.Linear(width, width)

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        count = tokens.shape[1]
        placed = tokens + self.place
        query = self._split(self.ask(placed), count)
        key, value = (self._split(part, count) for part in self.tell(placed).chunk(2, dim=2))
        score = query @ key.transpose(2, 3) / self.size**0.5
        # With nothing there all scores are alike: finite, and without meaning.
        score = score.masked_fill(~there[:, None, None, :], -1e4)
        heard = (torch.softmax(score, dim=3) @ value).transpose(1, 2).flatten(2)
        fused: Tensor = (tokens + self.join(heard)).flatten(1)
        return fused

    def _split(self, values: Tensor, count: int) -> Tensor:
        return values.reshape(-1, count, self.heads, self.size).transpose(1, 2)


class LowRank(nn.Module):
    """Low-rank tensor fusion (Liu et al. 2018, arXiv:1806.00064): the outer product of all
    modalities, each with a 1 appended, through a weight tensor of rank ``rank``."""

    def __init__(self, *, modalities: int, width: int, rank: int = 4) -> None:
        super().__init__()
        self.out, self.modalities, self.rank = width, modalities, rank
        self.factors = nn.ModuleList(nn.Linear(width, rank * width) for _ in range(modalities))
        self.weight = nn.Parameter(torch.full((rank,), rank**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:  # noqa: ARG002 # one interface
        product: Tensor | None = None
        for index, factor in enumerate(self.factors):
            part = factor(tokens[:, index]).view(-1, self.rank, self.out)
            product = part if product is None else product * part
        if product is None:
            raise ValueError("no modality")
        return (product * self.weight.view(1, -1, 1)).sum(dim=1) + self.bias


OPERATORS: Final[dict[str, Factory]] = {
    "concat": Concat,
    "add": Add,
    "multiply": Multiply,
    "gated": Gated,
    "cross_attention": CrossAttention,
    "low_rank": LowRank,
}


class FeatureFusion(nn.Module):
    """An operator, then a perceptron for each task."""

    def __init__(
        self, operator: nn.Module, tasks: Mapping[str, int], *, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        out = getattr(operator, "out", None)
        if not isinstance(out, int):
            raise UsageError("fusion.kind: an operator must have an attribute 'out', its width")
        self.operator, self.tasks = operator, tuple(tasks)
        # Lists, in the tasks' order: as keys of modules some names ("type") are not allowed.
        self.heads = nn.ModuleList(
            perceptron(out, hidden, size, dropout) for size in tasks.values()
        )

    def forward(
        self,
        tokens: Tensor,
        there: Tensor,
        single: Mapping[str, Tensor],  # noqa: ARG002 # one interface
    ) -> dict[str, Tensor]:
        fused = self.operator(tokens, there)
        return {name: head(fused) for name, head in zip(self.tasks, self.heads, strict=True)}


class LateFusion(nn.Module):
    """The modalities' own logits, weighted and summed, and a gated residual of all together.

    The residual counts only where two or more are there, so one alone keeps its own answer.
    """

    def __init__(
        self,
        modalities: int,
        width: int,
        tasks: Mapping[str, int],
        *,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.raw_weight = nn.Parameter(
            torch.full((len(tasks), modalities), 0.5413)
        )  # softplus gives 1
        self.gate = nn.Parameter(torch.full((len(tasks),), -2.0))
        self.residual = nn.ModuleList(
            perceptron(modalities * width, hidden, size, dropout) for size in tasks.values()
        )

    def forward(
        self, tokens: Tensor, there: Tensor, single: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        present = there.unsqueeze(2)
        several = (present.to(tokens.dtype).sum(dim=1) > 1).to(tokens.dtype)
        logits = {}
        for index, (name, residual) in enumerate(zip(self.tasks, self.residual, strict=True)):
            weight = nn.functional.softplus(self.raw_weight[index]).view(1, -1, 1)
            own = single[name] * weight
            total = torch.where(present, own, torch.zeros_like(own)).sum(dim=1)
            gate = torch.sigmoid(self.gate[index]) * several
            logits[name] = total + gate * residual(tokens.flatten(1))
        return logits


def perceptron(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout, linear; the softmax is the loss's or the engine's."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )


def make_fusion(
    kind: str,
    options: Mapping[str, Any],
    *,
    modalities: int,
    width: int,
    tasks: Mapping[str, int],
    hidden: int,
    dropout: float,
) -> nn.Module:
    """``late``, one of `OPERATORS`, or an operator by its dotted path.

    Raises:
        UsageError: no such kind, or it does not take these options.
    """
    if kind == "late":
        if options:
            raise UsageError(f"fusion.options: 'late' takes none, not {dict(options)}")
        return LateFusion(modalities, width, tasks, hidden=hidden, dropout=dropout)
    operator = make(
        "fusion.kind", kind, options, OPERATORS, {"modalities": modalities, "width": width}
    )
    return FeatureFusion(operator, tasks, hidden=hidden, dropout=dropout)
