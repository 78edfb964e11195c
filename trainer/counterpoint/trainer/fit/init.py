"""``counterpoint-trainer init``: what one starts a fit of one's own with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from counterpoint.streams.errors import UsageError
from counterpoint.trainer.data.index import LABEL, MODALITIES
from counterpoint.trainer.fit.config import read_config

TEXTBOOK: Final = Path(__file__).with_name("textbook.toml")
_EPOCHS: Final = 40
"""A table of one's own has few rows, and so few steps an epoch. It stops early by itself."""

CONFIG, INDEX = "config.toml", "index.csv"


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
        UsageError: a file of that name is there, no modality, no task, or a task of one class.
    """
    config, index = folder / CONFIG, folder / INDEX
    for path in (config, index):
        if path.exists():
            raise UsageError(f"{path} is there already; take another folder")
    if not modalities or not tasks:
        raise UsageError("init: one modality and one task are needed at least")
    text = _config(modalities, tasks)
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")
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
            if len(set(labels)) != len(labels) or len(labels) == 1:
                raise UsageError(f"--task {name}: two classes or more, all different")
            # A JSON string is a TOML string.
            quoted = json.dumps(list(labels), ensure_ascii=False)
            block += f'kind = "classes"\nlabels = {quoted}\n'
        else:
            block += 'kind = "classes"\n'
        blocks.append(block)
    block = "\n".join(blocks) + "\n"
    text = re.sub(r"\[tasks\.emotion\].*?\n\n", lambda _: block, text, flags=re.DOTALL)
    text = re.sub(r"(?m)^epochs = .*$", f"epochs = {_EPOCHS}", text)
    text = text.replace('id = "textbook"', 'id = "own"')
    for name in MODALITIES:
        if name not in modalities:
            text = text.replace(f"[{name}]\nuse = true", f"[{name}]\nuse = false")
    return text
