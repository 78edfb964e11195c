"""Encoders of a line: ids and mask (K, L) int64 -> (K, W); hashed n-grams (K, B) -> (K, W).

The mask is 1 at the tokens of the line and 2 at those of lines before it (`text.BEFORE`).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoModel

from counterpoint.trainer.nets.pictures import local_checkpoint
from counterpoint.trainer.nets.registry import Factory
from counterpoint.trainer.sentence import SentenceEncoder


class WordVectors(nn.Module):
    """A vector for each word, and the mean over a line; ids that are ``ignored`` do not count, and
    neither do lines before it."""

    ignored: Tensor

    def __init__(self, *, words: int, ignored: tuple[int, ...], out: int) -> None:
        super().__init__()
        self.table = nn.Embedding(words, out)
        nn.init.normal_(self.table.weight, std=0.3)
        leave_out = torch.zeros(words, dtype=torch.bool)
        leave_out[list(ignored)] = True
        self.register_buffer("ignored", leave_out)

    def weights(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(K, L, 1): 1 where a word counts."""
        counts = (attention_mask == 1) & ~self.ignored[input_ids]
        return counts.to(self.table.weight.dtype).unsqueeze(2)


class BagOfWords(WordVectors):
    """The sum of the words' vectors over the root of their number: a linear layer on counts."""

    def __init__(self, *, words: int, ignored: tuple[int, ...] = (), out: int = 64) -> None:
        super().__init__(words=words, ignored=ignored, out=out)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = self.weights(input_ids, attention_mask)
        total = (self.table(input_ids) * weight).sum(dim=1)
        bag: Tensor = total / weight.sum(dim=1).clamp(min=1).sqrt()
        return bag


class WordEmbedding(WordVectors):
    """Embeddings, each seen with its neighbours (a convolution over 3 words), mean and max."""

    def __init__(
        self, *, words: int, ignored: tuple[int, ...] = (), width: int = 64, out: int = 96
    ) -> None:
        super().__init__(words=words, ignored=ignored, out=width)
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(0.2)
        self.project = nn.Linear(2 * width, out)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = self.weights(input_ids, attention_mask)
        vectors = self.dropout(self.table(input_ids)) * weight
        seen = torch.relu(vectors + self.neighbours(vectors.transpose(1, 2)).transpose(1, 2))
        seen = seen * weight
        mean = seen.sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        line: Tensor = torch.tanh(self.project(torch.cat((mean, seen.amax(dim=1)), dim=1)))
        return line


class HashedNgrams(nn.Module):
    """Mean of the vectors of a line's hashed n-grams; zeros where a line has none."""

    def __init__(self, *, buckets: int, out: int = 32) -> None:
        super().__init__()
        self.table = nn.Embedding(buckets + 1, out, padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.1)
        with torch.no_grad():
            self.table.weight[0] = 0

    def forward(self, buckets: Tensor) -> Tensor:
        count = (buckets > 0).sum(dim=1, keepdim=True).clamp(min=1)
        mean: Tensor = self.table(buckets).sum(dim=1) / count
        return mean


def bert(*, checkpoint: str, tuned_layers: int = -1, **options: Any) -> nn.Module:
    """BERT with mean pooling from a local transformers checkpoint.

    Args:
        checkpoint: its folder, with ``tokenizer.json``.
        tuned_layers: the last so many layers are trained, 0: none, -1: everything.
        options: of transformers' ``from_pretrained``.
    """
    # Plain attention: the fused kernels have no ONNX counterpart at opset 17.
    encoder = SentenceEncoder(
        AutoModel.from_pretrained(
            local_checkpoint("text.checkpoint", checkpoint),
            local_files_only=True,
            attn_implementation="eager",
            **options,
        )
    )
    if tuned_layers >= 0:
        encoder.requires_grad_(requires_grad=False)
        layers = encoder.layers
        for layer in layers[len(layers) - tuned_layers :]:
            layer.requires_grad_(requires_grad=True)
    return encoder


TEXTS: Final[dict[str, Factory]] = {
    "bag": BagOfWords,
    "embedding": WordEmbedding,
    "bert": bert,
}
OWN_VOCABULARY: Final = ("bag", "embedding")
"""Encoders whose words are counted in the training part of the table."""
