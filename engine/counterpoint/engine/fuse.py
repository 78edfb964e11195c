"""Fuse often what was encoded once: rings of embeddings, and the windows that gather them.

`Fusion` is synchronous; a session runs it in a lane, off the event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from counterpoint.engine.align import Part, State, Window
from counterpoint.engine.models import Models
from counterpoint.streams.types import BoolArray, Float32Array, Modality

MISSING, PRESENT, SILENT = 0, 1, 2
"""What the fusion graph's ``state`` input says of a modality."""

MODALITIES = (Modality.VIDEO, Modality.AUDIO, Modality.CHAT)
"""Order of the modalities in the fusion graph's inputs and in temperature masks."""

_SLACK = 16
"""Cells close before the window that waits for other modalities does."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Feature:
    """What an encoder made of one cell or line; the newest of a key counts.

    Fields:
        modality: of what.
        key: index of the cell, or sequence number of the line.
        embedding: video, chat: (D,) float32; audio: (steps, D). None: nothing to be seen there.
        steps: audio: (steps,) bool, the steps with enough valid samples. Else None.
        voiced: audio: somebody speaks.
    """

    modality: Modality
    key: int
    embedding: Float32Array | None
    steps: BoolArray | None = None
    voiced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """What the fusion says about one window, before calibration.

    Fields:
        logits: head -> (C,) float32.
        values: number -> what it is, in its own unit.
        contributions: head -> (3, C) float32, rows in the order video, audio, chat; number ->
            (3, 1), in its own unit.
        parts: how each modality stands, no face and no voice included.
        mask: which modalities the model heard, e.g. ``"101"`` for video and chat.
    """

    logits: Mapping[str, Float32Array]
    values: Mapping[str, float]
    contributions: Mapping[str, Float32Array]
    parts: Mapping[Modality, Part]
    mask: str


class Fusion:
    """One session's rings of embeddings and the fusion graph.

    Args:
        models: shared by all sessions.
        unsettled: windows that may still be given again; the rings reach that much further back.
    """

    def __init__(self, models: Models, *, unsettled: int = 0) -> None:
        manifest = models.bundle.manifest
        self._graph = models.graphs["fusion"]
        self._heads, self._numbers = tuple(manifest.heads), dict(manifest.numbers)
        audio, chat = manifest.modalities.audio, manifest.modalities.chat
        self._video_cells = manifest.modalities.video.context_ns // manifest.hop_ns
        self._audio_cells = audio.context_ns // manifest.hop_ns
        self._max_lines, self._steps = chat.max_lines, audio.steps_per_hop
        reach = _SLACK + unsettled
        self._rings: dict[Modality, _Ring[Feature]] = {
            Modality.VIDEO: _Ring(self._video_cells + reach),
            Modality.AUDIO: _Ring(self._audio_cells + reach),
            Modality.CHAT: _Ring((4 + unsettled) * chat.max_lines + _SLACK),
        }
        # Widths of the embeddings, as the fusion graph takes them.
        self._width = {
            name: models.bundle.width("fusion", name) for name in ("vision", "audio", "text")
        }

    def put(self, feature: Feature) -> None:
        """Keep what an encoder made; an older one of the same key is replaced."""
        self._rings[feature.modality].put(feature.key, feature)

    def fuse(self, window: Window) -> Fused:
        """Gather a window's embeddings with their masks and run the fusion graph."""
        faces, faces_mask = _gather(
            self._rings[Modality.VIDEO],
            window.video_cells,
            self._video_cells,
            self._width["vision"],
        )
        hops, hops_mask, voiced = self._gather_audio(window)
        lines, lines_mask = _gather(
            self._rings[Modality.CHAT], window.chat_lines, self._max_lines, self._width["text"]
        )
        parts = dict(window.parts)
        if not faces_mask.any():
            parts[Modality.VIDEO] = _without(parts[Modality.VIDEO], State.MISSING, "no face")
        if not hops_mask.any():
            parts[Modality.AUDIO] = _without(parts[Modality.AUDIO], State.MISSING, "no sound")
        elif not voiced and parts[Modality.AUDIO].state is State.PRESENT:
            parts[Modality.AUDIO] = replace(
                parts[Modality.AUDIO], state=State.SILENT, reason="no voice"
            )
        heard = (bool(faces_mask.any()), bool(hops_mask.any() and voiced), bool(lines_mask.any()))
        state = [
            PRESENT if there else SILENT if parts[m].state is State.SILENT else MISSING
            for m, there in zip(MODALITIES, heard, strict=True)
        ]
        outputs = self._graph.run(
            {
                "vision": faces[None],
                "vision_mask": faces_mask[None],
                "audio": hops[None],
                # Sound without a voice is there, but not for the model.
                "audio_mask": hops_mask[None] * np.float32(heard[1]),
                "text": lines[None],
                "text_mask": lines_mask[None],
                "state": np.array([state], dtype=np.int64),
            }
        )
        return Fused(
            logits={head: outputs[f"{head}_logits"][0] for head in self._heads},
            values={
                name: spec.mean + spec.std * float(outputs[f"{name}_value"][0, 0])
                for name, spec in self._numbers.items()
            },
            contributions={head: outputs[f"{head}_contributions"][0] for head in self._heads}
            | {
                name: outputs[f"{name}_contributions"][0] * np.float32(spec.std)
                for name, spec in self._numbers.items()
            },
            parts=parts,
            mask="".join("1" if there else "0" for there in heard),
        )

    def _gather_audio(self, window: Window) -> tuple[Float32Array, Float32Array, bool]:
        width = self._width["audio"]
        hops = np.zeros((self._audio_cells, self._steps, width), dtype=np.float32)
        mask = np.zeros((self._audio_cells, self._steps), dtype=np.float32)
        voiced = False
        for row, index in _aligned_right(window.audio_cells, self._audio_cells):
            hop = self._rings[Modality.AUDIO].get(index)
            if hop is not None and hop.embedding is not None and hop.steps is not None:
                hops[row] = hop.embedding * hop.steps[:, None]
                mask[row] = hop.steps
                voiced = voiced or hop.voiced
        return hops.reshape(-1, width), mask.reshape(-1), voiced


def _without(part: Part, state: State, reason: str) -> Part:
    """The part with nothing usable in it; what the aligner found missing keeps its own reason."""
    if part.state is not State.PRESENT and part.coverage == 0:
        return part
    return replace(part, state=state, reason=reason)


def _aligned_right(indices: range | tuple[int, ...], rows: int) -> Iterable[tuple[int, int]]:
    """Pairs (row, index), the newest index in the last row."""
    kept = indices[-rows:]
    return zip(range(rows - len(kept), rows), kept, strict=True)


def _gather(
    ring: _Ring[Feature], indices: range | tuple[int, ...], rows: int, width: int
) -> tuple[Float32Array, Float32Array]:
    """The embeddings that are there (rows, width), newest last, and their mask (rows,)."""
    gathered = np.zeros((rows, width), dtype=np.float32)
    mask = np.zeros(rows, dtype=np.float32)
    for row, index in _aligned_right(indices, rows):
        feature = ring.get(index)
        if feature is not None and feature.embedding is not None:
            gathered[row] = feature.embedding
            mask[row] = 1.0
    return gathered, mask


class _Ring(Generic[T]):
    """The newest ``size`` values by key; a key given again keeps its place."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[int, T] = OrderedDict()

    def put(self, key: int, value: T) -> None:
        self._values[key] = value
        if len(self._values) > self._size:
            self._values.popitem(last=False)

    def get(self, key: int) -> T | None:
        return self._values.get(key)
