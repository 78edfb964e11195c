"""A fit from a configuration to a folder: prepared, trained, best weights scored, all on record.

RUN/config.json       the resolved configuration
RUN/run.json          commit, versions, processes, whether it is finished
RUN/dataset.json      tasks and the split of every row
RUN/preprocess.json   means and deviations
RUN/tokenizer.json
RUN/checkpoints/      best.safetensors, last.safetensors
RUN/tensorboard/      curves
RUN/metrics.json, report.md, predictions.csv
"""

from __future__ import annotations

import hashlib
import logging
import math
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from counterpoint.engine.strict import encode
from counterpoint.streams.errors import FailedError, UsageError
from counterpoint.trainer.data.index import Index, Kind, Split, Task, read_index
from counterpoint.trainer.data.split import Shares, split_index, write_split
from counterpoint.trainer.fit.build import build_model
from counterpoint.trainer.fit.checkpoint import (
    SCHEMA_VERSION,
    SafetensorsIO,
    weights_of,
)
from counterpoint.trainer.fit.config import RunConfig, config_of, differences
from counterpoint.trainer.fit.dataset import FitData, Order, Source, read_noises, shares
from counterpoint.trainer.fit.media import read_media
from counterpoint.trainer.fit.module import SCORE, FitModule
from counterpoint.trainer.fit.processes import Processes, device_of, processes
from counterpoint.trainer.fit.report import write_report
from counterpoint.trainer.fit.specs import measure, read_specs, write_specs
from counterpoint.trainer.fit.words import write_tokenizer
from counterpoint.trainer.nets.model import Model
from counterpoint.trainer.records import read_json, write_json

BEST: Final = "checkpoints/best.safetensors"
LAST: Final = "checkpoints/last.safetensors"
_PRECISION: Final[Mapping[str, Any]] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
_KEYS_FREE: Final = ("fit.progress", "data.workers")
"""What a run may be resumed with although it began with another value: it changes no result."""


class _Checkpoints(ModelCheckpoint):
    """Best and last: Lightning by itself writes the last only where it is the best, too."""

    FILE_EXTENSION = ".safetensors"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A fit that was prepared: everything that its folder says."""

    folder: Path
    config: RunConfig
    source: Source
    model: Model


def fit(
    config: RunConfig, out: Path, *, resume: bool = False, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Train, and score the best weights.

    Args:
        config: what to do.
        out: folder of the run.
        resume: go on with the run that is there; the result is that of one that was never
            interrupted.
        callbacks: further ones of Lightning.

    Returns:
        what ``metrics.json`` says.

    Raises:
        UsageError: data or configuration cannot be used, or the folder has another run.
        FailedError: the loss is not a number.
    """
    device = device_of(config.fit.device)
    if config.fit.precision == "16" and device == "cpu":
        raise UsageError("fit.precision: '16' needs a GPU; take 'bf16' or '32'")
    with processes(device) as group, warnings.catch_warnings():
        _quiet()
        index = _read(config)
        if group.first:
            _prepare(config, index, out, resume=resume)
        group.wait()
        # The same start in every process; order and changes of the data have their own.
        torch.manual_seed(config.fit.seed)
        run = open_run(out, config, index)
        module = _module(run, group)
        if not (resume and read_json(out / "run.json").get("finished")):
            _train(run, module, group, device, resume=resume, callbacks=callbacks)
        group.wait()
        if group.first:
            run.model.load_state_dict(weights_of(out / BEST))
            result = write_report(out, run.source, module)
            write_json(out / "run.json", {**read_json(out / "run.json"), "finished": True})
        group.wait()
        return result if group.first else {}


