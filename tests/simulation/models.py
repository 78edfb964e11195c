"""Stub models behind the `Encoder` port: what they say is a digest of what they were given."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np

from counterpoint.engine.align import AudioCell, Line, VideoCell, Window
from counterpoint.engine.encode import Counts, StageClock
from counterpoint.engine.fuse import Feature, Fused
from counterpoint.engine.manifest import HeadSpec
from counterpoint.streams.types import Modality

KEPT = 256


class DigestEncoder:
    """Implements `Encoder`. A window's logits follow from the content of its cells and lines."""

    def __init__(self, heads: Mapping[str, HeadSpec], clock_ns: int = 0) -> None:
        self._heads = heads
        self._contributions = {
            head: np.zeros((3, len(spec.labels)), np.float32) for head, spec in heads.items()
        }
        self._content: dict[Modality, OrderedDict[int, int]] = {m: OrderedDict() for m in Modality}
        self._stages = StageClock(lambda: clock_ns)
        self._encoded = self._fused = 0

    @property
    def counts(self) -> Counts:
        return Counts(frames=self._encoded, windows=self._fused)

    @property
    def stages(self) -> StageClock:
        return self._stages

    def take_features(self) -> list[Feature]:
        return []

    def encode(self, outputs: Iterable[VideoCell | AudioCell | Line]) -> None:
        for output in outputs:
            self._encoded += 1
            match output:
                case VideoCell():
                    frame = output.frame
                    told = b"none" if frame is None else f"{frame.t_ns}/{frame.sequence}".encode()
                    self._keep(Modality.VIDEO, output.index, zlib.crc32(told))
                case AudioCell():
                    told = output.samples.tobytes() + output.valid.tobytes()
                    self._keep(Modality.AUDIO, output.index, zlib.crc32(told))
                case Line():
                    told = output.line.text.encode()
                    self._keep(Modality.CHAT, output.line.sequence, zlib.crc32(told))

    def _keep(self, modality: Modality, key: int, value: int) -> None:
        content = self._content[modality]
        content[key] = value
        if len(content) > KEPT:
            content.popitem(last=False)

    def fuse(self, window: Window) -> Fused:
        self._fused += 1
        named = (
            (Modality.VIDEO, window.video_cells),
            (Modality.AUDIO, window.audio_cells),
            (Modality.CHAT, window.chat_lines),
        )
        told = ";".join(
            f"{modality}:{[self._content[modality].get(key) for key in keys]}"
            for modality, keys in named
        )
        digest = zlib.crc32(told.encode())
        return Fused(
            logits={
                head: np.array(
                    [(digest >> (3 * n)) % 8 for n in range(len(spec.labels))], np.float32
                )
                for head, spec in self._heads.items()
            },
            values={},
            contributions=self._contributions,
            parts=window.parts,
            mask="111",
        )
