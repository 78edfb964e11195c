"""The best weights on what was held out: each row's prediction beside its label, and figures."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterpoint.trainer.data.index import Split, Task
from counterpoint.trainer.fit.dataset import Source, batches
from counterpoint.trainer.fit.dropout import states_of
from counterpoint.trainer.fit.module import FitModule, metrics_of
from counterpoint.trainer.nets.model import MISSING, PRESENT
from counterpoint.trainer.records import write_json

SPLITS: tuple[Split, ...] = ("validation", "test")
_ROWS_SHOWN = 40


def write_report(out: Path, source: Source, module: FitModule) -> dict[str, Any]:
    """``metrics.json``, ``subsets.json``, ``predictions.csv`` (every row) and ``report.md`` (the
    first rows).

    Returns:
        split -> task -> figure.
    """
    module.eval()
    figures: dict[str, Any] = {}
    subsets: dict[str, Any] = {}
    rows: list[dict[str, str]] = []
    for split in SPLITS:
        if source.index.of(split):
            figures[split], subsets[split] = _score(source, module, split, rows)
    write_json(out / "metrics.json", figures)
    write_json(out / "subsets.json", subsets)
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "split", "task", "actual", "predicted", "probability"])
        writer.writeheader()
        writer.writerows(rows)
    text = _markdown(source, figures, subsets, rows)
    (out / "report.md").write_text(text, encoding="utf-8")
    return figures


def _score(
    source: Source, module: FitModule, split: Split, rows: list[dict[str, str]]
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Figures by task with all that each row has, and by task and subset on the rows that have it.

    A row is encoded once and fused once for each subset.
    """
    ids = {example.row: example.id for example in source.index.of(split)}
    names = module.model.modalities
    parts = _parts(len(names))
    answers: dict[tuple[str, tuple[int, ...]], list[Tensor]] = {}
    labels, there = list[Tensor](), list[Tensor]()
    with torch.inference_mode():
        for batch in batches(source, split):
            state = states_of({name: batch[f"{name}_mask"] for name in names})
            tokens = module.model.tokens(module.model.encode(batch))
            labels.append(batch["labels"])
            there.append(state == PRESENT)
            for part in ((), *parts):
                said = module.model.answer(tokens, _only(state, part)).fused
                for task in module.tasks:
                    one = said[task.name].float()
                    one = one.softmax(dim=1) if task.labels else module.unscale(task.name, one)
                    answers.setdefault((task.name, part), []).append(one)
            for index, task in enumerate(module.tasks):
                for row, one, label in zip(
                    batch["row"].tolist(),
                    answers[task.name, ()][-1],
                    batch["labels"][:, index].tolist(),
                    strict=True,
                ):
                    rows.append({"id": ids[row], "split": split, **_said(task, one, label)})
    truth, present = torch.cat(labels), torch.cat(there)
    figures: dict[str, dict[str, float]] = {}
    subsets: dict[str, Any] = {}
    for index, task in enumerate(module.tasks):
        known = ~torch.isnan(truth[:, index])
        if not known.any():
            continue
        whole = torch.cat(answers[task.name, ()])
        figures[task.name] = _figures(module, task, whole[known], truth[known, index])
        subsets[task.name] = {}
        for part in parts:
            having = known & present[:, list(part)].all(dim=1)
            if having.any():
                alone = torch.cat(answers[task.name, part])[having]
                subsets[task.name][" + ".join(names[place] for place in part)] = {
                    "rows": int(having.sum()),
                    **_figures(module, task, alone, truth[having, index]),
                }
    return figures, subsets


def _parts(count: int) -> list[tuple[int, ...]]:
    """Every choice of so many modalities, from one to all."""
    return [
        part for size in range(1, count + 1) for part in itertools.combinations(range(count), size)
    ]


def _only(state: Tensor, part: tuple[int, ...]) -> Tensor:
    """States (N, M) as if there were only these modalities; none named: as they are."""
    if not part:
        return state
    kept = torch.zeros_like(state, dtype=torch.bool)
    kept[:, list(part)] = True
    return torch.where(kept, state, torch.full_like(state, MISSING))


def _figures(module: FitModule, task: Task, said: Tensor, label: Tensor) -> dict[str, float]:
    """Of a number also the mean absolute error of who always says train's mean."""
    metric = metrics_of(task, together=False)
    if task.labels:
        metric.update(said, label.long())
    else:
        metric.update(said[:, 0], label)
    figures = {name: float(value) for name, value in metric.compute().items()}
    if not task.labels:
        mean = module.unscale(task.name, torch.zeros(()))
        figures["mae_of_mean"] = float((label - mean).abs().mean())
    # Without a number for it (one row has no concordance) a figure is left out.
    return {name: value for name, value in figures.items() if math.isfinite(value)}


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


def _markdown(
    source: Source,
    figures: Mapping[str, Any],
    subsets: Mapping[str, Any],
    rows: list[dict[str, str]],
) -> str:
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
        "Subsets of modalities, each on the rows that have all of it:",
        "",
        "| split | task | subset | rows | figures |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {split} | {task} | {part} | {found['rows']} | {_spelled(found)} |"
        for split, tasks in subsets.items()
        for task, parts in tasks.items()
        for part, found in parts.items()
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


def _spelled(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in found.items() if name != "rows")
