"""``python -m tests.simulation --seed N --hours H``: the whole engine, simulated.

Prints what happened and a digest: the same seed gives the same digest on the same commit and
Python. A seed that fails is shrunk, and the command that reproduces it is printed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from counterpoint.engine.models import Models
from tests.simulation.plan import FAULTS, Plan
from tests.simulation.shrink import shrink
from tests.simulation.world import Outcome, simulate
from tests.support.bundles import tiny_bundle
from tests.support.sessions import load_models


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    parser.add_argument("--hours", type=float, default=None)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--faults", help="with commas; all, none, or drawn from the seed")
    parser.add_argument("--no-noise", action="store_true", help="hold no step of a task back")
    parser.add_argument("--sessions", type=int, help="how many; 1, or drawn from the seed")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    faults: frozenset[str] | None = None
    if args.faults is not None:
        named = {name.strip() for name in args.faults.split(",")} - {"none", ""}
        faults = frozenset(FAULTS if named == {"all"} else named)
        if unknown := faults - set(FAULTS):
            parser.error(f"unknown faults {sorted(unknown)}; known: {', '.join(FAULTS)}")
    total_s = spent_s = 0.0
    with tempfile.TemporaryDirectory() as folder:
        models = load_models(tiny_bundle(Path(folder) / "tiny"))
        for seed in range(args.seed, args.seed + args.seeds):
            plan = Plan.draw(seed, args.seconds or (args.hours or 1.0) * 3_600)
            if faults is not None:
                plan = replace(plan, faults=faults, sessions=1)
            plan = replace(plan, noise=not args.no_noise, sessions=args.sessions or plan.sessions)
            print(plan.command())
            started = time.process_time()
            outcome = _run(plan, models)
            if outcome is None:
                return 1
            seed_s = time.process_time() - started
            if args.seeds == 1:
                for name, count in sorted(outcome.coverage.items()):
                    print(f"  {name}: {count}")
            _say(outcome, seed_s)
            total_s += outcome.sessions * outcome.simulated_s
            spent_s += seed_s
    if args.seeds > 1:
        print(
            f"{args.seeds} seeds: {total_s:.0f} s of sessions in {spent_s:.1f} CPU s "
            f"({total_s / spent_s:.0f} times real time)"
        )
    return 0


def _say(outcome: Outcome, spent_s: float) -> None:
    print(
        f"{outcome.sessions} x {outcome.simulated_s:.0f} s simulated in {spent_s:.1f} CPU s "
        f"({outcome.sessions * outcome.simulated_s / spent_s:.0f} times real time), "
        f"{outcome.steps / outcome.simulated_s:.0f} steps a second, digest {outcome.digest}"
    )


def _run(plan: Plan, models: Models) -> Outcome | None:
    """What came of it; None where it failed, with the smallest plan that fails on stderr."""
    try:
        return simulate(plan, models)
    except AssertionError as error:
        print(f"FAILED: {error}", file=sys.stderr)

    def fails(candidate: Plan) -> bool:
        try:
            simulate(candidate, models)
        except AssertionError:
            return True
        return False

    print(f"shrunk: {shrink(plan, fails).command()}", file=sys.stderr)
    return None


if __name__ == "__main__":
    sys.exit(main())
