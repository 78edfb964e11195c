"""``counterpoint-trainer fit CONFIG.toml``, ``init``, ``triples`` and ``bundle``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from counterpoint.streams.errors import UsageError


def run_fit(options: argparse.Namespace) -> None:
    """A fit from a configuration file; its figures go to standard output."""
    from counterpoint.trainer.fit.config import read_config
    from counterpoint.trainer.fit.run import fit

    path = Path(options.recipe)
    if path.suffix != ".toml":
        raise UsageError(f"fit: 'affect' or a configuration file (.toml), not {options.recipe!r}")
    config = read_config(path, options.set or ())
    out = options.out or path.parent / "run"
    for split, tasks in fit(config, out, resume=options.resume).items():
        for task, figures in tasks.items():
            for name, value in figures.items():
                print(f"{split:10}  {task}  {name:12}  {value:7.4f}")
    print(f"run: {out}")


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """What `run_fit` takes beside the file."""
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="over the file (may be repeated)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run that is there")


def add_own(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The commands around a fit of one's own. Imports nothing that is slow."""
    init = commands.add_parser("init", help="a configuration and a table for one's own task")
    init.add_argument("folder", type=Path)
    init.add_argument(
        "--modality",
        choices=("video", "audio", "text"),
        action="append",
        help="only these (may be repeated); by default all three",
    )
    init.add_argument(
        "--task",
        action="append",
        metavar="NAME[=CLASS,CLASS…|=number]",
        help="what is predicted (may be repeated); by default 'label'",
    )
    init.set_defaults(run=_run_init)
    triples = commands.add_parser(
        "triples", help="class-matched triples of FER+, RAVDESS and MELD for the textbook model"
    )
    triples.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    triples.add_argument("--out", type=Path, required=True, help="folder for table and faces")
    triples.add_argument("--per-class", type=int, default=0, help="in train; by default 300")
    triples.set_defaults(run=_run_triples)
    bundle = commands.add_parser("bundle", help="the best weights of a fit as a bundle")
    bundle.add_argument("folder", type=Path, help="of the run")
    bundle.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    bundle.add_argument("--task", action="append", help="only this (may be repeated)")
    bundle.add_argument("--replace", action="store_true", help="a bundle that is there")
    bundle.set_defaults(run=_run_bundle)


def _run_init(options: argparse.Namespace) -> None:
    from counterpoint.trainer.fit.init import init

    config, index = init(
        options.folder,
        modalities=options.modality or ("video", "audio", "text"),
        tasks=dict(_task(text) for text in options.task or ("label",)),
    )
    print(f"{index}: fill in a row for each example (docs/datasets.md)")
    print(f"{config}: then counterpoint-trainer fit {config}")


def _task(text: str) -> tuple[str, Sequence[str] | None]:
    name, _, labels = text.partition("=")
    if labels == "number":
        return name, None
    return name, tuple(label.strip() for label in labels.split(",") if label.strip())


def _run_triples(options: argparse.Namespace) -> None:
    from counterpoint.trainer.fit.triples import write_triples

    config = write_triples(options.data, options.out, per_class=options.per_class)
    print(f"{config}: counterpoint-trainer fit {config}")


def _run_bundle(options: argparse.Namespace) -> None:
    from counterpoint.trainer.fit.bundle import export_run

    bundle = export_run(
        options.folder, options.out, tasks=options.task or (), replace=options.replace
    )
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    print(f"{bundle.root}: {size / 1e6:.1f} MB, digest {bundle.digest[:12]}")
