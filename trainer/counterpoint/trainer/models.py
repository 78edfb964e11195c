"""The networks of the bundle ``affect``: one encoder a modality and the late fusion.

Shapes are those of the engine's graph roles. N is the batch; every other axis that a graph of the
bundle has is fixed, so that an exported graph has one dynamic axis only.

Sizes: vision about 0.5 M parameters, audio about 0.25 M, text head about 0.15 M.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

VISION_DIM = 128
AUDIO_DIM = 96
MINILM_DIM = 384
NGRAM_DIM = 32
TEXT_DIM = MINILM_DIM + NGRAM_DIM


def _conv_block(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class VisionEncoder(nn.Module):
    """A small VGG after Simonyan & Zisserman 2015, as FER+ was first measured with.

    Input: faces (N, 1, 48, 48) float32, normalised. Output: embedding (N, 128) float32.
    """

    def __init__(self, dropout: float = 0.25) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width, convolutions in ((32, 2), (64, 2), (128, 2), (160, 1)):
            for _ in range(convolutions):
                layers += _conv_block(channels, width)
                channels = width
            if width != 160:
                layers += [nn.MaxPool2d(2), nn.Dropout2d(dropout / 2)]
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(2 * channels, VISION_DIM)

    def forward(self, faces: Tensor) -> Tensor:
        maps = self.features(faces)
        pooled = torch.cat((maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))), dim=1)
        embedding: Tensor = torch.tanh(self.project(self.dropout(pooled)))
        return embedding
