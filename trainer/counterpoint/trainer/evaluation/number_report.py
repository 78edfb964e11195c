"""What a report says of a task whose answer is a number."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from counterpoint.trainer.evaluation.document import Block, Heading, Paragraph, Picture, Table
from counterpoint.trainer.evaluation.figures import as_json, shown, spelled
from counterpoint.trainer.evaluation.numbers import TITLES, NumberResult
from counterpoint.trainer.evaluation.pictures import scatter_svg


def number_blocks(result: NumberResult, listed: int) -> list[Block]:
    """Figures, picture, subsets, contributions, and the first ``listed`` rows."""
    lines = result.lines
    more = f"The first {listed} of {len(lines)}; all are in predictions.csv."
    return [
        Heading(text=f"Number {result.name}"),
        Paragraph(text=f"{result.rows} rows with a label, {result.speakers} speakers."),
        Table(
            columns=["figure", "value"],
            rows=[[TITLES[name], shown(figure)] for name, figure in result.figures.items()],
        ),
        Picture(
            name=f"{result.name}-scatter",
            alt=f"Predicted against actual {result.name}",
            svg=scatter_svg(
                [line.actual for line in lines], [line.predicted for line in lines], result.name
            ),
        ),
        Heading(text="Subsets of modalities", level=3),
        Table(
            columns=["subset", "rows", "speakers", *TITLES.values()],
            rows=[
                [spelled(mask), str(subset.rows), str(subset.speakers)]
                + [shown(subset.figures[name]) if name in subset.figures else "" for name in TITLES]
                for mask, subset in result.subsets.items()
            ],
        ),
        Heading(text="Contributions", level=3),
        Paragraph(text="What a modality adds, in the number's own unit: mean, and mean size."),
        Table(
            columns=["modality", "rows", "mean", "size", "heard"],
            rows=[
                [name, str(one.rows), f"{one.mean:+.3g}", f"{one.size:.3g}", f"{one.heard:.3f}"]
                for name, one in result.contributions.items()
            ],
        ),
        Heading(text="Predicted beside actual", level=3),
        *([Paragraph(text=more)] if len(lines) > listed else []),
        Table(
            columns=["id", "speaker", "has", "actual", "predicted"],
            rows=[
                [
                    line.id,
                    line.speaker,
                    spelled(line.mask),
                    f"{line.actual:.4g}",
                    f"{line.predicted:.4g}",
                ]
                for line in lines[:listed]
            ],
        ),
    ]


def number_document(result: NumberResult) -> dict[str, Any]:
    """As ``metrics.json`` has it."""
    return {
        "rows": result.rows,
        "speakers": result.speakers,
        "figures": as_json(result.figures),
        "subsets": {
            mask: {
                "rows": subset.rows,
                "speakers": subset.speakers,
                "figures": as_json(subset.figures),
            }
            for mask, subset in result.subsets.items()
        },
        "contributions": {name: asdict(one) for name, one in result.contributions.items()},
    }
