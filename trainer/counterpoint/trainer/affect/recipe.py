"""The stages of the bundle ``affect`` in order, and running them side by side."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
    write_json(out / stage / "config.json", dataclasses.asdict(config))
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
    """Everything from scratch: vision beside audio and then text; then fusion and export.

    Each stage is a process of its own with one thread, so two lanes fill two cores.

    Returns:
        wall seconds by step.

    Raises:
        FailedError: a stage failed; its own message went to standard error.
    """
    started = time.perf_counter()
    write_json(out / "config.json", dataclasses.asdict(config))
    seconds: dict[str, float] = {}

    def lane(stages: tuple[str, ...]) -> None:
        for stage in stages:
            since = time.perf_counter()
            _run_process(stage, data, out, config)
            seconds[stage] = round(time.perf_counter() - since, 1)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for lane_done in [pool.submit(lane, ("vision",)), pool.submit(lane, ("audio", "text"))]:
            lane_done.result()
    lane(("fusion", "export"))
    seconds["all, wall"] = round(time.perf_counter() - started, 1)
    write_json(out / "seconds.json", seconds)
    return seconds


def _run_process(stage: str, data: Path, out: Path, config: AffectConfig) -> None:
    arguments = ["--data", str(data), "--out", str(out), "--seed", str(config.seed)]
    if config.text.start:
        arguments += ["--start", config.text.start]
    # Set before any library of the child asks.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "counterpoint.trainer.cli", "fit", "affect", *arguments]
    code = subprocess.run([*command, "--stage", stage], env=environment, check=False).returncode
    if code:
        raise FailedError(f"stage {stage} failed with exit code {code}; see its message above")
