"""Encode once, fuse often: a session's cells and lines become embeddings, windows gather them.

`Models` is what a process holds once for all its sessions. `SessionEncoder` is one session's
state: the face tracker, the log-mel and voice-activity state, and rings of embeddings that are
as long as the contexts. Both are synchronous; a session runs them in a lane, off the event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from counterpoint.engine.align import AudioCell, Line, Part, State, VideoCell, Window
from counterpoint.engine.bundle import Bundle
from counterpoint.engine.device import Device, Graph
from counterpoint.engine.graphs import ROLES
from counterpoint.engine.preprocess.audio import LogMelHop
from counterpoint.engine.preprocess.faces import FaceTracker, face_input
from counterpoint.engine.preprocess.text import Tokenizer, hashed_ngrams, normalise, pad_ids
from counterpoint.engine.preprocess.voice import VoiceActivity
from counterpoint.streams.types import BoolArray, Float32Array, Modality

SPEECH_THRESHOLD = 0.5
"""Speech probability of a hop from which it counts as voiced; the VAD's own recommendation."""

STEP_VALID_SHARE = 0.5
"""A step of the audio embedding counts when at least this share of its samples is valid."""

MISSING, PRESENT, SILENT = 0, 1, 2
"""What the fusion graph's ``state`` input says of a modality."""

T = TypeVar("T")

