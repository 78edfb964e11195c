"""The manifest of a bundle: what ``manifest.json`` says. It is read by `manifest_reader`.

`docs/schema/bundle.v1.json` documents the same keys for readers of other languages.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from counterpoint.engine.graphs import (
    GraphSpec,
    Tensors,
    Widths,
    graph_contract,
)
from counterpoint.engine.preprocess.spec import AudioSpec, ChatSpec, VideoSpec
from counterpoint.engine.strict import OPTIONAL, encode
from counterpoint.streams.errors import UsageError

SCHEMA_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
TOKENIZER_FILE: Final = "text/tokenizer.json"
MODEL_CARD_FILE: Final = "MODEL_CARD.md"

MASKS: Final = tuple(
    "".join(bits) for bits in itertools.product("01", repeat=3) if bits != ("0", "0", "0")
)
"""Which of video, audio and chat are present, as ``"101"``; at least one is."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleError(UsageError):
    """A bundle that cannot be used: what is wrong with it, and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modalities:
    """Preprocessing of each modality."""

    video: VideoSpec
    audio: AudioSpec
    chat: ChatSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """One task. ``labels`` are in the order of the head's logits."""

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be two or more, all different, not {self.labels}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberSpec:
    """A task whose answer is a number.

    Fields:
        mean, std: of the labels learned from; the graph's answer z means ``mean + std * z``.
        low, high: between which the labels learned from lie. An answer may lie outside.
    """

    mean: float
    std: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be positive, not {self.std}")
        # At six digits, which is what predictions are written with.
        if not float(f"{self.low:.6g}") < float(f"{self.high:.6g}"):
            raise ValueError(f"low must be below high, not {self.low} and {self.high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure that the trainer measured.

    Fields:
        value: the figure.
        split: the data it was measured on (``RAVDESS actors 17-20``).
        kind: the kind of split (``validation``, ``test``).
    """

    value: float
    split: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """What a file of the bundle must be."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 must be 64 lower-case hex digits, not {self.sha256!r}")
        if self.bytes < 0:
            raise ValueError(f"bytes must not be negative, not {self.bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that the engine knows about a bundle before it reads a model.

    Fields:
        id: short name.
        created: ISO 8601 date, or date and time with its zone.
        engine_min_version: oldest engine that can run it.
        licence_notice: under which terms models and data may be used.
        hop_ns: distance of windows, and the grid of all modalities.
        modalities: preprocessing as data.
        graphs: by role (`counterpoint.engine.graphs.ROLES`).
        heads: by name.
        missing_policy: in words, what the model does where a modality is missing.
        temperatures: by head and mask (`MASKS`); probabilities are softmax(logits / temperature).
        metrics: by name.
        shares: by head and mask, the mean of its probabilities on the data that they are calibrated
            on, from which prior adaptation starts; heads, masks and the key may be left out.
        numbers: tasks whose answers are numbers, by name; ``manifest.json`` may leave it out.
        files: by path, every file of the bundle but the manifest itself. `write_bundle` fills it.
    """

    id: str
    created: str
    engine_min_version: str
    licence_notice: str
    hop_ns: int
    modalities: Modalities
    graphs: Mapping[str, GraphSpec]
    heads: Mapping[str, HeadSpec]
    missing_policy: str
    temperatures: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, Metric]
    shares: Mapping[str, Mapping[str, tuple[float, ...]]] = field(
        default_factory=dict, metadata=OPTIONAL
    )
    numbers: Mapping[str, NumberSpec] = field(default_factory=dict, metadata=OPTIONAL)
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all heads and numbers."""
        return (*self.heads, *self.numbers)

    @property
    def video(self) -> VideoSpec:
        """Preprocessing of video."""
        return self.modalities.video

    @property
    def audio(self) -> AudioSpec:
        """Preprocessing of audio."""
        return self.modalities.audio

    @property
    def chat(self) -> ChatSpec:
        """Preprocessing of chat."""
        return self.modalities.chat


def tensor_contract(
    *,
    hop_ns: int,
    modalities: Modalities,
    heads: Mapping[str, HeadSpec],
    widths: Widths,
    numbers: Iterable[str] = (),
) -> dict[str, Tensors]:
    """Inputs and outputs of each role's graph (`graph_contract`), from preprocessing as data."""
    video, audio, chat = modalities.video, modalities.audio, modalities.chat
    return graph_contract(
        widths=widths,
        image_size_px=video.image_size_px,
        video_instants=video.steps,
        audio_frames=audio.context_frames + audio.frames_per(hop_ns),
        mel_bins=audio.mel_bins,
        audio_steps_per_hop=audio.steps_per_hop,
        audio_steps=audio.context_ns // hop_ns * audio.steps_per_hop,
        chat_lines=chat.max_lines,
        heads={name: len(head.labels) for name, head in heads.items()},
        numbers=numbers,
    )


def format_manifest(manifest: Manifest) -> bytes:
    """The inverse of `parse_manifest`: UTF-8, indented, the same bytes for the same manifest."""
    document = {"schema_version": SCHEMA_VERSION, **encode(manifest)}
    return (json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()
