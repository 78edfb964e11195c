"""The report of `studies.ravdess_fusion`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from counterpoint.trainer.records import write_json
from counterpoint.trainer.studies.drawing import Spread, curves_svg

HEARD: Final = {"both": "both", "audio": "sound alone", "video": "action units alone"}

REFERENCES: Final = (
    ("wav2vec2; perceptron on action units; both (published)", 81.8, 60.2, 86.7),
    ("linear models on hand-made features; product (measured)", 53.2, 58.7, 75.8),
)
"""Of PROVENANCE.md beside the data: accuracy in percent of sound, action units and both."""


def over_folds(
    runs: Sequence[Mapping[str, Any]], model: str, heard: str, figure: str
) -> tuple[float, float]:
    """Mean and deviation over folds of the mean over seeds."""
    by_fold: dict[int, list[float]] = {}
    for run in runs:
        by_fold.setdefault(run["fold"], []).append(run["models"][model][heard][figure])
    means = [float(np.mean(values)) for values in by_fold.values()]
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def write_report(
    out: Path, runs: Sequence[Mapping[str, Any]], *, kinds: Sequence[str], seeds: int
) -> None:
    """Write ``report.md``, ``metrics.json`` and two pictures into ``out``.

    Args:
        runs: of each fold and seed: ``fold``, ``seed``, ``models`` (name -> heard -> figures).
    """
    names = list(runs[0]["models"])
    summary = {
        name: {
            heard: {
                figure: dict(
                    zip(("mean", "sd"), over_folds(runs, name, heard, figure), strict=True)
                )
                for figure in ("accuracy", "recall")
            }
            for heard in HEARD
        }
        for name in names
    }
    write_json(out / "metrics.json", {"seeds": seeds, "models": summary, "runs": list(runs)})
    for suffix, file, title in (
        ("", "dropout.svg", "with modality dropout"),
        (", without dropout", "no-dropout.svg", "without modality dropout"),
    ):
        series: dict[str, list[Spread]] = {
            words: [_spread(summary[kind + suffix][heard]["recall"]) for kind in kinds]
            for heard, words in HEARD.items()
        }
        picture = curves_svg(
            series,
            [kind.replace("_", " ") for kind in kinds],
            x="fusion",
            y="unweighted recall",
            title=f"RAVDESS, unseen actors, {title}",
            chance=1 / 8,
            joined=False,
        )
        (out / file).write_bytes(picture)
    (out / "report.md").write_text(_text(summary, runs, seeds), encoding="utf-8")


def _spread(value: Mapping[str, float]) -> Spread:
    return value["mean"], value["mean"] - value["sd"], value["mean"] + value["sd"]


def _text(
    summary: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]],
    runs: Sequence[Mapping[str, Any]],
    seeds: int,
) -> str:
    folds = len({run["fold"] for run in runs})

    def cell(name: str, heard: str, figure: str) -> str:
        found = summary[name][heard][figure]
        return f"{100 * found['mean']:.1f} ± {100 * found['sd']:.1f}"

    def row(words: str, name: str) -> str:
        cells = [cell(name, heard, figure) for figure in ("recall", "accuracy") for heard in HEARD]
        return f"| {words} | {' | '.join(cells)} |"

    lines = [
        "# RAVDESS: sound and action units, subject-wise folds",
        "",
        (
            f"1,200 recordings of 20 actors, 8 classes (chance 12.5 % recall), {folds} folds of 4 "
            "actors each, two women and two men; every figure is of actors whom the model never "
            f"saw. {seeds} seeds: a fold's value is their mean, then mean ± standard deviation "
            "over folds. All settings are fixed and the last epoch counts; dropout of inputs and "
            "weight decay were set after one look at the first fold, nothing else was chosen on "
            "these actors."
        ),
        "",
        (
            "Sound is 401 fixed statistics of the shared log-mel, a face the clip's means of 35 "
            "action units; each goes through a small perceptron into the trainer's own model "
            "(`nets.model`, `nets.fusion`, auxiliary heads 0.3). *Alone* is the same model with "
            "the other modality missing, its learned token in place; with modality dropout each "
            "was drawn away with 40 % in training, one always staying. *Separate* is one model for "
            "each modality, and the product of what they say."
        ),
        "",
        (
            "Made by: python -m counterpoint.trainer.studies.ravdess_fusion --data DATA --out OUT "
            f"--seeds {seeds}"
        ),
        "",
        (
            "| model | recall: both | sound alone | action units alone | accuracy: both "
            "| sound alone | action units alone |"
        ),
        "|---|---|---|---|---|---|---|",
        row("separate models, product", "separate"),
        *(row(name.replace("_", " "), name) for name in summary if name != "separate"),
        "",
        "![Unweighted recall with modality dropout](dropout.svg)",
        "",
        "![Unweighted recall without modality dropout](no-dropout.svg)",
        "",
        "## Beside references",
        "",
        (
            "Accuracy in percent, subject-wise folds, 8 classes, as given in the data's "
            "PROVENANCE.md. Folds are not the same, and wav2vec2 was trained on 960 hours of other "
            "speech."
        ),
        "",
        "| | sound | action units | both |",
        "|---|---|---|---|",
        *(
            f"| {words} | {sound:.1f} | {units:.1f} | {both:.1f} |"
            for words, sound, units, both in REFERENCES
        ),
        (
            f"| ours, separate models, product | {cell('separate', 'audio', 'accuracy')} "
            f"| {cell('separate', 'video', 'accuracy')} | {cell('separate', 'both', 'accuracy')} |"
        ),
        "",
    ]
    return "\n".join(lines)
