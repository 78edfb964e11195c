"""``counterpoint-trainer calibrate``: a bundle's temperatures on recordings that it never saw."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from counterpoint.engine.bundle import Bundle, load_bundle
from counterpoint.engine.device import open_device
from counterpoint.engine.manifest import MASKS
from counterpoint.engine.models import Models
from counterpoint.streams.errors import UsageError
from counterpoint.trainer.calibrate import Fitted, Samples, fit_masks, mean_shares
from counterpoint.trainer.data.index import DatasetError, Example
from counterpoint.trainer.evaluation.command import Progress
from counterpoint.trainer.evaluation.dataset import read_for
from counterpoint.trainer.evaluation.results import speaker_of
from counterpoint.trainer.evaluation.scoring import Scored, score_rows
from counterpoint.trainer.rebundle import rebundle

LEAST_ROWS: Final = 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One head and mask: what was and what is, or why it stays as it was.

    Fields:
        rows, speakers: how many say something with just this mask heard.
        fitted: None where there are too few rows.
        shares: mean probabilities with the temperature fitted; None where there is none.
    """

    head: str
    mask: str
    rows: int
    speakers: int
    before: float
    fitted: Fitted | None
    shares: tuple[float, ...] | None = None

    @property
    def after(self) -> float:
        return self.before if self.fitted is None else self.fitted.temperature


def run_calibrate(options: argparse.Namespace) -> None:
    """Fit, print each temperature, and write the bundle."""
    bundle = load_bundle(options.bundle)
    if options.out.resolve() == options.bundle.resolve():
        raise UsageError(f"--out: {options.out} is the bundle itself; give another folder")
    if not bundle.manifest.heads:
        raise UsageError(
            f"{options.bundle}: tells numbers alone, and a temperature is for probabilities"
        )
    examples = held_out(bundle, options.dataset)
    device = open_device("cpu")
    try:
        models = Models.load(bundle, device)
        tick = Progress(len(examples))
        lines = fit_bundle(bundle, score_rows(models, examples, tick=tick), options.least_rows)
    finally:
        device.close()
    for line in lines:
        print(_spelled(line))
    made = write_calibrated(bundle, lines, options.out, options.dataset.name)
    print(f"bundle: {options.out}, digest {made.digest[:12]}")


def held_out(bundle: Bundle, dataset: Path) -> tuple[Example, ...]:
    """The rows of the split validation; all, where the index has no splits.

    Raises:
        DatasetError: there is no such row.
    """
    examples = read_for(bundle, dataset, ())
    if examples[0].split is None:
        return examples
    chosen = tuple(example for example in examples if example.split == "validation")
    if not chosen:
        raise DatasetError(
            f"{dataset}: column 'split': no labelled row has 'validation', and a temperature is "
            "not fitted on train or test"
        )
    return chosen


def fit_bundle(
    bundle: Bundle, scored: Sequence[Scored], least_rows: int = LEAST_ROWS
) -> list[Line]:
    """A line for each head and mask of the bundle."""
    lines = []
    for head in bundle.manifest.heads:
        by_mask = {mask: _samples(head, mask, scored) for mask in MASKS}
        usable = {
            mask: samples
            for mask, (samples, rows) in by_mask.items()
            if samples is not None and rows >= least_rows
        }
        fitted = fit_masks(usable)
        lines += [
            Line(
                head=head,
                mask=mask,
                rows=rows,
                speakers=0 if samples is None else len(set(samples.speakers or ())),
                before=bundle.temperature(head, mask),
                fitted=fitted.get(mask),
                shares=_shares(samples, fitted.get(mask)),
            )
            for mask, (samples, rows) in by_mask.items()
        ]
    return lines


def _shares(samples: Samples | None, fitted: Fitted | None) -> tuple[float, ...] | None:
    if samples is None or fitted is None:
        return None
    return tuple(mean_shares(samples.logits, fitted.temperature, samples.weight))


def _samples(head: str, mask: str, scored: Sequence[Scored]) -> tuple[Samples | None, int]:
    """Windows in which just the modalities of ``mask`` were heard; each row counts once."""
    logits, labels, weights, speakers = [], [], [], []
    for row in scored:
        said = row.said.get(mask)
        if said is None or head not in row.example.labels:
            continue
        # Where less was heard (no face, no voice) it is another mask's temperature that counts.
        chosen = [at for at, heard in enumerate(said.heard) if heard == mask]
        if not chosen:
            continue
        logits.append(said.logits[head][chosen])
        labels += [int(row.example.labels[head])] * len(chosen)
        weights += [1 / len(chosen)] * len(chosen)
        speakers += [speaker_of(row.example)] * len(chosen)
    if not logits:
        return None, 0
    stacked = torch.from_numpy(np.concatenate(logits))
    target = F.one_hot(torch.tensor(labels), stacked.shape[1]).double()
    samples = Samples(
        logits=stacked, target=target, weight=torch.tensor(weights).double(), speakers=speakers
    )
    return samples, len(logits)


def write_calibrated(bundle: Bundle, lines: Sequence[Line], out: Path, dataset: str) -> Bundle:
    """The bundle with these temperatures and shares; figures of calibration that no longer hold
    are dropped.

    Raises:
        BundleError: ``out`` is something else than a bundle.
    """
    temperatures: Mapping[str, Mapping[str, float]] = {
        head: {line.mask: line.after for line in lines if line.head == head}
        for head in bundle.manifest.heads
    }
    metrics = {
        name: metric for name, metric in bundle.manifest.metrics.items() if not name.endswith("ece")
    }
    shares = {head: dict(by_mask) for head, by_mask in bundle.manifest.shares.items()}
    for line in lines:
        if line.shares is not None:
            shares.setdefault(line.head, {})[line.mask] = line.shares
    manifest = dataclasses.replace(
        bundle.manifest, temperatures=temperatures, shares=shares, metrics=metrics
    )
    return rebundle(bundle, out, manifest, card=_card(bundle, lines, dataset))


def _card(bundle: Bundle, lines: Sequence[Line], dataset: str) -> str:
    rows = [
        f"| {line.head} | {line.mask} | {line.rows} | {line.speakers} | {line.before:.3f} | "
        f"{line.after:.3f} | {_nats(line.fitted)} |"
        for line in lines
    ]
    words = (
        f"From the bundle with the digest {bundle.digest[:12]}, on held-out rows of {dataset}. "
        "Figures of calibration above are those of that bundle. Cross-entropy in nats: with "
        "temperature 1, with the one fitted, and on speakers left out of the fit. A mask with "
        "too few rows keeps its temperature."
    )
    return "\n".join(
        [
            "## Calibrated again",
            "",
            words,
            "",
            "| head | mask | rows | speakers | before | after | cross-entropy |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _nats(fitted: Fitted | None) -> str:
    if fitted is None:
        return "not fitted"
    left_out = "" if fitted.left_out is None else f", left out {fitted.left_out:.4f}"
    return f"{fitted.plain:.4f} to {fitted.scaled:.4f}{left_out}"


def _spelled(line: Line) -> str:
    return (
        f"{line.head:12} {line.mask}  T {line.before:.3f} -> {line.after:.3f}  "
        f"{line.rows} rows, {line.speakers} speakers; {_nats(line.fitted)}"
    )
