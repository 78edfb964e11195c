"""Preprocessing of a run as data: what the engine's manifest will say, measured on train."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from counterpoint.engine.preprocess.audio import clip_log_mel
from counterpoint.engine.preprocess.spec import HOP_NS, AudioSpec, ChatSpec, VideoSpec
from counterpoint.engine.strict import ShapeError, decode, encode, parse_json
from counterpoint.streams.errors import UsageError
from counterpoint.trainer.data.index import Example
from counterpoint.trainer.fit.config import RunConfig
from counterpoint.trainer.fit.media import read_media
from counterpoint.trainer.records import write_json

_MEASURED: Final = 1000
"""Examples that means and deviations are taken from; more change the third digit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Specs:
    """Preprocessing of each modality."""

    video: VideoSpec
    audio: AudioSpec
    chat: ChatSpec

    @property
    def hops(self) -> int:
        """Hops of sound in a window."""
        return self.audio.context_ns // HOP_NS


def specs_of(config: RunConfig) -> Specs:
    """What the configuration says, before anything is measured.

    Raises:
        UsageError: naming the key.
    """
    specs = Specs(
        video=VideoSpec(
            context_ns=config.video.pictures * HOP_NS, image_size_px=config.video.image_size_px
        ),
        audio=AudioSpec(context_ns=config.audio.context_ms * 1_000_000),
        chat=ChatSpec(max_tokens=config.text.max_tokens, before_lines=config.text.before_lines),
    )
    if config.audio.context_ms * 1_000_000 % HOP_NS:
        raise UsageError(
            f"audio.context_ms: must be a multiple of {HOP_NS // 1_000_000}, not "
            f"{config.audio.context_ms}"
        )
    try:
        for spec in (specs.video, specs.audio, specs.chat):
            spec.validate()
    except ValueError as error:
        raise UsageError(f"configuration: {error}") from error
    return specs


def measure(config: RunConfig, train: Sequence[Example], cache: Path) -> Specs:
    """The same with means and deviations over the training part."""
    specs = specs_of(config)
    step = max(1, len(train) // _MEASURED)
    pixels, frames = _Moments(1), _Moments(specs.audio.mel_bins)
    for example in train[::step]:
        media = read_media(example, config, cache)
        if media.seen.any():
            pixels.add(media.faces[media.seen].reshape(-1, 1) / 255)
        if len(media.sound):
            frames.add(clip_log_mel(media.sound, specs.audio))
    mean, std = pixels.result()
    means, stds = frames.result()
    return Specs(
        video=dataclasses.replace(
            specs.video, mean=round(float(mean[0]), 6), std=round(float(std[0]), 6)
        ),
        audio=dataclasses.replace(
            specs.audio,
            mean=tuple(round(float(value), 5) for value in means),
            std=tuple(round(float(value), 5) for value in stds),
        ),
        chat=specs.chat,
    )


class _Moments:
    """Mean and deviation of rows as they come."""

    def __init__(self, width: int) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(width), np.zeros(width)

    def add(self, rows: np.ndarray) -> None:
        wide = rows.astype(np.float64)
        self._count += len(wide)
        self._sum += wide.sum(axis=0)
        self._squares += np.square(wide).sum(axis=0)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Of nothing: 0 and 1. A deviation is at least 0.01: a constant is no scale."""
        if not self._count:
            return np.zeros_like(self._sum), np.ones_like(self._sum)
        mean = self._sum / self._count
        spread = np.sqrt(np.maximum(self._squares / self._count - mean**2, 0))
        return mean, np.maximum(spread, 1e-2)


def write_specs(path: Path, specs: Specs) -> None:
    write_json(path, encode(specs))


def read_specs(path: Path) -> Specs:
    """
    Raises:
        UsageError: no such file, or not such a file.
    """
    try:
        return decode(Specs, parse_json(path.read_bytes()))
    except (OSError, ShapeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
