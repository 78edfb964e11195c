"""Encoders of sound: log-mel of one hop (K, F, M) float32, normalised -> (K, steps, W).

What runs once for each hop is here; what runs over the steps of a window (GRU, LSTM, attention)
is `nets.pooling`. Together they are what the names say: ``lstm`` is a projection of each step and
an LSTM over them, ``crnn`` a convolution and a GRU.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from counterpoint.trainer.nets.registry import Factory


class StepProjection(nn.Module):
    """Mean and deviation of a step's own frames, projected; nothing of the context is used."""

    def __init__(self, *, mel_bins: int, steps: int, context: int, out: int = 64) -> None:
        super().__init__()
        self.steps, self.context = steps, context
        self.project = nn.Linear(2 * mel_bins, out)

    def forward(self, log_mel: Tensor) -> Tensor:
        own = log_mel[:, self.context :]
        frames, bins = own.shape[1] // self.steps, own.shape[2]
        split = own.reshape(-1, self.steps, frames, bins)
        mean = split.mean(dim=2)
        deviation = (split - mean.unsqueeze(2)).square().mean(dim=2).add(1e-5).sqrt()
        step: Tensor = torch.tanh(self.project(torch.cat((mean, deviation), dim=2)))
        return step


class StepCnn(nn.Module):
    """Convolutions over log-mel without padding in time, so that a hop gives just its own steps.

    Time kernels 9 with the step's stride, then 1, then 3. Of the context frames as many are used
    as that reaches back to.
    """

    def __init__(
        self,
        *,
        mel_bins: int,
        steps: int,
        context: int,
        frames: int,
        width: int = 24,
        out: int = 96,
    ) -> None:
        super().__init__()
        stride = frames // steps
        reach = 9 + 2 * stride - stride
        if context < reach or mel_bins % 4:
            raise TypeError(
                f"needs {reach} context frames and bins in fours, not {context} and {mel_bins}"
            )
        self.skip = context - reach
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, width, (9, 5), stride=(stride, 2), padding=(0, 2), bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, (3, 3), stride=(1, 2), padding=(0, 1), bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.project = nn.Conv2d(2 * width, out, (1, mel_bins // 4))

    def forward(self, log_mel: Tensor) -> Tensor:
        maps = self.convolutions(log_mel[:, self.skip :].unsqueeze(1))
        steps: Tensor = torch.tanh(self.project(maps).squeeze(3).transpose(1, 2))
        return steps


SOUNDS: Final[dict[str, Factory]] = {
    "gru": StepProjection,
    "lstm": StepProjection,
    "crnn": StepCnn,
    "cnn": StepCnn,
}
POOL_OF: Final = {"gru": "gru", "lstm": "lstm", "crnn": "gru", "cnn": "attention"}
"""What runs over the steps where the configuration leaves it to the encoder's name."""
