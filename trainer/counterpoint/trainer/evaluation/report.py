"""``metrics.json``, ``predictions.csv``, ``report.md`` with its pictures, and ``report.html``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from counterpoint.engine.bundle import Bundle
from counterpoint.trainer.evaluation.document import (
    Block,
    Heading,
    Paragraph,
    Picture,
    Table,
    to_html,
    to_markdown,
)
from counterpoint.trainer.evaluation.figures import NAMES, as_json, shown, spelled
from counterpoint.trainer.evaluation.number_report import number_blocks, number_document
from counterpoint.trainer.evaluation.numbers import NumberLine, NumberResult
from counterpoint.trainer.evaluation.pictures import bars_svg, confusion_svg, reliability_svg
from counterpoint.trainer.evaluation.results import HeadResult, Line
from counterpoint.trainer.records import write_json

FEW_SPEAKERS: Final = 10
TITLES: Final = {
    "accuracy": "accuracy",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "ece": "ECE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What was scored, and how.

    Fields:
        dataset: name of the index.
        dataset_sha256: of its bytes.
        splits: of the rows that were scored; empty for all.
        rows: how many were scored.
        broke_off: rows whose media broke off, and why.
        seed, resamples: of the bootstrap.
        command: what made the report.
        note: what the rows are, in words; may be empty.
    """

    dataset: str
    dataset_sha256: str
    splits: Sequence[str]
    rows: int
    broke_off: Sequence[str]
    seed: int
    resamples: int
    command: str
    note: str = ""


def write_report(
    out: Path, bundle: Bundle, about: About, results: Sequence[HeadResult],
    numbers: Sequence[NumberResult], *, listed: int,
) -> None:  # fmt: skip
    """Write all files of a report into the folder ``out``, with the first ``listed`` rows."""
    out.mkdir(parents=True, exist_ok=True)
    title = f"Bundle {bundle.manifest.id} on {about.dataset}"
    blocks = _blocks(bundle, about, results, listed)
    for number in numbers:
        blocks += number_blocks(number, listed)
    document = _document(bundle, about, results)
    if numbers:
        document["numbers"] = {number.name: number_document(number) for number in numbers}
    write_json(out / "metrics.json", document)
    _write_predictions(out / "predictions.csv", results, numbers)
    for block in blocks:
        if isinstance(block, Picture):
            (out / f"{block.name}.svg").write_bytes(block.svg)
    (out / "report.md").write_text(to_markdown(title, blocks), encoding="utf-8")
    (out / "report.html").write_text(to_html(title, blocks), encoding="utf-8")


def _blocks(
    bundle: Bundle, about: About, results: Sequence[HeadResult], listed: int
) -> list[Block]:
    blocks: list[Block] = [
        Paragraph(
            text=f"Bundle {bundle.manifest.id}, digest {bundle.digest[:12]}. {about.rows} rows of "
            f"{about.dataset} ({', '.join(about.splits) or 'all splits'}; SHA-256 "
            f"{about.dataset_sha256[:12]}), each played flat out through a session of the engine. "
            f"A row's answer is the mean of its windows' calibrated probabilities."
        ),
        Paragraph(
            text="In brackets: 95 % intervals by bootstrap over speakers "
            f"({about.resamples} resamples, seed {about.seed})."
        ),
        Paragraph(text=f"Made by: {about.command}"),
    ]
    if about.note:
        blocks.insert(0, Paragraph(text=about.note))
    if about.broke_off:
        blocks.append(Paragraph(text=f"Media that broke off: {'; '.join(about.broke_off)}"))
    for result in results:
        blocks += _head_blocks(result, listed)
    return blocks


