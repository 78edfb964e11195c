"""Stage ``vision``: the face encoder and its emotion head on FER+, crowd votes as soft labels.

One pass from top to bottom, no checkpoint choice: after the last epoch the running mean of the
weights is the result.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
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


def augment(
    pictures: Tensor, mirrored: Tensor, size: int, config: VisionConfig, generator: torch.Generator
) -> Tensor:
    """Random turn, zoom, shift, light, a covered part, and the loss of detail of streamed video.

    Args:
        pictures: (N, 1, 48, 48) float32, 0..1.
        mirrored: (N,) bool, which of them to mirror.
        size: of the pictures that come out, px.

    Returns:
        (N, 1, size, size); all work is done once for the batch.
    """
    count = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle = uniform(-1, 1) * math.radians(config.rotation_degrees)
    zoom = 1 + uniform(-config.zoom, config.zoom)
    flip = torch.where(mirrored, -1.0, 1.0)
    theta = torch.stack(
        (
            torch.stack((zoom * angle.cos() * flip, -zoom * angle.sin(), _shift(uniform, config))),
            torch.stack((zoom * angle.sin() * flip, zoom * angle.cos(), _shift(uniform, config))),
        )
    ).permute(2, 0, 1)
    if size < pictures.shape[2]:  # the mean of what a pixel covers: nothing aliases
        pictures = F.interpolate(pictures, size=(size, size), mode="area")
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    out = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    # A face in a stream may be 16 to 40 pixels wide: shrink a share of the batch and blow it up
    # again. One size a batch keeps it one operation.
    degraded = int(count * config.degrade_share)
    width = min(int(torch.randint(16, 41, (), generator=generator)), size)
    small = F.interpolate(out[:degraded], size=(width, width), mode="area")
    blurred = F.interpolate(small, size=out.shape[2:], mode="bilinear", align_corners=False)
    out = torch.cat((blurred, out[degraded:]))

    contrast = uniform(0.75, 1.25).view(-1, 1, 1, 1)
    light = uniform(-0.12, 0.12).view(-1, 1, 1, 1)
    centre = out.mean(dim=(1, 2, 3), keepdim=True)
    out = (centre + (out - centre) * contrast + light).clamp(0, 1)
    return torch.where(_covered(uniform, size, config), centre, out)


def _covered(uniform: Callable[[float, float], Tensor], size: int, config: VisionConfig) -> Tensor:
    """(N, 1, size, size) bool: a hand or hair before a share of the faces, as one rectangle."""
    along = (torch.arange(size) + 0.5) / size
    chosen = (uniform(0, 1) < config.erase_share).view(-1, 1)
    rows, columns = (
        (along - uniform(0, 1).view(-1, 1)).abs() < uniform(0.08, 0.22).view(-1, 1)
        for _ in range(2)
    )
    return ((rows & chosen).unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def _shift(uniform: Callable[[float, float], Tensor], config: VisionConfig) -> Tensor:
    return uniform(-1, 1) * 2 * config.shift


def learning_rate(step: int, steps: int, config: VisionConfig) -> float:
    """Of step 0..steps-1: up in a line, then down in a line to nearly 0."""
    rise = max(1, round(config.warm_up * steps))
    return config.learning_rate * min((step + 1) / rise, (steps - step) / (steps - rise + 1))


class Training:
    """The fit's whole state: weights, their running mean, optimiser, random sources, epoch.

    Fields:
        model: what learns.
        mean: the running mean of its weights and buffers: the result.
        epoch: epochs done.
    """

    def __init__(self, config: AffectConfig, generator: torch.Generator) -> None:
        self.vision = config.vision
        self.recipe = json.dumps([config.seed, dataclasses.asdict(config.vision)])
        self.generator = generator
        self.epoch = 0
        self.model = VisionModel(config.vision).to(  # type: ignore[call-overload]
            memory_format=torch.channels_last
        )
        self.mean = copy.deepcopy(self.model).eval()
        weights = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.model.parameters() if parameter.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": weights}, {"params": others, "weight_decay": 0.0}],
            lr=config.vision.learning_rate,
            weight_decay=config.vision.weight_decay,
            fused=True,
        )

    def step(self, pictures: Tensor, soft: Tensor, rate: float) -> float:
        """Learn from normalised pictures (N, 1, S, S) with labels (N, 7) and give the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.vision.bfloat16):
            logits = self.model(pictures)
        loss = F.cross_entropy(logits.float(), soft)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        with torch.no_grad():
            new = self.model.state_dict()
            for name, kept in self.mean.state_dict().items():
                if kept.is_floating_point():
                    kept.lerp_(new[name], 1 - self.vision.average)
                else:
                    kept.copy_(new[name])
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Everything that the next epoch depends on, under a temporary name, then renamed."""
        tensors = {
            "epoch": torch.tensor(self.epoch),
            "order": self.generator.get_state(),
            "dropout": torch.get_rng_state(),
        }
        for part, module in (("model", self.model), ("mean", self.mean)):
            tensors |= {f"{part}/{name}": value for name, value in module.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": value for name, value in state.items()}
        partial = path.with_name("partial." + path.name)
        plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(plain, str(partial), metadata={"recipe": self.recipe})
        partial.replace(path)

    def restore(self, path: Path) -> bool:
        """Go on from what `save` left; False where there is nothing, or of another recipe."""
        if not path.exists():
            return False
        with safe_open(str(path), "pt") as file:
            if (file.metadata() or {}).get("recipe") != self.recipe:
                return False
        tensors = load_file(str(path))
        for part, module in (("model", self.model), ("mean", self.mean)):
            module.load_state_dict(
                {name: tensors[f"{part}/{name}"] for name in module.state_dict()}
            )
        weights = [weight for group in self.optimiser.param_groups for weight in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser/"):
                _, index, field = name.split("/")
                if tensor.ndim:  # the fused step reads memory: it must lie as the weight does
                    tensor = torch.empty_like(weights[int(index)]).copy_(tensor)
                state.setdefault(int(index), {})[field] = tensor.detach()
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.generator.set_state(tensors["order"])
        torch.set_rng_state(tensors["dropout"])
        self.epoch = int(tensors["epoch"])
        return True


def train_vision(data: Path, out: Path, config: AffectConfig) -> None:
    """Train on FER+ train less its calibration share; write the result to ``out``/vision.

    Interrupted, the same call goes on after the last whole epoch, to the same result.
    """
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

    fit = Training(config, generator)
    size = sum(parameter.numel() for parameter in fit.model.parameters())
    record.say(f"{len(training)} pictures, {size} parameters, left out {faces.left_out}")
    progress = out / "vision" / "progress.safetensors"
    if fit.restore(progress):
        record.say(f"goes on after epoch {fit.epoch}")
    sizes = [pixels for pixels, epochs in vision.sizes for _ in range(epochs)]
    batches = math.ceil(len(training) / vision.batch_size)
    with record.timed("fit"):
        for epoch in range(fit.epoch, vision.epochs):
            total = 0.0
            shuffled = training[torch.randperm(len(training), generator=generator)]
            parts = shuffled.split(vision.batch_size)  # type: ignore[no-untyped-call]
            for batch, chosen in enumerate(parts):
                pictures = images[chosen].to(torch.float32).unsqueeze(1) / 255
                # Each face is seen as it is and mirrored in turn, which wastes fewer epochs than
                # a coin does (Jordan 2024, arXiv:2404.00498).
                mirrored = (chosen + epoch) % 2 == 0
                pictures = augment(pictures, mirrored, sizes[epoch], vision, generator)
                rate = learning_rate(epoch * batches + batch, vision.epochs * batches, vision)
                total += fit.step((pictures - mean) / std, soft[chosen], rate) * len(chosen)
            fit.epoch = epoch + 1
            save_weights(out / "vision" / "model.safetensors", fit.mean)
            fit.save(progress)
            line = f"epoch {epoch + 1}/{vision.epochs} {sizes[epoch]} px"
            line += f" loss {total / len(training):.4f}"
            if epoch % 4 == 3 or epoch + 1 == vision.epochs:
                seen = predict(fit.mean, images[calibration], mean, std)
                score = accuracy(faces.hard[calibration.numpy()], seen.argmax(axis=1))
                line += f" calibration accuracy {score:.4f}"
            record.say(line)
    record.metrics = _score(fit.mean, valid, mean, std)
    record.say(f"FER+ valid: {record.metrics}")
    progress.unlink(missing_ok=True)
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
