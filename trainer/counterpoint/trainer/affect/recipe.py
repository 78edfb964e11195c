"""The stages of the bundle ``affect`` in order, and running them side by side."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from counterpoint.streams.errors import FailedError
from counterpoint.trainer.affect.audio import train_audio
from counterpoint.trainer.affect.bundle import export_affect
from counterpoint.trainer.affect.fusion import train_fusion
from counterpoint.trainer.affect.text import train_text
from counterpoint.trainer.affect.vision import train_vision
from counterpoint.trainer.config import AffectConfig
from counterpoint.trainer.records import write_json

STAGES: Final = ("vision", "audio", "text", "fusion", "export")


def run_stage(stage: str, data: Path, out: Path, config: AffectConfig) -> None:
    """One stage in this process. It needs the results of those before it in ``out``."""
    match stage:
        case "vision":
            train_vision(data, out, config)
        case "audio":
            train_audio(data, out, config)
        case "text":
            train_text(data, out, config)
        case "fusion":
            train_fusion(data, out, config)
        case "export":
            export_affect(data, out, config, out / "bundle")
        case _:
            raise ValueError(f"unknown stage {stage!r}")


def run_all(data: Path, out: Path, config: AffectConfig) -> dict[str, float]:
    """Everything from scratch: vision beside audio and then text, in two one-thread processes;
    then fusion and export.

    Returns:
        wall seconds by step.

    Raises:
        FailedError: a stage failed; its own message went to standard error.
    """
    started = time.perf_counter()
    write_json(out / "config.json", dataclasses.asdict(config))
    lanes = [["vision"], ["audio", "text"]]
    processes = [_start_lane(lane, data, out, config) for lane in lanes]
    codes = [process.wait() for process in processes]
    if failed := [" + ".join(lane) for lane, code in zip(lanes, codes, strict=True) if code]:
        raise FailedError(f"stage {', '.join(failed)} failed; see its message above")
    seconds = {"encoders": round(time.perf_counter() - started, 1)}
    for stage in ("fusion", "export"):
        since = time.perf_counter()
        run_stage(stage, data, out, config)
        seconds[stage] = round(time.perf_counter() - since, 1)
    seconds["total"] = round(time.perf_counter() - started, 1)
    write_json(out / "seconds.json", seconds)
    return seconds


def _start_lane(
    stages: list[str], data: Path, out: Path, config: AffectConfig
) -> subprocess.Popen[bytes]:
    arguments = ["--data", str(data), "--out", str(out), "--seed", str(config.seed)]
    # One thread each, before any library of the child asks: two lanes share two cores.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    chosen = [word for stage in stages for word in ("--stage", stage)]
    return subprocess.Popen(
        [sys.executable, "-m", "counterpoint.trainer.cli", "fit", "affect", *arguments, *chosen],
        env=environment,
    )
