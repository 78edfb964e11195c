"""The fit as Lightning runs it: losses over tasks with masked labels, metrics, optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import ConcordanceCorrCoef, MeanAbsoluteError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassRecall

from counterpoint.streams.errors import FailedError
from counterpoint.trainer.data.index import Task
from counterpoint.trainer.fit.config import RunConfig
from counterpoint.trainer.fit.dropout import drop_modalities, states_of
from counterpoint.trainer.nets.model import PRESENT, Answers, Model

SCORE = "validation/score"


class FitModule(pl.LightningModule):
    """A model in training.

    Args:
        model: the network.
        tasks: in the order of a batch's ``labels``.
        config: of the run.
        scales: task -> mean and deviation of a number in train; its target is standardised.
        weights: task -> (C,) weights of the classes.
        steps: of the whole fit, for the learning rate.
    """

    def __init__(
        self,
        model: Model,
        tasks: Sequence[Task],
        config: RunConfig,
        *,
        scales: Mapping[str, tuple[float, float]],
        weights: Mapping[str, Tensor],
        steps: int,
    ) -> None:
        super().__init__()
        self.model, self.tasks, self.config = model, tuple(tasks), config
        self._scales, self._weights, self._steps = dict(scales), dict(weights), steps
        self._task_weight = {
            task.name: config.tasks[task.name].weight if task.name in config.tasks else 1.0
            for task in tasks
        }
        # In the tasks' order; names such as "type" cannot be keys of modules.
        self.metrics = nn.ModuleList(metrics_of(task) for task in tasks)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        # Dropout depends on seed, step and process only, whatever else has drawn from torch's
        # generator meanwhile: so an interrupted run goes on alike.
        seed = (self.config.fit.seed + 1) * 1_000_003 + self.global_step
        torch.manual_seed(seed * 1_009 + self.global_rank)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        names = self.model.modalities
        masks, state = drop_modalities(
            {name: batch[f"{name}_mask"] for name in names}, self.config.fusion.modality_dropout
        )
        changed = {**batch, **{f"{name}_mask": mask for name, mask in masks.items()}}
        loss = self._loss(self.model(self.model.encode(changed), state), batch["labels"], state)
        if not torch.isfinite(loss):
            rows = ", ".join(map(str, batch["row"].tolist()))
            raise FailedError(
                f"the loss is {loss.item()} in step {self.global_step} (epoch "
                f"{self.current_epoch}, batch {batch_idx}, rows {rows} of the index); lower "
                "fit.learning_rate or look at these rows"
            )
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch["row"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        answers = self.answers(batch)
        for index, (task, metric) in enumerate(zip(self.tasks, self.metrics, strict=True)):
            label = batch["labels"][:, index]
            known = ~torch.isnan(label)
            if known.any():
                found = answers.fused[task.name][known].float()
                if task.kind == "number":
                    metric.update(self.unscale(task.name, found[:, 0]), label[known])  # type: ignore[operator]
                else:
                    metric.update(found, label[known].long())  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        scores = []
        for task, metric in zip(self.tasks, self.metrics, strict=True):
            found: dict[str, Tensor] = metric.compute()  # type: ignore[operator]
            metric.reset()  # type: ignore[operator]
            scores.append(torch.nan_to_num(found[score_of(task)], nan=-1.0))
            for name, value in found.items():
                self.log(f"validation/{task.name}/{name}", value)
        self.log(SCORE, torch.stack(scores).mean(), prog_bar=True)

    def answers(self, batch: Mapping[str, Tensor], only: Sequence[str] | None = None) -> Answers:
        """What is said of a batch as it is, or with only these modalities."""
        masks = {
            name: batch[f"{name}_mask"] * (1.0 if only is None or name in only else 0.0)
            for name in self.model.modalities
        }
        changed = {**batch, **{f"{name}_mask": mask for name, mask in masks.items()}}
        return self.model(self.model.encode(changed), states_of(masks))  # type: ignore[no-any-return]

    def unscale(self, task: str, value: Tensor) -> Tensor:
        """A number's standardised output in its own unit."""
        mean, std = self._scales[task]
        return value * std + mean

    def _loss(self, answers: Answers, labels: Tensor, state: Tensor) -> Tensor:
        # Touches every parameter's output: a batch without any label still has a gradient, of 0.
        total = sum(
            (logits.sum() * 0.0 for logits in (*answers.fused.values(), *answers.single.values())),
            torch.zeros((), device=labels.device),
        )
        auxiliary = self.config.fusion.auxiliary
        for index, task in enumerate(self.tasks):
            label = labels[:, index]
            known = ~torch.isnan(label)
            if not known.any():
                continue
            loss = self._one(task, answers.fused[task.name][known], label[known])
            if auxiliary:
                heard = (state == PRESENT) & known.unsqueeze(1)
                alone = [
                    self._one(task, answers.single[task.name][rows, place], label[rows])
                    for place, rows in enumerate(heard.unbind(dim=1))
                    if rows.any()
                ]
                loss = loss + auxiliary * sum(alone, torch.zeros_like(loss)) / max(1, len(alone))
            total = total + self._task_weight[task.name] * loss
        return total

    def _one(self, task: Task, logits: Tensor, label: Tensor) -> Tensor:
        if task.kind == "number":
            mean, std = self._scales[task.name]
            return F.smooth_l1_loss(logits[:, 0].float(), (label - mean) / std)
        weight = self._weights[task.name].to(logits.device)
        each = F.cross_entropy(
            logits.float(),
            label.long(),
            reduction="none",
            label_smoothing=self.config.fit.label_smoothing,
        )
        chosen = weight[label.long()]
        return (each * chosen).sum() / chosen.sum().clamp(min=1e-9)

    def configure_optimizers(self) -> Any:
        fit = self.config.fit
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                slow = self.config.text.encoder == "bert" and ".words.bert." in name
                groups.setdefault((slow, parameter.ndim > 1), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "lr": fit.learning_rate * (fit.encoder_rate if slow else 1.0),
                    "weight_decay": fit.weight_decay if decays else 0.0,
                }
                for (slow, decays), parameters in groups.items()
            ]
        )
        warmup = max(1, round(fit.warmup * self._steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            done = (step - warmup) / max(1, self._steps - warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def metrics_of(task: Task, *, together: bool = True) -> MetricCollection:
    """Accuracy, macro recall and macro F1 of classes; error and concordance of a number.

    Args:
        together: over all processes of the fit.
    """
    if task.kind == "number":
        return MetricCollection(
            {
                "mae": MeanAbsoluteError(sync_on_compute=together),
                "ccc": ConcordanceCorrCoef(sync_on_compute=together),
            }
        )
    classes = len(task.labels)
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro", sync_on_compute=together),
            "macro_recall": MulticlassRecall(classes, average="macro", sync_on_compute=together),
            "macro_f1": MulticlassF1Score(classes, average="macro", sync_on_compute=together),
        }
    )


def score_of(task: Task) -> str:
    """The metric that tells which epoch is best; higher is better."""
    return "ccc" if task.kind == "number" else "macro_f1"
