"""Replay at full speed: windows a second, CPU milliseconds a window, and where they go.

The demo session goes through the whole engine flat out: decoding, mailbox, aligner, encoders,
fusion, an embedded Redis. One run warms up, then ``--runs`` are measured.

What the figures mean: ``windows_per_s`` is wall time of a run without start-up (bundle and Redis
are up before). ``cpu_ms_per_window`` is CPU time of this process, all threads, Redis apart. A
stage's ``ms_per_window`` is wall time inside that stage, so on a busy machine stages can add up to
more than the CPU time. ``decode`` is measured alone, by stepping the source without an engine. The
other stages are what the predictions themselves carry in ``stages_ms``; ``other`` is the CPU time
that is left: mailbox, aligner, tasks, documents and publishing.

    python -m benchmarks.replay [--runs 3] [--out FILE]

The last line of output is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import circumstances, finish
from counterpoint.engine.config import load_config
from counterpoint.engine.engine import Engine
from counterpoint.engine.sources import open_demo

STAGES = ("face", "vision", "log_mel", "voice", "audio", "text", "fusion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass over the demo session."""

    windows: int
    wall_s: float
    cpu_s: float
    stage_ms: dict[str, float]


async def one_run(engine: Engine, name: str) -> Run:
    """Play the demo flat out through an engine that is up."""
    sources = open_demo()
    stage_ms = dict.fromkeys(STAGES, 0.0)
    windows = 0
    wall, cpu = time.perf_counter(), time.process_time()
    async with engine.session(name, sources, speed=None) as session:
        async for prediction in session.predictions():
            windows += 1
            for stage in STAGES:
                stage_ms[stage] += prediction.stages.ms.get(stage, 0.0)
    return Run(
        windows=windows,
        wall_s=time.perf_counter() - wall,
        cpu_s=time.process_time() - cpu,
        stage_ms=stage_ms,
    )


def decode_cpu_s() -> float:
    """CPU seconds to step the demo's sources to their end, without an engine."""
    source = open_demo().recording
    started = time.process_time()
    step = source.step(0)
    while step.next_wake_ns is not None:
        step = source.step(step.next_wake_ns)
    source.close()
    return time.process_time() - started


async def measure(runs: int) -> list[Run]:
    async with Engine.open(load_config()) as engine:
        await one_run(engine, "warm-up")
        return [await one_run(engine, f"run-{index}") for index in range(runs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the JSON document there, too")
    args = parser.parse_args()

    runs = asyncio.run(measure(args.runs))
    windows = runs[0].windows
    decode_ms = statistics.median(decode_cpu_s() for _ in range(args.runs)) * 1e3 / windows
    stages = {
        "decode": round(decode_ms, 3),
        **{
            stage: round(statistics.median(run.stage_ms[stage] / windows for run in runs), 3)
            for stage in STAGES
        },
    }
    cpu_ms = statistics.median(run.cpu_s * 1e3 / windows for run in runs)
    stages["other"] = round(max(0.0, cpu_ms - sum(stages.values())), 3)
    document: dict[str, object] = {
        "benchmark": "replay",
        **circumstances(),
        "runs": args.runs,
        "windows": windows,
        "windows_per_s": round(statistics.median(windows / run.wall_s for run in runs), 1),
        "times_real_time": round(statistics.median(windows * 0.25 / run.wall_s for run in runs), 1),
        "cpu_ms_per_window": round(cpu_ms, 3),
        "ms_per_window": stages,
    }
    for key, value in document.items():
        if not isinstance(value, dict):
            print(f"{key:20} {value}")
    for stage, ms in stages.items():
        print(f"  {stage:18} {ms:8.3f} ms a window")
    finish(document, args.out)


if __name__ == "__main__":
    main()