def open_run(folder: Path, config: RunConfig | None = None, index: Index | None = None) -> Run:
    """What a run's folder says, with a network of fresh weights.

    Raises:
        UsageError: it is no folder of a run.
    """
    if config is None:
        if not (folder / "config.json").is_file():
            raise UsageError(f"{folder}: is no run of counterpoint-trainer fit: no config.json")
        config = config_of(read_json(folder / "config.json"))
    index = _read(config) if index is None else index
    specs = read_specs(folder / "preprocess.json")
    tokenizer = folder / "tokenizer.json" if config.text.use else None
    source = Source(
        config=config,
        index=index,
        specs=specs,
        tokenizer=tokenizer,
        cache=folder / "cache",
        noises=read_noises(config.data.noise) if config.audio.use else (),
    )
    model = build_model(config, specs, index.tasks, tokenizer)
    for name, counts in shares(index).items():
        model.set_prior(name, torch.log(torch.from_numpy(counts / counts.sum()).float()))
    return Run(folder=folder, config=config, source=source, model=model)


def load_best(folder: Path) -> Run:
    """A finished run with its best weights, ready for inference."""
    run = open_run(folder)
    run.model.load_state_dict(weights_of(folder / BEST))
    run.model.eval()
    return run


def _read(config: RunConfig) -> Index:
    index = read_index(Path(config.data.index), tasks=_wanted(config) or None)
    try:
        parts = Shares(validation=config.data.validation, test=config.data.test)
    except ValueError as error:
        raise UsageError(f"data: {error}") from error
    missing = [name for name in config.modalities if name not in index.modalities]
    if missing:
        raise UsageError(
            f"{config.data.index}: no row has {missing[0]!r}; fill the column or set "
            f"{missing[0]}.use = false"
        )
    return split_index(
        index,
        seed=config.fit.seed,
        shares=parts,
        allow_random=config.data.allow_random_split,
    )


def _wanted(config: RunConfig) -> dict[str, Sequence[str] | Kind | None]:
    wanted: dict[str, Sequence[str] | Kind | None] = {}
    for name, task in config.tasks.items():
        kind: Kind | None = None if task.kind == "auto" else task.kind
        wanted[name] = task.labels or kind
    return wanted


def _prepare(config: RunConfig, index: Index, out: Path, *, resume: bool) -> None:
    """Everything that a run's folder has before its first step."""
    dataset = {
        "index": config.data.index,
        "sha256": hashlib.sha256(index.path.read_bytes()).hexdigest(),
        "tasks": {task.name: list(task.labels) for task in index.tasks},
        "splits": {example.id: example.split for example in index.examples},
    }
    resolved = encode(config)
    if resume:
        _check_same(out, resolved, dataset)
        return
    if (out / "config.json").exists():
        raise UsageError(f"{out}: has a run already; go on with --resume, or take another --out")
    train = index.of("train")
    for example in index.examples:
        # Now, so that what cannot be decoded is said before the first epoch, and by one process.
        if config.video.use or config.audio.use:
            read_media(example, config, out / "cache")
    write_specs(out / "preprocess.json", measure(config, train, out / "cache"))
    if config.text.use:
        write_tokenizer(
            out / "tokenizer.json", config.text, (row.text for row in train if row.text)
        )
    write_json(out / "dataset.json", dataset)
    write_split(index, out / "index.csv")
    write_json(out / "run.json", _about())
    # Last: from here on there is a run that can be resumed.
    write_json(out / "config.json", resolved)


