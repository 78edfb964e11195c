"""A tiny data set that each modality tells apart: bright or dark, high or low, good or bad."""

from __future__ import annotations

import csv
import wave
from pathlib import Path

import cv2
import numpy as np

MOODS = ("bad", "good")
WORDS = {"good": "what a lovely happy day", "bad": "how awful and sad it is"}
FIELDS = ("id", "video", "audio", "text", "speaker", "label:mood", "label:stress")


def make_data(folder: Path, *, speakers: int = 4, rows: int = 4, seed: int = 0) -> Path:
    """Write ``index.csv`` and its files: ``speakers`` x ``rows`` examples, half of them good.

    Each row lacks something: the third of four its picture, the fourth its sound; every third
    has no ``stress``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        for number in range(speakers * rows):
            mood = MOODS[number % 2]
            name, good = f"r{number}", mood == "good"
            write_picture(folder / f"{name}.png", 170 if good else 80, random)
            write_tone(folder / f"{name}.wav", 900 if good else 200, 1.3, random)
            table.writerow(
                {
                    "id": name,
                    "video": "" if number % 4 == 2 else f"{name}.png",
                    "audio": "" if number % 4 == 3 else f"{name}.wav",
                    "text": WORDS[mood],
                    "speaker": f"s{number // rows}",
                    "label:mood": mood,
                    "label:stress": "" if number % 3 == 2 else f"{0.1 * number + good:.2f}",
                }
            )
    return folder / "index.csv"


def write_picture(path: Path, level: int, random: np.random.Generator) -> None:
    """A grey PNG of 40 x 40 around ``level``."""
    picture = np.clip(level + 20 * random.standard_normal((40, 40)), 0, 255)
    cv2.imwrite(str(path), picture.astype(np.uint8))


def write_tone(path: Path, hertz: float, seconds: float, random: np.random.Generator) -> None:
    """A WAV of 16 kHz: a tone under a little noise."""
    time = np.arange(round(16_000 * seconds)) / 16_000
    sound = 0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * random.standard_normal(len(time))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.rint(sound * 32767).astype("<i2").tobytes())


SMALL = """
[data]
index = "index.csv"
validation = 0.25
test = 0.0

[video]
face = "whole"
image_size_px = 24
pictures = 2
options = {width = 8, blocks = 2, out = 16}

[audio]
context_ms = 1000
options = {width = 8, out = 16}

[text]
options = {width = 16, out = 16}

[fusion]
width = 16
hidden = 16

[fit]
epochs = 3
batch_size = 4
progress = false
device = "cpu"
"""
"""A configuration that takes a second."""
