"""``counterpoint-trainer init`` and ``triples``: what one starts a fit of one's own with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from counterpoint.streams.errors import UsageError
from counterpoint.trainer.data.index import LABEL, MODALITIES
from counterpoint.trainer.fit.config import read_config

TEXTBOOK: Final = Path(__file__).with_name("textbook.toml")
CONFIG, INDEX = "config.toml", "index.csv"
PER_CLASS: Final = {"train": 200, "validation": 40}


def init(
    folder: Path,
    *,
    modalities: Sequence[str] = MODALITIES,
    tasks: Mapping[str, Sequence[str] | None],
) -> tuple[Path, Path]:
    """Write a configuration and the header of a table for one's own task.

    Args:
        folder: made if it is not there; nothing in it is overwritten.
        modalities: those that there will be.
        tasks: name -> classes in order; empty: as the column has them; None: a number.

    Returns:
        the configuration and the table.

    Raises:
        UsageError: a file of that name is there, or no modality, or no task.
    """
    config, index = folder / CONFIG, folder / INDEX
    for path in (config, index):
        if path.exists():
            raise UsageError(f"{path} is there already; take another folder")
    if not modalities or not tasks:
        raise UsageError("init: one modality and one task are needed at least")
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(_config(modalities, tasks), encoding="utf-8")
    columns = ["id", *(name for name in MODALITIES if name in modalities)]
    if {"video", "audio"} & set(modalities):
        columns += ["start_s", "end_s"]
    columns += ["speaker", *(LABEL + name for name in tasks)]
    index.write_text(",".join(columns) + "\n", encoding="utf-8")
    read_config(config)  # what is written can be read
    return config, index


def _config(modalities: Sequence[str], tasks: Mapping[str, Sequence[str] | None]) -> str:
    text = TEXTBOOK.read_text(encoding="utf-8")
    blocks = []
    for name, labels in tasks.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise UsageError(f"--task: a name has letters, digits, _ and -, not {name!r}")
        block = f"[tasks.{name}]\n"
        if labels is None:
            block += 'kind = "number"\n'
        elif labels:
            quoted = ", ".join('"' + label.replace('"', "") + '"' for label in labels)
            block += f'kind = "classes"\nlabels = [{quoted}]\n'
        else:
            block += 'kind = "classes"\n'
        blocks.append(block)
    text = re.sub(r"\[tasks\.emotion\].*?\n\n", "\n".join(blocks) + "\n", text, flags=re.DOTALL)
    for name in MODALITIES:
        if name not in modalities:
            text = text.replace(f"[{name}]\nuse = true", f"[{name}]\nuse = false")
    return text


def write_triples(data: Path, out: Path, *, per_class: int = 0, seed: int = 0) -> Path:
    """Class-matched triples to train the textbook model with: a face of FER+, a voice of RAVDESS
    and a line of MELD with the same emotion, of three different people.

    They are not aligned recordings: nothing of their time can be learned. Train and validation are
    those of the sets (RAVDESS: actors 1 to 16 and 17 to 20).

    Args:
        per_class: triples of each class in train, a fifth of it in validation; 0: 200.

    Returns:
        the configuration, beside ``index.csv`` and the faces.

    Raises:
        UsageError: a set is missing below ``data``, or a configuration is there already.
    """
    from counterpoint.trainer.affect.sets import Row, save_face, write_rows
    from counterpoint.trainer.data.ferplus import read_ferplus
    from counterpoint.trainer.data.speech import RAVDESS_VALIDATION, list_ravdess
    from counterpoint.trainer.data.text import read_meld
    from counterpoint.trainer.labels import EMOTION, SENTIMENT

    if (out / CONFIG).exists():
        raise UsageError(f"{out / CONFIG} is there already; take another folder")
    random, rows = np.random.default_rng(seed), list[Row]()
    spoken = list_ravdess(data.resolve())
    parts = (("train", "Train", "train"), ("validation", "Valid", "dev"))
    for split, pictures, dialogue in parts:
        faces = read_ferplus(data, pictures)
        held = split == "validation"
        clips = [clip for clip in spoken if (clip.speaker in RAVDESS_VALIDATION) == held]
        lines = [line for line in read_meld(data, dialogue) if line.text]
        wanted = max(1, per_class // 5 if held else per_class) if per_class else PER_CLASS[split]
        for place, emotion in enumerate(EMOTION):
            choices = (
                np.flatnonzero(faces.hard == place),
                np.flatnonzero([clip.emotion == place for clip in clips]),
                np.flatnonzero([line.emotion == (place,) for line in lines]),
            )
            drawn = [random.choice(some, wanted, replace=len(some) < wanted) for some in choices]
            for number, (face, voice, said) in enumerate(zip(*drawn, strict=True)):
                name = f"{split}-{emotion}-{number}"
                save_face(out / "faces" / f"{name}.png", faces.images[face])
                clip, line = clips[voice], lines[said]
                rows.append(
                    (name, f"faces/{name}.png", str(clip.path), line.text, clip.speaker, split,
                     emotion, SENTIMENT[line.sentiment])
                )  # fmt: skip
    write_rows(out, rows)
    (out / CONFIG).write_text(TEXTBOOK.read_text(encoding="utf-8"), encoding="utf-8")
    return out / CONFIG
