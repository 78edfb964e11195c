"""RAVDESS, sound and facial action units, subject-wise folds: operators of fusion compared.

    python -m counterpoint.trainer.studies.ravdess_fusion --data DIR --out DIR

Each fold holds out four of the twenty actors, two women and two men; every figure is of actors
whom the model never saw. Widths, rates and epochs are fixed below; the last epoch counts. Sound
goes in as fixed statistics of the shared log-mel, faces as the means of 35 action units over a
clip (Luna-Jiménez 2022).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_recall

from counterpoint.engine.preprocess.audio import clip_log_mel
from counterpoint.engine.preprocess.spec import AudioSpec
from counterpoint.streams.errors import CounterpointError
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.data.files import read_sound
from counterpoint.trainer.data.recordings import read_action_units
from counterpoint.trainer.fit.dropout import drop_modalities
from counterpoint.trainer.nets.fusion import make_fusion
from counterpoint.trainer.nets.model import MISSING, PRESENT, Answers, Model
from counterpoint.trainer.records import load_arrays, save_arrays
from counterpoint.trainer.studies.ravdess_report import write_report

CLASSES: Final = (
    "neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised",
)  # fmt: skip
"""RAVDESS' own eight, in the order of its codes."""

KINDS: Final = ("concat", "add", "multiply", "late", "gated", "cross_attention")
FOLDS: Final = 5
WIDTH: Final = 64
HIDDEN: Final = 64
DROPOUT: Final = 0.4
INPUT_DROPOUT: Final = 0.3
AUXILIARY: Final = 0.3
MODALITY_DROPOUT: Final = 0.8
"""`drop_modalities` takes half of what it draws away whole, and of one cell that is all it can
do: so 40 % of each modality, one always staying."""

EPOCHS: Final = 30
BATCH: Final = 160
RATE: Final = 4e-3
DECAY: Final = 0.5
SMOOTHING: Final = 0.1

_LOUD: Final = 3.5
"""In nepers of log-mel: what is quieter than a clip's loud parts by more is a pause."""

_MODULATION: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clips:
    """What is known of N recordings.

    Fields:
        inputs: modality -> (N, W) float32: ``video`` action units, ``audio`` statistics.
        label: (N,) int64, position in `CLASSES`.
        actor: (N,) int64.
    """

    inputs: Mapping[str, Float32Array]
    label: np.ndarray[Any, np.dtype[np.int64]]
    actor: np.ndarray[Any, np.dtype[np.int64]]


def sound_statistics(log_mel: Float32Array) -> Float32Array:
    """A clip's log-mel (T, 64) as one vector (401,) float32.

    Of the loud frames each bin's mean, deviation, lowest and highest tenth; of the run from the
    first to the last loud frame mean size and deviation of the slope over 20 ms; the loudness'
    modulation spectrum, mean, deviation and peak; how long it lasts and how much of it is loud.

    Raises:
        ValueError: fewer than four frames.
    """
    if len(log_mel) < 4:
        raise ValueError(f"{len(log_mel)} frames are too few")
    loudness = log_mel.mean(axis=1)
    peak = float(np.quantile(loudness, 0.95))
    places = np.flatnonzero(loudness > peak - _LOUD)
    first, last = int(places[0]), int(places[-1])
    if last - first < 3:
        first, last = 0, len(log_mel) - 1
    loud, run = log_mel[places], log_mel[first : last + 1]
    slope = run[2:] - run[:-2]
    contour = run.mean(axis=1)
    centred = (contour - contour.mean()) * np.hanning(len(contour))
    modulation = np.abs(np.fft.rfft(centred, 256))[1 : 1 + _MODULATION] / len(contour)
    parts = [
        loud.mean(axis=0),
        loud.std(axis=0),
        *np.quantile(loud, (0.1, 0.9), axis=0),
        np.abs(slope).mean(axis=0),
        slope.std(axis=0),
        modulation,
        [contour.mean(), contour.std(), peak, len(contour) / 100, len(loud) / len(contour)],
    ]
    return np.concatenate(parts).astype(np.float32)


