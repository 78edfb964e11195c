"""``counterpoint-trainer evaluate BUNDLE DATASET``."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from counterpoint.streams.errors import UsageError


def add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options. Imports nothing that is slow."""
    parser = commands.add_parser(
        "evaluate", help="score a bundle on labelled recordings, through the engine itself"
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("dataset", type=Path, help="index of the data set (.csv or .parquet)")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        action="append",
        help="only the rows of this split (may be repeated); all rows by default",
    )
    parser.add_argument("--out", type=Path, help="folder for the report; without, figures only")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--resamples", type=int, default=1_000, help="of the bootstrap")
    parser.add_argument(
        "--rows", type=int, default=200, help="how many rows the report lists one by one"
    )
    parser.add_argument("--note", default="", help="what the rows are, for the report's head")
    parser.set_defaults(run=run_evaluate)


def add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options. Imports nothing that is slow."""
    parser = commands.add_parser(
        "export", help="a bundle in half precision or int8, held against the one it is made from"
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument(
        "dataset", type=Path, help="index; its rows give the ranges of int8 and are compared on"
    )
    parser.add_argument("--precision", choices=("fp16", "int8"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    parser.add_argument(
        "--role",
        choices=("vision", "audio", "text", "ngrams", "fusion"),
        action="append",
        help="only this graph (may be repeated); by default all that are fp32",
    )
    parser.set_defaults(run=_run_export)


def _run_export(options: argparse.Namespace) -> None:
    from counterpoint.trainer.evaluation.variants import run_export

    run_export(options)


def add_index(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options. Imports nothing that is slow."""
    parser = commands.add_parser(
        "index", help="write the index of a set that the bundle affect is evaluated on"
    )
    parser.add_argument("set", choices=("ravdess", "meld", "grid", "matched"))
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for index.csv")
    parser.set_defaults(run=_run_index)


def _run_index(options: argparse.Namespace) -> None:
    from counterpoint.trainer.affect.sets import run_index

    run_index(options)


def add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options. Imports nothing that is slow."""
    parser = commands.add_parser(
        "calibrate", help="fit a bundle's temperatures on recordings that it was not trained on"
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument(
        "dataset", type=Path, help="index; its rows of split validation, or all if it has no splits"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    parser.add_argument(
        "--least-rows", type=int, default=30, help="a mask with fewer keeps its temperature"
    )
    parser.set_defaults(run=_run_calibrate)


def _run_calibrate(options: argparse.Namespace) -> None:
    from counterpoint.trainer.evaluation.temperatures import run_calibrate

    if options.least_rows < 1:
        raise UsageError(f"--least-rows: 1 or more, not {options.least_rows}")
    run_calibrate(options)


def run_evaluate(options: argparse.Namespace) -> None:
    """Score, print the figures of each head, and write the report where one is asked for."""
    from counterpoint.engine.bundle import load_bundle
    from counterpoint.engine.device import open_device
    from counterpoint.engine.models import Models
    from counterpoint.trainer.evaluation import numbers
    from counterpoint.trainer.evaluation.dataset import read_for
    from counterpoint.trainer.evaluation.figures import NAMES, shown
    from counterpoint.trainer.evaluation.report import TITLES, About, write_report
    from counterpoint.trainer.evaluation.results import head_results
    from counterpoint.trainer.evaluation.scoring import score_rows

    if options.rows < 0:
        raise UsageError(f"--rows: 0 or more, not {options.rows}")
    if options.resamples < 0:
        raise UsageError(f"--resamples: 0 or more, not {options.resamples}")
    bundle = load_bundle(options.bundle)
    examples = read_for(bundle, options.dataset, options.split or ())
    device = open_device("cpu")
    try:
        scored = score_rows(Models.load(bundle, device), examples, tick=Progress(len(examples)))
    finally:
        device.close()
    results = head_results(bundle, scored, seed=options.seed, resamples=options.resamples)
    found = numbers.number_results(bundle, scored, seed=options.seed, resamples=options.resamples)
    about = About(
        dataset=_named(options.dataset),
        dataset_sha256=hashlib.sha256(options.dataset.read_bytes()).hexdigest(),
        splits=options.split or (),
        rows=len(scored),
        broke_off=[
            f"{row.example.id}: {modality}: {why}"
            for row in scored
            for modality, why in row.broke_off.items()
        ],
        seed=options.seed,
        resamples=options.resamples,
        command=_command(options),
        note=options.note,
    )
    for result in results:
        print(f"{result.head}: {result.rows} rows, {result.speakers} speakers")
        for name in NAMES:
            print(f"  {TITLES[name]:14} {shown(result.figures[name])}")
    for number in found:
        print(f"{number.name}: {number.rows} rows, {number.speakers} speakers")
        for name, figure in number.figures.items():
            print(f"  {numbers.TITLES[name]:20} {shown(figure)}")
    if options.out is not None:
        write_report(options.out, bundle, about, results, found, listed=options.rows)
        print(f"report: {options.out / 'report.html'}")


class Progress:
    """A line that counts rows, where somebody looks on."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._done = 0
        self._shows = sys.stderr.isatty()

    def __call__(self, _: object) -> None:
        self._done += 1
        if self._shows:
            end = "\n" if self._done == self._rows else ""
            print(f"\r{self._done} of {self._rows} rows", end=end, file=sys.stderr, flush=True)


def _command(options: argparse.Namespace) -> str:
    """What to type for this report, with no more of a path than tells one from another."""
    words: list[str] = ["counterpoint-trainer", "evaluate", options.bundle.name]
    words.append(_named(options.dataset))
    words += _repeated("--split", options.split or ())
    words += ["--seed", str(options.seed), "--resamples", str(options.resamples)]
    words += ["--rows", str(options.rows)]
    words += _repeated("--note", [options.note] if options.note else ())
    return shlex.join(words)


def _named(dataset: Path) -> str:
    """An index by its name and that of its folder: many are called index.csv."""
    return f"{dataset.resolve().parent.name}/{dataset.name}"


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