def _head_blocks(result: HeadResult, listed: int) -> list[Block]:
    head = result.head
    blocks: list[Block] = [
        Heading(text=f"Head {head}"),
        Paragraph(text=f"{result.rows} rows with a label, {result.speakers} speakers."),
        Table(
            columns=["figure", "value"],
            rows=[
                *([TITLES[name], shown(result.figures[name])] for name in NAMES),
                ["ECE of single windows", f"{result.window_ece:.3f}"],
            ],
        ),
    ]
    if result.speakers < FEW_SPEAKERS:
        blocks.append(
            Paragraph(
                text=f"With {result.speakers} speakers the intervals say little about other people."
            )
        )
    blocks += [
        Picture(
            name=f"{head}-confusion",
            alt=f"Confusion matrix of {head}: rows are actual, columns predicted",
            svg=confusion_svg(result.confusion, result.labels, head),
        ),
        Picture(
            name=f"{head}-reliability",
            alt=f"Reliability diagram of {head}: share that is right by confidence",
            svg=reliability_svg(result.reliability, head),
        ),
        Table(
            columns=["class", "rows", "recall", "F1"],
            rows=[
                # A recall of rows that are not there is no figure.
                [found.label, str(found.rows)]
                + ([f"{found.recall:.3f}", f"{found.f1:.3f}"] if found.rows else ["", ""])
                for found in result.classes
            ],
        ),
        Heading(text="Subsets of modalities", level=3),
        Paragraph(
            text="Each subset on the rows that have all of it; 'best member' is the highest macro "
            "recall of one of its modalities alone on these same rows."
        ),
        _subset_table(result),
        Picture(
            name=f"{head}-subsets",
            alt=f"Macro recall of {head} by subset of modalities",
            svg=bars_svg(
                {
                    spelled(mask): subset.figures["macro_recall"]
                    for mask, subset in result.subsets.items()
                },
                head,
                "macro recall",
            ),
        ),
        Heading(text="Contributions", level=3),
        Paragraph(
            text="Mean over rows of what a modality adds to a logit; contributions and a bias sum "
            "to the logit. 'Heard' is the share of windows in which the model heard it."
        ),
        _contribution_table(result),
        Heading(text="Predicted beside actual", level=3),
        *_lines(result, listed),
    ]
    return blocks


def _subset_table(result: HeadResult) -> Table:
    return Table(
        columns=["subset", "rows", "speakers", *(TITLES[name] for name in NAMES), "best member"],
        rows=[
            [spelled(mask), str(found.rows), str(found.speakers)]
            + [shown(found.figures[name]) for name in NAMES]
            + [f"{found.best_member:.3f}"]
            for mask, found in result.subsets.items()
        ],
    )


def _contribution_table(result: HeadResult) -> Table:
    return Table(
        columns=["modality", "rows", "to the actual", "to the predicted", "size", "heard"],
        rows=[
            [
                name,
                str(found.rows),
                f"{found.to_actual:+.3f}",
                f"{found.to_predicted:+.3f}",
                f"{found.size:.3f}",
                f"{found.heard:.3f}",
            ]
            for name, found in result.contributions.items()
        ],
    )


def _lines(result: HeadResult, listed: int) -> list[Block]:
    table = Table(
        columns=["id", "speaker", "has", "actual", "predicted", "confidence", ""],
        rows=[
            [
                line.id,
                line.speaker,
                spelled(line.mask),
                line.actual,
                line.predicted,
                f"{line.confidence:.2f}",
                "" if line.actual == line.predicted else "wrong",
            ]
            for line in result.lines[:listed]
        ],
    )
    if len(result.lines) <= listed:
        return [table]
    more = f"The first {listed} of {len(result.lines)}; all are in predictions.csv."
    return [Paragraph(text=more), table]


def _document(bundle: Bundle, about: About, results: Sequence[HeadResult]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "bundle": {"id": bundle.manifest.id, "digest": bundle.digest},
        "dataset": {
            "name": about.dataset,
            "sha256": about.dataset_sha256,
            "splits": list(about.splits),
            "rows": about.rows,
            "broke_off": list(about.broke_off),
            "note": about.note,
        },
        "bootstrap": {"over": "speakers", "resamples": about.resamples, "seed": about.seed},
        "heads": {
            result.head: {
                "labels": list(result.labels),
                "rows": result.rows,
                "speakers": result.speakers,
                "figures": as_json(result.figures),
                "window_ece": round(result.window_ece, 5),
                "confusion": result.confusion.tolist(),
                "classes": [asdict(found) for found in result.classes],
                "reliability": [asdict(found) for found in result.reliability],
                "subsets": {
                    mask: {
                        "rows": found.rows,
                        "speakers": found.speakers,
                        "figures": as_json(found.figures),
                        "best_member_macro_recall": round(found.best_member, 5),
                    }
                    for mask, found in result.subsets.items()
                },
                "contributions": {
                    name: asdict(found) for name, found in result.contributions.items()
                },
            }
            for result in results
        },
    }


def _write_predictions(
    path: Path, results: Sequence[HeadResult], numbers: Sequence[NumberResult]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["head", "id", "row", "speaker", "has", "actual", "predicted", "confidence"])
        for result in results:
            for line in result.lines:
                confidence = f"{line.confidence:.4f}"
                table.writerow(
                    [result.head, *_whose(line), line.actual, line.predicted, confidence]
                )
        for number in numbers:
            for said in number.lines:
                table.writerow(
                    [number.name, *_whose(said), f"{said.actual:.6g}", f"{said.predicted:.6g}", ""]
                )


def _whose(line: Line | NumberLine) -> tuple[str, int, str, str]:
    return line.id, line.row, line.speaker, line.mask
