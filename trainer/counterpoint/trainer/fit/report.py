"""The best weights on what was held out: each row's prediction beside its label, and figures."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterpoint.trainer.data.index import Split, Task
from counterpoint.trainer.fit.dataset import Source, batches
from counterpoint.trainer.fit.module import FitModule, metrics_of
from counterpoint.trainer.records import write_json

SPLITS: tuple[Split, ...] = ("validation", "test")
_ROWS_SHOWN = 40


def write_report(out: Path, source: Source, module: FitModule) -> dict[str, Any]:
    """``metrics.json``, ``predictions.csv`` (every row) and ``report.md`` (the first rows).

    Returns:
        split -> task -> figure.
    """
    module.eval()
    figures: dict[str, Any] = {}
    rows: list[dict[str, str]] = []
    for split in SPLITS:
        if source.index.of(split):
            figures[split] = _score(source, module, split, rows)
    write_json(out / "metrics.json", figures)
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "split", "task", "actual", "predicted", "probability"])
        writer.writeheader()
        writer.writerows(rows)
    (out / "report.md").write_text(_markdown(source, figures, rows), encoding="utf-8")
    return figures


def _score(
    source: Source, module: FitModule, split: Split, rows: list[dict[str, str]]
) -> dict[str, dict[str, float]]:
    ids = {example.row: example.id for example in source.index.of(split)}
    found: dict[str, list[Tensor]] = {task.name: [] for task in module.tasks}
    labels: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches(source, split):
            answers = module.answers(batch)
            labels.append(batch["labels"])
            for index, task in enumerate(module.tasks):
                said = answers.fused[task.name].float()
                said = said.softmax(dim=1) if task.labels else module.unscale(task.name, said)
                found[task.name].append(said)
                for row, one, label in zip(
                    batch["row"].tolist(), said, batch["labels"][:, index].tolist(), strict=True
                ):
                    rows.append({"id": ids[row], "split": split, **_said(task, one, label)})
    truth = torch.cat(labels)
    figures: dict[str, dict[str, float]] = {}
    for index, task in enumerate(module.tasks):
        known = ~torch.isnan(truth[:, index])
        if known.any():
            said, label = torch.cat(found[task.name])[known], truth[known, index]
            metric = metrics_of(task, together=False)
            if task.labels:
                metric.update(said, label.long())
            else:
                metric.update(said[:, 0], label)
            # Without a number for it (one row has no concordance) a figure is left out.
            figures[task.name] = {
                name: float(value)
                for name, value in metric.compute().items()
                if bool(torch.isfinite(value))
            }
    return figures


def _said(task: Task, said: Tensor, label: float) -> dict[str, str]:
    known = not math.isnan(label)
    if not task.labels:
        actual = f"{label:.4g}" if known else ""
        return {
            "task": task.name,
            "actual": actual,
            "predicted": f"{float(said[0]):.4g}",
            "probability": "",
        }
    best = int(said.argmax())
    return {
        "task": task.name,
        "actual": task.labels[int(label)] if known else "",
        "predicted": task.labels[best],
        "probability": f"{float(said[best]):.3f}",
    }


def _markdown(source: Source, figures: Mapping[str, Any], rows: list[dict[str, str]]) -> str:
    config = source.config
    lines = [
        "# Report",
        "",
        f"{', '.join(config.modalities)}; fusion {config.fusion.kind}; seed {config.fit.seed}.",
        "One window of each recording, from its middle; speakers of these splits are not in train",
        "where the index names speakers.",
        "",
        "| split | task | figure | value |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {split} | {task} | {name} | {value:.4f} |"
        for split, tasks in figures.items()
        for task, values in tasks.items()
        for name, value in values.items()
    ]
    lines += [
        "",
        f"The first {min(len(rows), _ROWS_SHOWN)} of {len(rows)} in `predictions.csv`:",
        "",
        "| id | split | task | actual | predicted | probability |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['id'].replace('|', '/')} | {row['split']} | {row['task']} | {row['actual']} "
        f"| {row['predicted']} | {row['probability']} |"
        for row in rows[:_ROWS_SHOWN]
    ]
    return "\n".join(lines) + "\n"
