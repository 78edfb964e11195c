"""Encode once: a session's cells and lines become embeddings.

`SessionEncoder` is one session's state: the face tracker, the log-mel and voice-activity state,
and the rings of `fuse.Fusion`. Synchronous; a session runs it in a lane, off the event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from counterpoint.engine.align import AudioCell, Line, VideoCell, Window
from counterpoint.engine.fuse import Feature, Fused, Fusion
from counterpoint.engine.models import Models
from counterpoint.engine.preprocess.audio import LogMelHop
from counterpoint.engine.preprocess.faces import FaceSnapshot, FaceTracker, face_input
from counterpoint.engine.preprocess.text import hashed_ngrams, normalise, pad_ids
from counterpoint.engine.preprocess.voice import VoiceActivity
from counterpoint.streams.types import Float32Array, Modality, VideoFrame

STEP_VALID_SHARE = 0.5
"""A step of the audio embedding counts when at least this share of its samples is valid."""

S = TypeVar("S")
C = TypeVar("C", VideoCell, AudioCell)
C_contra = TypeVar("C_contra", contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How often each encoder ran, to show that nothing is encoded twice."""

    faces: int = 0
    frames: int = 0
    hops: int = 0
    lines: int = 0
    windows: int = 0


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


class Encoder(Protocol):
    """What a session asks of its models; runs in a lane, one call at a time."""

    @property
    def counts(self) -> Counts:
        """How often each encoder ran."""
        ...

    @property
    def stages(self) -> StageClock:
        """Where the time went."""
        ...

    def encode(self, outputs: Iterable[VideoCell | AudioCell | Line]) -> None:
        """Encode what the aligner has closed, or closed again."""
        ...

    def fuse(self, window: Window) -> Fused:
        """What the models say about a window of which every cell was encoded."""
        ...

    def take_features(self) -> list[Feature]:
        """What was encoded since the last call, in order; empty unless features are kept."""
        ...


_SoundState: TypeAlias = tuple[tuple[Float32Array, Float32Array], tuple[Float32Array, Float32Array]]
_PictureState: TypeAlias = tuple[FaceSnapshot, tuple[int, Float32Array | None] | None]


class _Stateful(Protocol[S, C_contra]):
    """An encoder of cells whose result depends on the cells before."""

    def state(self) -> S: ...
    def restore(self, state: S) -> None: ...
    def gap(self) -> None: ...
    def encode(self, cell: C_contra) -> None: ...


class _InOrder(Generic[C, S]):
    """Feeds cells to an encoder so that one given again counts as if it had always been so.

    Its state from before that cell is restored, and all cells since are encoded again. Several
    that are given again together cost one such run.

    Args:
        encoder: what encodes.
        size: how many cells may be given again.
    """

    def __init__(self, encoder: _Stateful[S, C], size: int) -> None:
        self._encoder: _Stateful[S, C] = encoder
        self._size = size
        self._last = 0
        # Each cell that may come again, with the state before it. At most ``size``.
        self._kept: OrderedDict[int, tuple[C, S]] = OrderedDict()
        self._again_from: int | None = None

    def take(self, cell: C) -> None:
        """The next cell, or one before it once more. `catch_up` is due after the last."""
        if cell.index > self._last:
            self.catch_up()
            self._encode(cell)
        elif cell.index in self._kept:
            self._kept[cell.index] = cell, self._kept[cell.index][1]
            self._again_from = min(cell.index, self._again_from or cell.index)
        else:
            # Dropped by an overload when it came first: it has no place in the run.
            newest = self._encoder.state()
            self._encoder.gap()
            self._encoder.encode(cell)
            self._encoder.restore(newest)

    def catch_up(self) -> None:
        """Encode what was given again, and what followed it."""
        first, self._again_from = self._again_from, None
        if first is None:
            return
        again = [cell for index, (cell, _) in self._kept.items() if index >= first]
        self._encoder.restore(self._kept[first][1])
        self._last = first - 1
        for cell in again:
            self._encode(cell)

    def _encode(self, cell: C) -> None:
        if cell.index != self._last + 1:
            # Cells in between were dropped by an overload: what came before is not its context.
            self._encoder.gap()
        self._last = cell.index
        if self._size:
            self._kept[cell.index] = cell, self._encoder.state()
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        self._encoder.encode(cell)


class SessionEncoder:
    """One session's encoders and rings.

    A cell that the aligner gives again is encoded as if it had been like that from the start, and
    so are the cells since: frames of sound reach back into it, and the face is followed through
    it. So an amended window says what it would have said had nothing been late.

    Args:
        models: shared by all sessions.
        clock: monotonic nanoseconds, for stage times only.
        unsettled: windows, so also cells, that may still be given again.
        keep_features: whether `take_features` has something to give.
    """

    def __init__(
        self,
        models: Models,
        clock: Callable[[], int],
        *,
        unsettled: int = 0,
        keep_features: bool = False,
    ) -> None:
        self._features: list[Feature] | None = [] if keep_features else None
        self._fusion = Fusion(models, unsettled=unsettled)
        self._counts = dict.fromkeys(("faces", "frames", "hops", "lines", "windows"), 0)
        self._stages = StageClock(clock)
        bench = _Bench(models, self._stages, self._counts, self._keep)
        self._pictures = _InOrder(_Pictures(bench), unsettled)
        self._sounds = _InOrder(_Sounds(bench), unsettled)
        self._lines = _Lines(bench)

    @property
    def counts(self) -> Counts:
        return Counts(**self._counts)

    @property
    def stages(self) -> StageClock:
        return self._stages

    def encode(self, outputs: Iterable[VideoCell | AudioCell | Line]) -> None:
        """Preprocess and encode what the aligner has closed, each thing once."""
        for output in outputs:
            match output:
                case VideoCell():
                    self._pictures.take(output)
                case AudioCell():
                    self._sounds.take(output)
                case Line():
                    self._lines.encode(output)
        self._pictures.catch_up()
        self._sounds.catch_up()

    def fuse(self, window: Window) -> Fused:
        """Gather a window's embeddings with their masks and run the fusion graph."""
        started = self._stages.now_ns()
        fused = self._fusion.fuse(window)
        self._counts["windows"] += 1
        self._stages.add("fusion", started)
        return fused

    def take_features(self) -> list[Feature]:
        taken = self._features or []
        if self._features is not None:
            self._features = []
        return taken

    def _keep(self, feature: Feature) -> None:
        self._fusion.put(feature)
        if self._features is not None:
            # What one batch of cells gives: taken after each.
            self._features.append(feature)