# Order of the modalities in the fusion graph's inputs and in temperature masks.
MODALITIES = (Modality.VIDEO, Modality.AUDIO, Modality.CHAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Compiled graphs of one bundle on one device, shared by all sessions of the process."""

    bundle: Bundle
    graphs: Mapping[str, Graph]
    tokenizer: Tokenizer

    @classmethod
    def load(cls, bundle: Bundle, device: Device) -> Models:
        """Compile every graph of the bundle.

        Raises:
            BundleError: a graph does not load on this device.
        """
        return cls(
            bundle=bundle,
            graphs={role: device.load(bundle, role) for role in ROLES},
            tokenizer=Tokenizer(bundle.tokenizer_path, bundle.manifest.modalities.chat),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How often each encoder ran, to show that nothing is encoded twice."""

    faces: int = 0
    frames: int = 0
    hops: int = 0
    lines: int = 0
    windows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """What the fusion says about one window, before calibration.

    Fields:
        logits: head -> (C,) float32.
        contributions: head -> (3, C) float32, rows in the order video, audio, chat.
        parts: how each modality stands, no face and no voice included.
        mask: which modalities the model heard, e.g. ``"101"`` for video and chat.
    """

    logits: Mapping[str, Float32Array]
    contributions: Mapping[str, Float32Array]
    parts: Mapping[Modality, Part]
    mask: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hop:
    embedding: Float32Array  # (steps, D)
    steps: BoolArray  # (steps,) enough valid samples
    voiced: bool


@dataclass(slots=True)
class StageClock:
    """Nanoseconds spent in each stage since the last window."""

    now_ns: Callable[[], int]
    spent_ns: dict[str, int] = field(default_factory=dict)

    def add(self, stage: str, since_ns: int) -> int:
        now = self.now_ns()
        self.spent_ns[stage] = self.spent_ns.get(stage, 0) + now - since_ns
        return now

    def take(self) -> dict[str, float]:
        """Milliseconds by stage; starts again from zero."""
        taken = {stage: ns / 1e6 for stage, ns in self.spent_ns.items()}
        self.spent_ns.clear()
        return taken


class SessionEncoder:
    """One session's encoders and rings.

    Args:
        models: shared by all sessions.
        clock: monotonic nanoseconds, for stage times only.
    """

    def __init__(self, models: Models, clock: Callable[[], int]) -> None:
        manifest = models.bundle.manifest
        self._models = models
        modalities = manifest.modalities
        self._video, self._audio, self._chat = modalities.video, modalities.audio, modalities.chat
        self._faces = FaceTracker()
        self._log_mel = LogMelHop(modalities.audio, hop_ns=manifest.hop_ns)
        self._voice = VoiceActivity(models.graphs["vad"])
        self._last_hop = 0
        self._last_frame: tuple[int, Float32Array | None] | None = None
        # Rings hold one context and a little more: cells close before the window that waits for
        # other modalities does.
        self._video_cells = modalities.video.context_ns // manifest.hop_ns
        self._audio_cells = modalities.audio.context_ns // manifest.hop_ns
        slack = 16
        self._faces_of: _Ring[Float32Array | None] = _Ring(self._video_cells + slack)
        self._hop_of: _Ring[_Hop] = _Ring(self._audio_cells + slack)
        self._line_of: _Ring[Float32Array | None] = _Ring(4 * modalities.chat.max_lines + slack)
        # Widths of the embeddings, as the fusion graph takes them.
        self._width = {
            name: models.bundle.width("fusion", name) for name in ("vision", "audio", "text")
        }
        self._counts = dict.fromkeys(("faces", "frames", "hops", "lines", "windows"), 0)
        self.stages = StageClock(clock)

    @property
    def counts(self) -> Counts:
        return Counts(**self._counts)

    def encode(self, outputs: Iterable[VideoCell | AudioCell | Line]) -> None:
        """Preprocess and encode what the aligner has closed, each thing once."""
        for output in outputs:
            match output:
                case VideoCell():
                    self._encode_video(output)
                case AudioCell():
                    self._encode_audio(output)
                case Line():
                    self._encode_line(output)

    def _encode_video(self, cell: VideoCell) -> None:
        if cell.frame is None:
            self._faces_of.put(cell.index, None)
            return
        if self._last_frame is None or self._last_frame[0] != cell.frame.sequence:
            started = self.stages.now_ns()
            self._counts["frames"] += 1
            where = self._faces.update(cell.frame)
            face = None if where is None else face_input(cell.frame, where, self._video)
            started = self.stages.add("face", started)
            embedding: Float32Array | None = None
            if face is not None:
                outputs = self._models.graphs["vision"].run({"faces": face[None, None]})
                embedding = outputs["embedding"][0]
                self._counts["faces"] += 1
                self.stages.add("vision", started)
            self._last_frame = (cell.frame.sequence, embedding)
        self._faces_of.put(cell.index, self._last_frame[1])

    def _encode_audio(self, cell: AudioCell) -> None:
        started = self.stages.now_ns()
        if cell.index != self._last_hop + 1:
            # Hops in between were dropped by an overload: what came before is not its context.
            self._log_mel.reset()
            self._voice.reset()
        self._last_hop = cell.index
        log_mel = self._log_mel.push(cell.samples, cell.valid)
        started = self.stages.add("log_mel", started)
        voiced = self._voice.push(cell.samples, cell.valid) >= SPEECH_THRESHOLD
        started = self.stages.add("voice", started)
        steps = cell.valid.reshape(self._audio.steps_per_hop, -1).mean(axis=1) >= STEP_VALID_SHARE
        if not steps.any():
            return  # nothing to encode: the hop stays masked
        embedding = self._models.graphs["audio"].run({"logmel": log_mel[None]})["embedding"][0]
        self._counts["hops"] += 1
        self._hop_of.put(cell.index, _Hop(embedding=embedding, steps=steps, voiced=voiced))
        self.stages.add("audio", started)

    def _encode_line(self, output: Line) -> None:
        started = self.stages.now_ns()
        text = normalise(output.line.text)
        ids, mask = self._models.tokenizer.encode(text)
        buckets = pad_ids([hashed_ngrams(text, self._chat)])
        sentence = self._models.graphs["text"].run({"input_ids": ids, "attention_mask": mask})
        ngrams = self._models.graphs["ngrams"].run({"buckets": buckets})
        embedding = np.concatenate([sentence["embedding"][0], ngrams["embedding"][0]])
        self._line_of.put(output.line.sequence, embedding)
        self._counts["lines"] += 1
        self.stages.add("text", started)

    def fuse(self, window: Window) -> Fused:
        """Gather a window's embeddings with their masks and run the fusion graph."""
        started = self.stages.now_ns()
        faces, faces_mask = _gather(
            self._faces_of, window.video_cells, self._video_cells, self._width["vision"]
        )
        hops, hops_mask, voiced = self._gather_audio(window)
        lines, lines_mask = _gather(
            self._line_of, window.chat_lines, self._chat.max_lines, self._width["text"]
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
        outputs = self._models.graphs["fusion"].run(
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
        self._counts["windows"] += 1
        self.stages.add("fusion", started)
        heads = self._models.bundle.manifest.heads
        return Fused(
            logits={head: outputs[f"{head}_logits"][0] for head in heads},
            contributions={head: outputs[f"{head}_contributions"][0] for head in heads},
            parts=parts,
            mask="".join("1" if there else "0" for there in heard),
        )

    def _gather_audio(self, window: Window) -> tuple[Float32Array, Float32Array, bool]:
        steps = self._audio.steps_per_hop
        width = self._width["audio"]
        hops = np.zeros((self._audio_cells, steps, width), dtype=np.float32)
        mask = np.zeros((self._audio_cells, steps), dtype=np.float32)
        voiced = False
        for row, index in _aligned_right(window.audio_cells, self._audio_cells):
            hop = self._hop_of.get(index)
            if hop is not None:
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
    ring: _Ring[Float32Array | None], indices: range | tuple[int, ...], rows: int, width: int
) -> tuple[Float32Array, Float32Array]:
    """The embeddings that are there (rows, width), newest last, and their mask (rows,)."""
    gathered = np.zeros((rows, width), dtype=np.float32)
    mask = np.zeros(rows, dtype=np.float32)
    for row, index in _aligned_right(indices, rows):
        embedding = ring.get(index)
        if embedding is not None:
            gathered[row] = embedding
            mask[row] = 1.0
    return gathered, mask


class _Ring(Generic[T]):
    """The newest ``size`` values by key; keys only grow."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[int, T] = OrderedDict()

    def put(self, key: int, value: T) -> None:
        self._values[key] = value
        if len(self._values) > self._size:
            self._values.popitem(last=False)

    def get(self, key: int) -> T | None:
        return self._values.get(key)
