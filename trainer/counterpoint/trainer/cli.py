"""Command line of the trainer, ``counterpoint-trainer``.

Exit codes are those of the errors' tree: 0 done, 1 failed, 2 wrong usage, 3 not available here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from counterpoint.streams.errors import CounterpointError, UnavailableError, UsageError
from counterpoint.trainer.evaluation.command import (
    add_calibrate,
    add_evaluate,
    add_export,
    add_index,
)
from counterpoint.trainer.fit.command import add_fit_options, add_own, run_fit

_STAGES = ("vision", "audio", "text", "fusion", "export", "all")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        _need_torch()
        options.run(options)
    except CounterpointError as error:
        print(f"counterpoint-trainer: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _fit(options: argparse.Namespace) -> None:
    if options.recipe != "affect":
        run_fit(options)
        return
    if options.data is None or options.out is None:
        raise UsageError("fit affect: --data and --out are needed")
    # Only here, so that --help and wrong usage answer at once, and without the extra too.
    from counterpoint.trainer.affect.recipe import run_all, run_stage
    from counterpoint.trainer.config import AffectConfig, AudioConfig, TextConfig, VisionConfig

    _need_folder(options.data)
    text = TextConfig.going_on(str(options.start)) if options.start else TextConfig()
    audio = AudioConfig(start=str(options.start)) if options.start else AudioConfig()
    vision = VisionConfig(start=str(options.start)) if options.start else VisionConfig()
    config = AffectConfig(seed=options.seed, vision=vision, audio=audio, text=text)
    stages = options.stage or ["all"]
    for stage in stages:
        if stage == "all":
            seconds = run_all(options.data, options.out, config)
            for step, value in seconds.items():
                print(f"{step:10} {value / 60:6.1f} min")
            print(f"bundle: {options.out / 'bundle'}")
        else:
            run_stage(stage, options.data, options.out, config)


def _validate(options: argparse.Namespace) -> None:
    from counterpoint.trainer.evaluate import evaluate_bundle

    _need_folder(options.data)
    metrics = evaluate_bundle(options.bundle, options.data, options.cache)
    if options.json:
        print(json.dumps({name: asdict(metric) for name, metric in metrics.items()}, indent=1))
        return
    width = max(len(name) for name in metrics)
    for name, metric in metrics.items():
        print(f"{name:{width}}  {metric.value:7.4f}  {metric.split}")


def _need_folder(data: Path) -> None:
    if not data.is_dir():
        raise UsageError(f"--data: there is no folder {data}")


def _need_torch() -> None:
    try:
        import torch  # noqa: F401 # heavy, and only the trainer's extra brings it
    except ImportError as error:
        raise UnavailableError(
            "the trainer needs torch: pip install 'counterpoint[trainer]'"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="counterpoint-trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fit = commands.add_parser("fit", help="train a model")
    fit.add_argument("recipe", help="a configuration file (.toml), or 'affect'")
    fit.add_argument("--out", type=Path, help="folder of the run; by default 'run' beside the file")
    add_fit_options(fit)
    fit.add_argument("--data", type=Path, help="affect: folder of the data sets")
    fit.add_argument("--seed", type=int, default=0, help="affect: seed")
    fit.add_argument(
        "--stage",
        choices=_STAGES,
        action="append",
        help="affect: only this stage (may be repeated)",
    )
    fit.add_argument("--start", type=Path, help="affect: go on from the parts of this bundle")
    fit.set_defaults(run=_fit)
    add_own(commands)
    add_evaluate(commands)
    add_export(commands)
    add_index(commands)
    add_calibrate(commands)
    validate = commands.add_parser(
        "validate", help="the figures of the bundle affect on the sets that it was made from"
    )
    validate.add_argument("bundle", type=Path)
    validate.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    validate.add_argument("--cache", type=Path, default=Path("runs/cache"))
    validate.add_argument("--json", action="store_true", help="print JSON")
    validate.set_defaults(run=_validate)
    return parser


if __name__ == "__main__":
    sys.exit(main())