@dataclass(frozen=True, slots=True)
class _Bench:
    """What the encoders of one session share."""

    models: Models
    stages: StageClock
    counts: dict[str, int]
    keep: Callable[[Feature], None]


class _Pictures:
    """The face of each sampled picture."""

    def __init__(self, bench: _Bench) -> None:
        self._bench = bench
        self._spec = bench.models.bundle.manifest.modalities.video
        self._faces = FaceTracker()
        self._last_frame: tuple[int, Float32Array | None] | None = None

    def state(self) -> _PictureState:
        return self._faces.snapshot(), self._last_frame

    def restore(self, state: _PictureState) -> None:
        faces, self._last_frame = state
        self._faces.restore(faces)

    def gap(self) -> None:
        """A face is still where it was: nothing to forget."""

    def encode(self, cell: VideoCell) -> None:
        embedding = None if cell.frame is None else self._embed(cell.frame)
        self._bench.keep(Feature(modality=Modality.VIDEO, key=cell.index, embedding=embedding))

    def _embed(self, frame: VideoFrame) -> Float32Array | None:
        if self._last_frame is not None and self._last_frame[0] == frame.sequence:
            return self._last_frame[1]
        bench = self._bench
        started = bench.stages.now_ns()
        bench.counts["frames"] += 1
        where = self._faces.update(frame)
        face = None if where is None else face_input(frame, where, self._spec)
        started = bench.stages.add("face", started)
        embedding: Float32Array | None = None
        if face is not None:
            outputs = bench.models.graphs["vision"].run({"faces": face[None, None]})
            embedding = outputs["embedding"][0]
            bench.counts["faces"] += 1
            bench.stages.add("vision", started)
        self._last_frame = (frame.sequence, embedding)
        return embedding


class _Sounds:
    """Log-mel, voice activity and embedding of each hop."""

    def __init__(self, bench: _Bench) -> None:
        self._bench = bench
        manifest = bench.models.bundle.manifest
        self._spec = manifest.modalities.audio
        self._log_mel = LogMelHop(manifest.modalities.audio, hop_ns=manifest.hop_ns)
        self._voice = VoiceActivity(bench.models.graphs["vad"])

    def state(self) -> _SoundState:
        return self._log_mel.snapshot(), self._voice.snapshot()

    def restore(self, state: _SoundState) -> None:
        log_mel, voice = state
        self._log_mel.restore(log_mel)
        self._voice.restore(voice)

    def gap(self) -> None:
        self._log_mel.reset()
        self._voice.reset()

    def encode(self, cell: AudioCell) -> None:
        bench = self._bench
        started = bench.stages.now_ns()
        log_mel = self._log_mel.push(cell.samples, cell.valid)
        started = bench.stages.add("log_mel", started)
        voiced = self._voice.push(cell.samples, cell.valid) >= self._spec.voice_threshold
        started = bench.stages.add("voice", started)
        steps = cell.valid.reshape(self._spec.steps_per_hop, -1).mean(axis=1) >= STEP_VALID_SHARE
        if not steps.any():
            return  # nothing to encode: the hop stays masked
        embedding = bench.models.graphs["audio"].run({"logmel": log_mel[None]})["embedding"][0]
        bench.counts["hops"] += 1
        bench.keep(
            Feature(
                modality=Modality.AUDIO,
                key=cell.index,
                embedding=embedding,
                steps=steps,
                voiced=voiced,
            )
        )
        bench.stages.add("audio", started)


class _Lines:
    """Each line of chat: the sentence, read with the lines before it, and its hashed n-grams."""

    def __init__(self, bench: _Bench) -> None:
        self._bench = bench
        self._spec = bench.models.bundle.manifest.modalities.chat

    def encode(self, given: Line) -> None:
        bench, graphs = self._bench, self._bench.models.graphs
        started = bench.stages.now_ns()
        text = normalise(given.line.text)
        earlier = [normalise(line.text) for line in given.before]
        ids, mask = bench.models.tokenizer.encode(text, [line for line in earlier if line])
        buckets = pad_ids([hashed_ngrams(text, self._spec)])
        sentence = graphs["text"].run({"input_ids": ids, "attention_mask": mask})
        ngrams = graphs["ngrams"].run({"buckets": buckets})
        embedding = np.concatenate([sentence["embedding"][0], ngrams["embedding"][0]])
        bench.keep(Feature(modality=Modality.CHAT, key=given.line.sequence, embedding=embedding))
        bench.counts["lines"] += 1
        bench.stages.add("text", started)
