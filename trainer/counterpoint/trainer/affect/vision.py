"""Stage ``vision``: the face encoder and its emotion head on FER+, crowd votes as soft labels.

One pass from top to bottom, no checkpoint choice: the last epoch of a one-cycle schedule counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterpoint.trainer.config import AffectConfig, VisionConfig
from counterpoint.trainer.data.ferplus import Faces, read_ferplus
from counterpoint.trainer.labels import EMOTION
from counterpoint.trainer.metrics import accuracy, macro_f1, macro_recall
from counterpoint.trainer.models import VISION_DIM, VisionEncoder
from counterpoint.trainer.records import StageRecord, save_arrays, save_weights, seed_everything

CLASSES = len(EMOTION)


class VisionModel(nn.Module):
    """Encoder and linear emotion head: faces (N, 1, 48, 48) -> logits (N, 7)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.encoder = VisionEncoder(config.dropout)
        self.emotion = nn.Linear(VISION_DIM, CLASSES)

    def forward(self, faces: Tensor) -> Tensor:
        logits: Tensor = self.emotion(self.encoder(faces))
        return logits


def normalise(images: Tensor, mean: float, std: float) -> Tensor:
    """uint8 (N, 48, 48) -> float32 (N, 1, 48, 48)."""
    return (images.to(torch.float32).unsqueeze(1) / 255 - mean) / std


def augment(pictures: Tensor, config: VisionConfig, generator: torch.Generator) -> Tensor:
    """Random flip, turn, zoom, shift, light, and the loss of detail that streamed video has.

    Args:
        pictures: (N, 1, 48, 48) float32, 0..1.

    Returns:
        The same shape; all work is done once for the batch.
    """
    count = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle = uniform(-1, 1) * math.radians(config.rotation_degrees)
    zoom = 1 + uniform(-config.zoom, config.zoom)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.stack(
        (
            torch.stack((zoom * angle.cos() * flip, -zoom * angle.sin(), _shift(uniform, config))),
            torch.stack((zoom * angle.sin() * flip, zoom * angle.cos(), _shift(uniform, config))),
        )
    ).permute(2, 0, 1)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    out = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    # A face in a stream may be 16 to 40 pixels wide: shrink a share of the batch and blow it up
    # again. One size a batch keeps it one operation.
    degraded = int(count * config.degrade_share)
    size = int(torch.randint(16, 41, (), generator=generator))
    small = F.interpolate(out[:degraded], size=(size, size), mode="area")
    blurred = F.interpolate(small, size=pictures.shape[2:], mode="bilinear", align_corners=False)
    out = torch.cat((blurred, out[degraded:]))

    contrast = uniform(0.75, 1.25).view(-1, 1, 1, 1)
    light = uniform(-0.12, 0.12).view(-1, 1, 1, 1)
    centre = out.mean(dim=(1, 2, 3), keepdim=True)
    return (centre + (out - centre) * contrast + light).clamp(0, 1)


def _shift(uniform: Callable[[float, float], Tensor], config: VisionConfig) -> Tensor:
    return uniform(-1, 1) * 2 * config.shift


def train_vision(data: Path, out: Path, config: AffectConfig) -> None:
    """Train on FER+ train less its calibration share; write the result to ``out``/vision."""
    vision = config.vision
    record = StageRecord(out / "vision", "vision")
    generator = seed_everything(config.seed)

    with record.timed("read"):
        faces = read_ferplus(data, "Train")
        valid = read_ferplus(data, "Valid")
    order = torch.randperm(len(faces.images), generator=generator)
    held_out = int(len(order) * vision.calibration_share)
    calibration, training = order[:held_out], order[held_out:]
    images = torch.from_numpy(faces.images)
    soft = torch.from_numpy(faces.soft)
    mean = float(images[training].float().mean() / 255)
    std = float(images[training].float().std() / 255)
    save_arrays(
        out / "vision" / "split.npz",
        calibration=calibration,
        mean=np.array(mean, np.float64),
        std=np.array(std, np.float64),
    )

    model = VisionModel(vision).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = sum(parameter.numel() for parameter in model.parameters())
    record.say(f"{len(training)} pictures, {size} parameters, left out {faces.left_out}")
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=vision.learning_rate, weight_decay=vision.weight_decay
    )
    batches = math.ceil(len(training) / vision.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, vision.learning_rate, total_steps=batches * vision.epochs, pct_start=0.2
    )
    with record.timed("fit"):
        for epoch in range(vision.epochs):
            model.train()
            total = 0.0
            shuffled = training[torch.randperm(len(training), generator=generator)]
            for chosen in shuffled.split(vision.batch_size):  # type: ignore[no-untyped-call]
                pictures = images[chosen].to(torch.float32).unsqueeze(1) / 255
                pictures = (augment(pictures, vision, generator) - mean) / std
                pictures = pictures.contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=vision.bfloat16):
                    logits = model(pictures)
                loss = F.cross_entropy(logits.float(), soft[chosen])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
            save_weights(out / "vision" / "model.safetensors", model)
            line = f"epoch {epoch + 1}/{vision.epochs} loss {total / len(training):.4f}"
            if epoch % 4 == 3 or epoch + 1 == vision.epochs:
                seen = predict(model, images[calibration], mean, std)
                score = accuracy(faces.hard[calibration.numpy()], seen.argmax(axis=1))
                line += f" calibration accuracy {score:.4f}"
            record.say(line)
    record.metrics = _score(model, valid, mean, std)
    record.say(f"FER+ valid: {record.metrics}")
    record.finish()


def predict(model: nn.Module, images: Tensor, mean: float, std: float) -> np.ndarray:
    model.eval()
    with torch.inference_mode():
        parts = [model(normalise(part, mean, std)) for part in images.split(256)]  # type: ignore[no-untyped-call]
    logits: np.ndarray = torch.cat(parts).numpy()
    return logits


def _score(model: nn.Module, faces: Faces, mean: float, std: float) -> dict[str, float]:
    predicted = predict(model, torch.from_numpy(faces.images), mean, std).argmax(axis=1)
    return {
        "accuracy": accuracy(faces.hard, predicted),
        "macro_recall": macro_recall(faces.hard, predicted, CLASSES),
        "macro_f1": macro_f1(faces.hard, predicted, CLASSES),
    }
