"""Stage ``vision``: the face encoder and its emotion head on FER+, crowd votes as soft labels.

Phases of a one-cycle schedule each, no checkpoint choice: what is there after the last epoch
counts.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from counterpoint.trainer.affect.vision_start import start_from
from counterpoint.trainer.config import AffectConfig, VisionPhase
from counterpoint.trainer.data.ferplus import Faces, read_ferplus
from counterpoint.trainer.labels import EMOTION
from counterpoint.trainer.metrics import accuracy, macro_f1, macro_recall
from counterpoint.trainer.models import VISION_DIM, VisionEncoder
from counterpoint.trainer.records import (
    StageRecord,
    multiplies_in_bfloat16,
    save_arrays,
    save_weights,
    seed_everything,
)

CLASSES = len(EMOTION)


class VisionModel(nn.Module):
    """Encoder and linear emotion head: faces (N, 1, 48, 48) -> logits (N, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = VisionEncoder()
        self.emotion = nn.Linear(VISION_DIM, CLASSES)

    def forward(self, faces: Tensor) -> Tensor:
        logits: Tensor = self.emotion(self.encoder(faces))
        return logits


def normalise(images: Tensor, mean: float, std: float) -> Tensor:
    """uint8 (N, 48, 48) -> float32 (N, 1, 48, 48)."""
    return (images.to(torch.float32).unsqueeze(1) / 255 - mean) / std


def size_at(progress: float, phase: VisionPhase, full: int) -> int:
    """Edge of the pictures learned from at a share of a phase, in px: ``smallest`` for the first
    third, ``full`` for the last, between them in the middle.

    Small pictures first (progressive learning, Tan & Le 2021, arXiv:2104.00298) cost less than
    half, so there is time for more of them; the pooling at the end takes any size.
    """
    step = min(2, int(3 * progress))
    return phase.smallest + (full - phase.smallest) * step // 2


def augment(
    pictures: Tensor, phase: VisionPhase, generator: torch.Generator, size: int | None = None
) -> Tensor:
    """Flip, turn, zoom, shift, light, a part covered, and the loss of detail of streamed video.

    Args:
        pictures: (N, 1, 48, 48) float32, 0..1.
        size: edge of what is returned, px; as they are where it is not given.

    Returns:
        (N, 1, size, size); all work is done once for the batch.
    """
    count = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle = uniform(-1, 1) * math.radians(phase.rotation_degrees)
    zoom = 1 + uniform(-phase.zoom, phase.zoom)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.stack(
        (
            torch.stack((zoom * angle.cos() * flip, -zoom * angle.sin(), _shift(uniform, phase))),
            torch.stack((zoom * angle.sin() * flip, zoom * angle.cos(), _shift(uniform, phase))),
        )
    ).permute(2, 0, 1)
    edge = pictures.shape[2] if size is None else size
    grid = F.affine_grid(theta, [count, 1, edge, edge], align_corners=False)
    out = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    # A face in a stream may be 16 to 40 pixels wide: shrink a share of the batch and blow it up
    # again. One size a batch keeps it one operation.
    degraded = int(count * phase.degrade_share)
    left = min(int(torch.randint(16, 41, (), generator=generator)), edge)
    small = F.interpolate(out[:degraded], size=(left, left), mode="area")
    blurred = F.interpolate(small, size=(edge, edge), mode="bilinear", align_corners=False)
    out = torch.cat((blurred, out[degraded:]))

    contrast = uniform(0.75, 1.25).view(-1, 1, 1, 1)
    light = uniform(-0.12, 0.12).view(-1, 1, 1, 1)
    centre = out.mean(dim=(1, 2, 3), keepdim=True)
    out = (centre + (out - centre) * contrast + light).clamp(0, 1)
    return torch.where(_covered(uniform, out.shape[2], phase), centre, out)


def _covered(uniform: Callable[[float, float], Tensor], size: int, phase: VisionPhase) -> Tensor:
    """(N, 1, size, size) bool: a hand or hair before a share of the faces, as one rectangle."""
    along = (torch.arange(size) + 0.5) / size
    chosen = (uniform(0, 1) < phase.erase_share).view(-1, 1)
    rows, columns = (
        (along - uniform(0, 1).view(-1, 1)).abs() < uniform(0.08, 0.22).view(-1, 1)
        for _ in range(2)
    )
    return ((rows & chosen).unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def _shift(uniform: Callable[[float, float], Tensor], phase: VisionPhase) -> Tensor:
    return uniform(-1, 1) * 2 * phase.shift


def one_cycle(step: int, steps: int, phase: VisionPhase) -> tuple[float, float]:
    """Learning rate and first beta of AdamW at step 0..steps-1 (Smith & Topin 2019), by cosines.

    The rate goes from 1/25 of its highest up and down to a ten thousandth of where it began, beta
    from 0.95 to 0.85 and back: ``OneCycleLR`` of torch as a function, so that resuming needs no
    state of it.
    """
    turn = phase.warm_up * steps - 1
    if step < turn:
        part, rate, beta = step / turn, (1 / 25, 1.0), (0.95, 0.85)
    else:
        part = (step - turn) / (steps - 1 - turn)
        rate, beta = (1.0, 1 / 25e4), (0.85, 0.95)
    share = (1 + math.cos(math.pi * part)) / 2
    return (
        phase.learning_rate * (rate[1] + (rate[0] - rate[1]) * share),
        beta[1] + (beta[0] - beta[1]) * share,
    )


class Training:
    """A phase's whole state: weights, their running mean, optimiser, random sources, epoch.

    Fields:
        model: what learns.
        mean: the running mean of its weights and buffers: the result.
        epoch: epochs done.
        cpu_seconds: that they took, before an interruption too.
        recipe: all that the result depends on; another one's progress is not gone on with.
    """

    def __init__(
        self, model: VisionModel, phase: VisionPhase, generator: torch.Generator, recipe: str
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = copy.deepcopy(self.model).eval()
        self.phase = phase
        self.generator = generator
        self.recipe = recipe
        self.epoch = 0
        self.cpu_seconds = 0.0
        self.bfloat16 = phase.bfloat16 and multiplies_in_bfloat16()
        self.model.encoder.drop(phase.dropout)
        if phase.still:
            self.model.encoder.early().requires_grad_(False)
        learned = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(
            learned, lr=phase.learning_rate, weight_decay=phase.weight_decay, fused=True
        )

    def step(self, pictures: Tensor, soft: Tensor, rate: float, beta: float) -> float:
        """Learn from normalised pictures (N, 1, 48, 48) with labels (N, 7) and give the loss."""
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = rate, (beta, 0.999)
        self.model.train()
        if self.phase.still:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits = self.model(pictures)
        loss = F.cross_entropy(logits.float(), soft)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        with torch.no_grad():
            new = self.model.state_dict()
            for name, kept in self.mean.state_dict().items():
                if kept.is_floating_point():
                    kept.lerp_(new[name], 1 - self.phase.average)
                else:
                    kept.copy_(new[name])
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Everything that the next epoch depends on, under a temporary name, then renamed."""
        tensors = {
            "epoch": torch.tensor(self.epoch),
            "cpu_seconds": torch.tensor(self.cpu_seconds, dtype=torch.float64),
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
        self.cpu_seconds = float(tensors["cpu_seconds"])
        return True


def train_vision(data: Path, out: Path, config: AffectConfig) -> None:
    """Train on FER+ train less its calibration share; write the result to ``out``/vision.

    Interrupted, the same call goes on after the last whole epoch, to the same result.

    Raises:
        BundleError: the bundle to start from cannot be used.
        UsageError: its vision part is of another kind, or a file of the set is missing.
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

    model = VisionModel()
    size = sum(parameter.numel() for parameter in model.parameters())
    record.say(f"{len(training)} pictures, {size} parameters, left out {faces.left_out}")
    lesson = Lesson(
        images=images, soft=soft, hard=torch.from_numpy(faces.hard), training=training,
        calibration=calibration, mean=mean, std=std, batch_size=vision.batch_size,
    )  # fmt: skip
    recipe: list[Any] = [config.seed, vision.batch_size, vision.calibration_share]
    if vision.start:
        record.metrics["started_from"] = start_from(Path(vision.start), model)
        recipe.append(record.metrics["started_from"])
    spent = 0.0
    for name, phase in vision.phases.items():
        recipe.append(dataclasses.asdict(phase))
        # Seeded anew, so that a phase does not depend on whether those before it ran just now.
        seed = config.seed + {"first": 1, "second": 2, "third": 3}[name]
        generator.manual_seed(seed)
        torch.manual_seed(seed)
        fit = Training(model, phase, generator, json.dumps(recipe))
        with record.timed(name):
            run_phase(name, fit, lesson, record)
        model = fit.mean
        spent += fit.cpu_seconds
    record.metrics |= {"fit_cpu_seconds": round(spent, 1)}
    record.metrics |= _score(model, valid, mean, std)
    record.say(f"FER+ valid: {record.metrics}")
    for name in vision.phases:
        _progress(record, name).unlink()
    record.finish()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """What is learned from.

    Fields:
        images: (N, 48, 48) uint8; soft: (N, 7) float32; hard: (N,) int64.
        training, calibration: rows that are learned from and rows that only figures come from.
        mean, std: of the pixels of the training rows, 0..1.
    """

    images: Tensor
    soft: Tensor
    hard: Tensor
    training: Tensor
    calibration: Tensor
    mean: float
    std: float
    batch_size: int


def run_phase(name: str, fit: Training, lesson: Lesson, record: StageRecord) -> None:
    """The epochs that are left of a phase; ``model.safetensors`` and progress after each."""
    phase, generator = fit.phase, fit.generator
    batches = math.ceil(len(lesson.training) / lesson.batch_size)
    progress = _progress(record, name)
    if fit.restore(progress):
        record.say(f"{name}: goes on after epoch {fit.epoch}")
    for epoch in range(fit.epoch, phase.epochs):
        total, since = 0.0, time.process_time()
        order = lesson.training[torch.randperm(len(lesson.training), generator=generator)]
        parts = order.split(lesson.batch_size)  # type: ignore[no-untyped-call]
        size = size_at(epoch / phase.epochs, phase, lesson.images.shape[2])
        for batch, rows in enumerate(parts):
            pictures = augment(
                lesson.images[rows].to(torch.float32).unsqueeze(1) / 255, phase, generator, size
            )
            pace = one_cycle(epoch * batches + batch, phase.epochs * batches, phase)
            loss = fit.step((pictures - lesson.mean) / lesson.std, lesson.soft[rows], *pace)
            total += loss * len(rows)
        fit.epoch = epoch + 1
        fit.cpu_seconds += time.process_time() - since
        save_weights(record.folder / "model.safetensors", fit.mean)
        fit.save(progress)
        line = f"{name} {epoch + 1}/{phase.epochs} loss {total / len(lesson.training):.4f}"
        if epoch % 4 == 3 or epoch + 1 == phase.epochs:
            seen = predict(fit.mean, lesson.images[lesson.calibration], lesson.mean, lesson.std)
            score = accuracy(lesson.hard[lesson.calibration].numpy(), seen.argmax(axis=1))
            line += f" calibration accuracy {score:.4f}"
        record.say(line)


def _progress(record: StageRecord, name: str) -> Path:
    return record.folder / f"{name}.progress.safetensors"


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
