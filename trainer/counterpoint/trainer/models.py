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
LOG_MEL_RANGE = (-1.6, 4.0)
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


class AudioEncoder(nn.Module):
    """Convolutions over log-mel, without padding in time: 19 frames in, 1 step of 50 ms out.

    Time kernels 9 (stride 5), 1, 3: the receptive field is 9 + 2 * 5 = 19 frames, 14 before
    the step's own 5, so a hop of 25 frames with 14 before it gives just its own 5 steps and a
    whole clip gives the same steps as hop after hop.

    Input: log-mel (N, 14 + 5 k, 64) float32, normalised. Output: embedding (N, k, 96).
    """

    def __init__(self, mel_bins: int = 64) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, (9, 5), stride=(5, 2), padding=(0, 2), bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, (1, 3), stride=(1, 2), padding=(0, 1), bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 80, (3, 3), stride=(1, 2), padding=(0, 1), bias=False),
            nn.BatchNorm2d(80),
            nn.ReLU(),
        )
        self.project = nn.Conv2d(80, AUDIO_DIM, (1, mel_bins // 8))

    def forward(self, log_mel: Tensor) -> Tensor:
        # How far the quiet between words lies below speech tells the recording room, not the
        # emotion: all of it is cut at one level.
        maps = self.convolutions(log_mel.clamp(*LOG_MEL_RANGE).unsqueeze(1))
        steps: Tensor = torch.tanh(self.project(maps).squeeze(3).transpose(1, 2))
        return steps


class AudioSequence(nn.Module):
    """GRU over a window's audio steps and attention over those that are there.

    Input: audio (N, T, 96), mask (N, T) of 0 and 1. Output: (N, 128). A masked step is replaced
    by a learned vector before the GRU and has no weight in the attention, so what stands there
    cannot change the output. A row with nothing there gives finite values of no meaning.
    """

    HIDDEN = 64

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(AUDIO_DIM))
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(AUDIO_DIM, self.HIDDEN, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * self.HIDDEN, 1)

    def forward(self, audio: Tensor, mask: Tensor) -> Tensor:
        there = mask.unsqueeze(2)
        # `where`, not a product: it also keeps out what is not finite.
        filled = torch.where(there > 0, self.dropout(audio), self.missing)
        states, _ = self.gru(filled)
        score = self.attention(states).masked_fill(there <= 0, -1e4)
        pooled: Tensor = (torch.softmax(score, dim=1) * states).sum(dim=1)
        return pooled