def read_clips(data: Path, cache: Path | None = None) -> Clips:
    """The 1,200 recordings of 20 actors.

    Args:
        cache: file that keeps the statistics of their sound; made where it is not there.

    Raises:
        UsageError: a set is missing.
    """
    units, spec = read_action_units(data), AudioSpec()
    if cache is not None and cache.exists():
        sound = load_arrays(cache)["sound"]
    else:
        sound = np.stack(
            [sound_statistics(clip_log_mel(read_sound(clip.path), spec)) for clip in units.clips]
        )
        if cache is not None:
            save_arrays(cache, sound=sound)
    # The shared labels merge calm with neutral; here are RAVDESS' own codes.
    fields = [clip.path.stem.split("-") for clip in units.clips]
    return Clips(
        inputs={"video": units.values, "audio": sound},
        label=np.array([int(field[2]) - 1 for field in fields], np.int64),
        actor=np.array([int(field[6]) for field in fields], np.int64),
    )


def held_out(actor: np.ndarray[Any, Any], fold: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(N,) whose actor is held out in a fold: 1, 6, 11, 16 in the first, and so on.

    Odd numbers are men, so every fold has both.
    """
    chosen: np.ndarray[Any, np.dtype[np.bool_]] = (actor - 1) % FOLDS == fold
    return chosen


class Tower(nn.Module):
    """A clip's vector as a modality's: (N, 1, W) and its mask -> (N, D)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(INPUT_DROPOUT),
            nn.Linear(inputs, WIDTH),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(WIDTH, WIDTH),
        )

    def forward(self, cells: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002 # one interface
        vector: Tensor = self.layers(cells[:, 0])
        return vector


def make_model(kind: str, widths: Mapping[str, int]) -> Model:
    """The trainer's own model, whose windows have one cell of each modality."""
    tasks = {"emotion": len(CLASSES)}
    fusion = make_fusion(
        kind, {}, modalities=len(widths), width=WIDTH, tasks=tasks, hidden=HIDDEN, dropout=DROPOUT
    )
    return Model(
        {name: nn.Identity() for name in widths},
        {name: Tower(width) for name, width in widths.items()},
        fusion,
        width=WIDTH,
        tasks=tasks,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """What one model learns from.

    Fields:
        inputs: modality -> (N, W), standardised.
        label: (N,) int64.
        seed: of its weights.
    """

    inputs: Mapping[str, Tensor]
    label: Tensor
    seed: int


def train(jobs: Sequence[Job], kind: str, *, dropout: float) -> list[Model]:
    """A model for each job, in inference mode, all trained at once.

    They share nothing but the step: of such small networks a step costs the same for one and for
    ten (`torch.vmap`).

    Args:
        jobs: of equally many rows and the same widths.
        dropout: as `drop_modalities` takes it.
    """
    models = []
    for job in jobs:
        torch.manual_seed(job.seed)
        model = make_model(kind, {name: values.shape[1] for name, values in job.inputs.items()})
        share = torch.bincount(job.label, minlength=len(CLASSES)) / len(job.label)
        model.set_prior("emotion", torch.log(share.clamp(min=1e-6)))
        models.append(model.train())
    names = models[0].modalities
    inputs = {name: torch.stack([job.inputs[name] for job in jobs]) for name in names}
    label = torch.stack([job.label for job in jobs])
    parameters, buffers = torch.func.stack_module_state(list(models))
    skeleton = models[0]

    def loss_of(weights: dict[str, Tensor], fixed: dict[str, Tensor], *batch: Tensor) -> Tensor:
        own, state, *vectors = batch
        # What is dropped is told by the state; a cell that is not there is never looked at.
        cells = {
            name: (values.unsqueeze(1), torch.ones_like(values[:, :1]))
            for name, values in zip(names, vectors, strict=True)
        }
        answers = torch.func.functional_call(skeleton, (weights, fixed), (cells, state))
        return _loss(answers, own, state)

    each = torch.vmap(loss_of, randomness="different")
    optimizer = torch.optim.AdamW(parameters.values(), lr=RATE, weight_decay=DECAY, fused=True)
    count = label.shape[1]
    steps = EPOCHS * -(-count // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    place = torch.arange(len(jobs)).unsqueeze(1)
    for _ in range(EPOCHS):
        order = torch.stack([torch.randperm(count) for _ in jobs])
        for rows in torch.split(order, BATCH, dim=1):
            ones = torch.ones(rows.numel(), 1)
            _, state = drop_modalities(dict.fromkeys(names, ones), dropout)
            loss = each(
                parameters, buffers, label[place, rows], state.view(*rows.shape, len(names)),
                *(inputs[name][place, rows] for name in names),
            ).sum()  # fmt: skip
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    for index, model in enumerate(models):
        model.load_state_dict(
            {key: value.detach()[index] for key, value in (*parameters.items(), *buffers.items())}
        )
        model.eval()
    return models


def _loss(answers: Answers, label: Tensor, state: Tensor) -> Tensor:
    """Of the fused answer, and a part of that of each modality that is there."""
    total = F.cross_entropy(answers.fused["emotion"], label, label_smoothing=SMOOTHING)
    single = answers.single["emotion"]
    for place in range(single.shape[1]):
        there = (state[:, place] == PRESENT).to(single.dtype)
        own = F.cross_entropy(single[:, place], label, label_smoothing=SMOOTHING, reduction="none")
        mean = (own * there).sum() / there.sum().clamp(min=1)
        total = total + AUXILIARY * mean / single.shape[1]
    return total


def logits(model: Model, inputs: Mapping[str, Tensor], heard: Sequence[str]) -> Tensor:
    """(N, C) with only ``heard`` present, in place of the rest their learned tokens."""
    rows = len(next(iter(inputs.values())))
    there = [PRESENT if name in heard else MISSING for name in model.modalities]
    state = torch.tensor(there).repeat(rows, 1)
    cells = {name: (inputs[name][:, None], torch.ones(rows, 1)) for name in model.modalities}
    with torch.inference_mode():
        return model(cells, state).fused["emotion"]  # type: ignore[no-any-return]


def figures(found: Tensor, label: Tensor) -> dict[str, float]:
    """Accuracy and unweighted recall of logits (N, C)."""
    count = len(CLASSES)
    return {
        "accuracy": float(multiclass_accuracy(found, label, count, average="micro")),
        "recall": float(multiclass_recall(found, label, count, average="macro")),
    }


def run(clips: Clips, *, seeds: int) -> list[dict[str, Any]]:
    """Each fold and seed: ``fold``, ``seed`` and ``models`` (name -> heard -> figures)."""
    label = torch.from_numpy(clips.label)
    jobs: list[Job] = []
    tests: list[tuple[dict[str, Tensor], Tensor]] = []
    runs: list[dict[str, Any]] = []
    for fold in range(FOLDS):
        away = held_out(clips.actor, fold)
        inputs, test = {}, {}
        for name, values in clips.inputs.items():
            mean, std = values[~away].mean(axis=0), values[~away].std(axis=0) + 1e-6
            scaled = torch.from_numpy(np.clip((values - mean) / std, -5, 5))
            inputs[name], test[name] = scaled[~away], scaled[away]
        for seed in range(seeds):
            jobs.append(Job(inputs=inputs, label=label[~away], seed=seed))
            tests.append((test, label[away]))
            runs.append({"fold": fold, "seed": seed, "models": {}})
    alone: list[dict[str, Tensor]] = [{} for _ in jobs]
    for name in clips.inputs:
        own = [Job(inputs={name: job.inputs[name]}, label=job.label, seed=job.seed) for job in jobs]
        for place, model in enumerate(train(own, "late", dropout=0.0)):
            alone[place][name] = logits(model, {name: tests[place][0][name]}, [name])
    for record, said, (_, actual) in zip(runs, alone, tests, strict=True):
        product = torch.stack([torch.log_softmax(one, dim=1) for one in said.values()]).sum(dim=0)
        found = {**said, "both": product}
        record["models"]["separate"] = {key: figures(one, actual) for key, one in found.items()}
    for kind in KINDS:
        for dropout in (MODALITY_DROPOUT, 0.0):
            key = kind if dropout else f"{kind}, without dropout"
            for record, model, (test, actual) in zip(
                runs, train(jobs, kind, dropout=dropout), tests, strict=True
            ):
                record["models"][key] = {
                    said: figures(logits(model, test, heard), actual)
                    for said, heard in HEARD.items()
                }
            print(key, flush=True)
    return runs


HEARD: Final[Mapping[str, Sequence[str]]] = {
    "both": ("video", "audio"),
    "audio": ("audio",),
    "video": ("video",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and write ``report.md``, ``metrics.json`` and the figure."""
    parser = argparse.ArgumentParser(prog="python -m counterpoint.trainer.studies.ravdess_fusion")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--seeds", type=int, default=3, help="fits of each model and fold")
    parser.add_argument("--cache", type=Path, help="file that keeps what was computed of sound")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        clips = read_clips(given.data, given.cache)
    except CounterpointError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    runs = run(clips, seeds=given.seeds)
    write_report(given.out, runs, kinds=KINDS, seeds=given.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
