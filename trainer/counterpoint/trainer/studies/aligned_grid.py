"""Why time matters: GRID's spoken digits and colours from mouth and sound, in noise and shifted.

    python -m counterpoint.trainer.studies.aligned_grid --data DIR --work DIR --out DIR

Fits a model on windows of 0.8 s that end with a word, exports it as a bundle of the documented
format on a grid of 40 ms, and plays clips that it never saw through sessions of the engine: with
real noise, and with the sound moved against the picture. All clips are of one speaker: what is
measured is speaker-dependent.

What is in ``--work`` already (pictures, bundle, answers) is not made again. With ``--share 1/3``,
``2/3`` and ``3/3`` three processes play a part each; the same without it then writes the report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch

from counterpoint.engine.bundle import load_bundle
from counterpoint.engine.device import open_device
from counterpoint.engine.fuse import Feature
from counterpoint.engine.models import Models
from counterpoint.streams.errors import CounterpointError
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.trainer.data.recordings import GridClip, list_grid
from counterpoint.trainer.records import write_json
from counterpoint.trainer.studies.grid_data import (
    TEST_NOISE,
    TRAIN_NOISE,
    draw_noise,
    read_noises,
    read_sights,
    split_clips,
)
from counterpoint.trainer.studies.grid_model import Part, accuracy, export, fit, measure
from counterpoint.trainer.studies.grid_report import write_report
from counterpoint.trainer.studies.grid_stream import Condition, open_recording, play

SIZES: Final = {"train": 560, "validation": 60, "test": 240}
KIND: Final = "late"
SNRS_DB: Final = (None, 10.0, 0.0, -5.0, -10.0)
SHIFTS_MS: Final = (-400, -200, -100, 100, 200, 400)
SHIFT_SNR_DB: Final = 0.0
CONDITIONS: Final = (
    *(Condition(snr_db=snr_db) for snr_db in SNRS_DB),
    *(Condition(snr_db=SHIFT_SNR_DB, shift_ms=shift_ms) for shift_ms in SHIFTS_MS),
)


def make_bundle(
    data: Path, work: Path, parts: Mapping[str, Sequence[GridClip]], *, epochs: int, seed: int
) -> None:
    """Fit and export to ``work``/bundle; what was measured on the way is in fit.json there.

    Raises:
        UsageError: a set is missing.
        FailedError: torch and ONNX disagree.
    """
    train, validation = (
        Part(clips=parts[name], sights=[read_sights(clip, work / "clips") for clip in parts[name]])
        for name in ("train", "validation")
    )
    specs = measure(train)
    noises = read_noises(data, TRAIN_NOISE)
    model = fit(train, noises, specs, kind=KIND, epochs=epochs, seed=seed)
    held = {
        "clean" if snr_db is None else f"{snr_db:g} dB": accuracy(
            model, validation, noises, specs, snr_db, seed=seed
        )
        for snr_db in (None, 0.0, -10.0)
    }
    print(json.dumps(held, indent=1), flush=True)
    card = (
        "# aligned-grid\n\nGRID's digits and colours from one speaker's mouth and voice, "
        f"{len(train.clips)} clips, fusion {KIND}, {epochs} epochs, seed {seed}. A study, of no "
        "use for anybody else's speech.\n"
    )
    export(model, specs, work / "bundle", work / "onnx", card=card)
    write_json(work / "fit.json", {"epochs": epochs, "seed": seed, "validation": held})


def play_all(
    data: Path, work: Path, clips: Sequence[GridClip], *, share: tuple[int, int], seed: int
) -> None:
    """Every clip in every condition; answers are appended to ``work``/heard.jsonl.

    A clip's noise is the same recording from the same place at all ratios and shifts.

    Args:
        share: K and N: only every Nth clip, from the Kth on.
    """
    path = work / "heard.jsonl"
    done = {row["clip"] for row in read_heard(work)}
    noises = read_noises(data, TEST_NOISE)
    device = open_device("cpu")
    try:
        models = Models.load(load_bundle(work / "bundle"), device)
        with SystemRuntime() as runtime, path.open("a", encoding="utf-8") as file:
            for number, clip in enumerate(clips):
                if clip.path.stem in done or number % share[1] != share[0] - 1:
                    continue
                random = np.random.default_rng([seed, number])
                row = asyncio.run(_play_clip(models, clip, noises, random, runtime))
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(f"{number + 1} of {len(clips)}: {clip.path.stem}", flush=True)
    finally:
        device.close()


async def _play_clip(
    models: Models,
    clip: GridClip,
    noises: Sequence[np.ndarray[Any, np.dtype[np.float32]]],
    random: np.random.Generator,
    runtime: SystemRuntime,
) -> dict[str, Any]:
    recording = open_recording(clip)
    noise = draw_noise(noises, len(recording.sound), random)
    seen: dict[int, Feature] = {}
    rows = [
        {
            "snr_db": condition.snr_db,
            "shift_ms": condition.shift_ms,
            "head": word.head,
            "actual": word.actual,
            "said": dict(word.said),
            "mask": word.mask,
        }
        for condition in CONDITIONS
        for word in await play(models, recording, noise, condition, seen, runtime)
    ]
    return {"clip": clip.path.stem, "words": rows}


def read_heard(work: Path) -> list[dict[str, Any]]:
    """The rows of heard.jsonl, none if it is not there; a line cut off by an end is left out."""
    path = work / "heard.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def share(text: str) -> tuple[int, int]:
    """``K/N`` as two numbers.

    Raises:
        ValueError: it is no such thing, or K is not within 1..N.
    """
    number, of = map(int, text.split("/"))
    if not 1 <= number <= of:
        raise ValueError(text)
    return number, of


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, play and report."""
    parser = argparse.ArgumentParser(prog="python -m counterpoint.trainer.studies.aligned_grid")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is made")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--clips", type=int, default=SIZES["test"], help="how many are played")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=share, default=(1, 1), help="K/N: play every Nth clip")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        parts = split_clips(list_grid(given.data), SIZES, seed=given.seed)
        if not (given.work / "fit.json").exists():
            make_bundle(given.data, given.work, parts, epochs=given.epochs, seed=given.seed)
        # Drawn, so that the first ones are a sample of all.
        order = np.random.default_rng(given.seed).permutation(SIZES["test"])[: given.clips]
        test = [parts["test"][place] for place in order]
        _, of = given.share
        play_all(given.data, given.work, test, share=given.share, seed=given.seed)
        if of > 1:
            return 0
        names = {clip.path.stem for clip in test}
        heard = [row for row in read_heard(given.work) if row["clip"] in names]
        write_report(given.out, heard, given.work / "fit.json", sizes=SIZES, kind=KIND)
    except CounterpointError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
