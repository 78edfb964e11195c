"""Encoders of pictures: (K, 1, S, S) float32, normalised grey -> (K, W)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, MobileNetV2Config, ResNetConfig

from counterpoint.streams.errors import UsageError
from counterpoint.trainer.nets.registry import Factory


class SmallCnn(nn.Module):
    """Blocks of one 3 x 3 convolution, batch normalisation, ReLU and halving; then mean and max.

    Args:
        width: channels of the first block; each further block has twice as many.
        blocks: number of blocks.
        out: width of the embedding.
    """

    def __init__(
        self, *, width: int = 24, blocks: int = 3, out: int = 96, dropout: float = 0.2
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for block in range(blocks):
            wider = width * 2**block
            layers += [
                nn.Conv2d(channels, wider, 3, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = wider
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(2 * channels, out)

    def forward(self, pictures: Tensor) -> Tensor:
        maps = self.features(pictures)
        pooled = torch.cat((maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))), dim=1)
        embedding: Tensor = torch.tanh(self.project(self.dropout(pooled)))
        return embedding


class TransformersCnn(nn.Module):
    """A convolutional backbone of transformers; grey goes into all of its channels."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = channels

    def forward(self, pictures: Tensor) -> Tensor:
        # An expanded tensor would make the exporter write another operator for it.
        coloured = torch.cat([pictures] * self.channels, dim=1)
        maps: Tensor = self.backbone(pixel_values=coloured).last_hidden_state
        return maps.mean(dim=(2, 3))


def mobilenet_v2(*, checkpoint: str = "", **options: Any) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018) with random weights, or from a local checkpoint.

    Args:
        checkpoint: folder of a transformers checkpoint; empty: random weights.
        options: of transformers' ``MobileNetV2Config`` (``depth_multiplier``).
    """
    return _backbone(MobileNetV2Config, {"depth_multiplier": 0.35, **options}, checkpoint)


def resnet(*, checkpoint: str = "", width: int = 32, **options: Any) -> nn.Module:
    """ResNet (He et al. 2016) of 18 layers, narrow, or from a local checkpoint.

    Args:
        checkpoint: folder of a transformers checkpoint; empty: random weights.
        width: channels of the first stage.
        options: of transformers' ``ResNetConfig``.
    """
    small = {
        "embedding_size": width,
        "hidden_sizes": [width, 2 * width, 4 * width, 8 * width],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
    }
    return _backbone(ResNetConfig, {**small, **options}, checkpoint)


def _backbone(config: Any, options: dict[str, Any], checkpoint: str) -> nn.Module:
    if not checkpoint:
        made = config(**options)
        backbone = AutoModel.from_config(made)  # type: ignore[no-untyped-call]
        return TransformersCnn(backbone, made.num_channels)
    folder = local_checkpoint("video.options.checkpoint", checkpoint)
    channels = AutoConfig.from_pretrained(folder, local_files_only=True).num_channels
    return TransformersCnn(AutoModel.from_pretrained(folder, local_files_only=True), channels)


def local_checkpoint(key: str, folder: str) -> str:
    """``folder`` if a transformers checkpoint is there; nothing is ever downloaded.

    Raises:
        UsageError: naming the key.
    """
    if not (Path(folder) / "config.json").is_file():
        raise UsageError(f"{key}: {folder!r} is no transformers checkpoint: no config.json")
    return folder


PICTURES: Final[dict[str, Factory]] = {
    "cnn": SmallCnn,
    "mobilenet_v2": mobilenet_v2,
    "resnet": resnet,
}