def _check_same(out: Path, config: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    if not (out / "config.json").is_file():
        raise UsageError(f"{out}: there is no run to resume")
    begun = read_json(out / "config.json")
    changed = [key for key in differences(begun, config) if key not in _KEYS_FREE]
    if changed:
        raise UsageError(
            f"{out}: began with another {', '.join(changed)}; resume with the same configuration, "
            "or take another --out"
        )
    if differences(read_json(out / "dataset.json"), dataset):
        raise UsageError(
            f"{dataset['index']}: is not as it was when {out} began; take another --out"
        )


def _about() -> dict[str, Any]:
    """Where a run comes from."""
    names = ("counterpoint", "lightning", "torch", "torchmetrics", "transformers")
    return {
        "schema_version": SCHEMA_VERSION,
        "commit": _commit(),
        "python": sys.version.split()[0],
        "versions": {name: metadata.version(name) for name in names},
        "finished": False,
    }


def _commit() -> str | None:
    """The commit of this code, with ``+`` where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit, dirty = (
            subprocess.run(
                ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty else "")


def _module(run: Run, group: Processes) -> FitModule:
    config, index = run.config, run.source.index
    train = index.of("train")
    names: tuple[Split, ...] = ("train", "validation")
    for name in names:
        rows = len(index.of(name))
        if rows < group.world:
            raise UsageError(f"{index.path}: {rows} rows of {name} for {group.world} processes")
    batches = len(Order(len(train), config.fit.batch_size, rank=0, world=group.world, seed=(0,)))
    if config.fit.steps:
        batches = min(batches, config.fit.steps)
    counts = shares(index)
    return FitModule(
        run.model,
        index.tasks,
        config,
        scales={task.name: scale_of(task, index) for task in index.tasks if not task.labels},
        weights={name: _weights(number, name, config) for name, number in counts.items()},
        steps=batches * config.fit.epochs,
    )


def train_numbers(task: Task, index: Index) -> list[float]:
    """The labels of a number in train."""
    return [row.labels[task.name] for row in index.of("train") if task.name in row.labels]


def scale_of(task: Task, index: Index) -> tuple[float, float]:
    """Mean and deviation of a number in train."""
    values = train_numbers(task, index)
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return mean, max(spread, 1e-6)


def _weights(counts: Any, name: str, config: RunConfig) -> torch.Tensor:
    balance = config.tasks[name].balance if name in config.tasks else 0.0
    frequency = torch.from_numpy(counts).float() / counts.sum()
    weight: torch.Tensor = frequency.clamp(min=1e-9) ** -balance
    return weight


def _train(
    run: Run,
    module: FitModule,
    group: Processes,
    device: str,
    *,
    resume: bool,
    callbacks: Sequence[Callback],
) -> None:
    config, out = run.config, run.folder
    keeper = _Checkpoints(
        dirpath=out / "checkpoints",
        filename="best",
        monitor=SCORE,
        mode="max",
        save_last=True,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    own: list[Callback] = [*callbacks, keeper]
    if config.fit.patience:
        own.append(
            EarlyStopping(
                SCORE, mode="max", patience=config.fit.patience, check_on_train_epoch_end=True
            )
        )
    bar = config.fit.progress and sys.stderr.isatty() and group.first
    if bar:
        own.append(TQDMProgressBar())
    trainer = pl.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=group.local_world,
        num_nodes=group.world // group.local_world,
        strategy=_strategy(config) if group.world > 1 else "auto",
        precision=_PRECISION[config.fit.precision],
        max_epochs=config.fit.epochs,
        limit_train_batches=config.fit.steps or 1.0,
        gradient_clip_val=config.fit.clip_norm or None,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_progress_bar=bar,
        enable_model_summary=False,
        logger=TensorBoardLogger(save_dir=out, name="", version="tensorboard"),
        plugins=[SafetensorsIO()],
        callbacks=own,
    )
    data = FitData(run.source, rank=group.rank, world=group.world)
    # Interrupted before its first epoch was over, a run begins anew.
    begun = resume and (out / LAST).exists()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=str(out / LAST) if begun else None)
    except SystemExit as error:
        # How Lightning ends at Ctrl-C, and from then on it would hear no other.
        signal.signal(signal.SIGINT, handler)
        raise FailedError(f"{out}: interrupted; the same with --resume goes on") from error


def _strategy(config: RunConfig) -> str:
    # Only what others wrote may have parameters that no output hangs on, such as BERT's pooler.
    names = (config.video.encoder, config.audio.encoder, config.text.encoder, config.fusion.kind)
    foreign = config.text.encoder == "bert" or any("." in name for name in names)
    return "ddp_find_unused_parameters_true" if foreign else "ddp"


def _quiet() -> None:
    """Advice of Lightning's that is known here and would only stand between the lines."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*exists and is not empty.*",
        ".*The `compute` method of metric.*",
        ".*The number of training batches.*",
        ".*is not a registered.*",
        ".*It is recommended to use `self.log.*sync_dist.*",  # torchmetrics did already
        ".*The variance of predictions or target is close to zero.*",  # the figure says so: -1
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
    ):
        warnings.filterwarnings("ignore", message=message)
