"""Encode once: a session's cells and lines become embeddings.

`SessionEncoder` is one session's state: the face tracker, the log-mel and voice-activity state,
and the rings of `fuse.Fusion`. Synchronous; a session runs it in a lane, off the event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from counterpoint.engine.align import AudioCell, Line, VideoCell, Window
from counterpoint.engine.fuse import Feature, Fused, Fusion
from counterpoint.engine.models import Models
from counterpoint.engine.preprocess.audio import LogMelHop
from counterpoint.engine.preprocess.faces import FaceSnapshot, FaceTracker, face_input
from counterpoint.engine.preprocess.text import hashed_ngrams, normalise, pad_ids
from counterpoint.engine.preprocess.voice import VoiceActivity
from counterpoint.streams.types import Float32Array, Modality

SPEECH_THRESHOLD = 0.5
"""Speech probability of a hop from which it counts as voiced; the VAD's own recommendation."""

STEP_VALID_SHARE = 0.5
"""A step of the audio embedding counts when at least this share of its samples is valid."""

T = TypeVar("T")


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


_SoundSnapshot = tuple[tuple[Float32Array, Float32Array], tuple[Float32Array, Float32Array]]


class SessionEncoder:
    """One session's encoders and rings.

    A cell that the aligner gives again is encoded as if it had been like that from the start: the
    state from before it is restored, and sound goes on from there through all cells since (their
    frames reach back into it). The face tracker is put back for that one picture only.

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
        manifest = models.bundle.manifest
        self._models = models
        modalities = manifest.modalities
        self._video, self._audio, self._chat = modalities.video, modalities.audio, modalities.chat
        self._faces = FaceTracker()
        self._log_mel = LogMelHop(modalities.audio, hop_ns=manifest.hop_ns)
        self._voice = VoiceActivity(models.graphs["vad"])
        self._last_hop = 0
        self._last_picture = 0
        self._last_frame: tuple[int, Float32Array | None] | None = None
        self._fusion = Fusion(models, unsettled=unsettled)
        self._unsettled = unsettled
        # The state before each cell that may come again; empty where none does.
        self._sounds_before: OrderedDict[int, tuple[AudioCell, _SoundSnapshot]] = OrderedDict()
        self._faces_before: OrderedDict[int, FaceSnapshot] = OrderedDict()
        self._features: list[Feature] | None = [] if keep_features else None
        self._counts = dict.fromkeys(("faces", "frames", "hops", "lines", "windows"), 0)
        self._stages = StageClock(clock)

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
                    self._video_cell(output)
                case AudioCell():
                    self._audio_cell(output)
                case Line():
                    self._encode_line(output)

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
            # At most what one batch of cells holds: taken after each.
            self._features.append(feature)

    # -- pictures ------------------------------------------------------------------------------

    def _video_cell(self, cell: VideoCell) -> None:
        if cell.index > self._last_picture:
            self._last_picture = cell.index
            if self._unsettled:
                _remember(self._faces_before, cell.index, self._faces.snapshot(), self._unsettled)
            self._encode_video(cell)
            return
        newest, newest_frame = self._faces.snapshot(), self._last_frame
        before = self._faces_before.get(cell.index)
        if before is not None:
            self._faces.restore(before)
        self._last_frame = None
        self._encode_video(cell)
        self._faces.restore(newest)
        self._last_frame = newest_frame

    def _encode_video(self, cell: VideoCell) -> None:
        if cell.frame is None:
            self._keep(Feature(modality=Modality.VIDEO, key=cell.index, embedding=None))
            return
        if self._last_frame is None or self._last_frame[0] != cell.frame.sequence:
            started = self._stages.now_ns()
            self._counts["frames"] += 1
            where = self._faces.update(cell.frame)
            face = None if where is None else face_input(cell.frame, where, self._video)
            started = self._stages.add("face", started)
            embedding: Float32Array | None = None
            if face is not None:
                outputs = self._models.graphs["vision"].run({"faces": face[None, None]})
                embedding = outputs["embedding"][0]
                self._counts["faces"] += 1
                self._stages.add("vision", started)
            self._last_frame = (cell.frame.sequence, embedding)
        self._keep(Feature(modality=Modality.VIDEO, key=cell.index, embedding=self._last_frame[1]))

    # -- sound ---------------------------------------------------------------------------------

    def _audio_cell(self, cell: AudioCell) -> None:
        if cell.index > self._last_hop:
            self._next_hop(cell)
            return
        if cell.index not in self._sounds_before:
            # Dropped by an overload when it came first: it has no place in the run of sound.
            newest = self._sound()
            self._forget_sound()
            self._encode_audio(cell)
            self._restore_sound(newest)
            return
        again = [cell]
        again += [kept for i, (kept, _) in self._sounds_before.items() if i > cell.index]
        self._last_hop = cell.index - 1
        self._restore_sound(self._sounds_before[cell.index][1])
        for hop in again:
            self._next_hop(hop)

    def _next_hop(self, cell: AudioCell) -> None:
        if cell.index != self._last_hop + 1:
            # Hops in between were dropped by an overload: what came before is not its context.
            self._forget_sound()
        self._last_hop = cell.index
        if self._unsettled:
            _remember(self._sounds_before, cell.index, (cell, self._sound()), self._unsettled)
        self._encode_audio(cell)

    def _sound(self) -> _SoundSnapshot:
        return self._log_mel.snapshot(), self._voice.snapshot()

    def _restore_sound(self, snapshot: _SoundSnapshot) -> None:
        log_mel, voice = snapshot
        self._log_mel.restore(log_mel)
        self._voice.restore(voice)

    def _forget_sound(self) -> None:
        self._log_mel.reset()
        self._voice.reset()

    def _encode_audio(self, cell: AudioCell) -> None:
        started = self._stages.now_ns()
        log_mel = self._log_mel.push(cell.samples, cell.valid)
        started = self._stages.add("log_mel", started)
        voiced = self._voice.push(cell.samples, cell.valid) >= SPEECH_THRESHOLD
        started = self._stages.add("voice", started)
        steps = cell.valid.reshape(self._audio.steps_per_hop, -1).mean(axis=1) >= STEP_VALID_SHARE
        if not steps.any():
            return  # nothing to encode: the hop stays masked
        embedding = self._models.graphs["audio"].run({"logmel": log_mel[None]})["embedding"][0]
        self._counts["hops"] += 1
        self._keep(
            Feature(
                modality=Modality.AUDIO,
                key=cell.index,
                embedding=embedding,
                steps=steps,
                voiced=voiced,
            )
        )
        self._stages.add("audio", started)

    # -- chat ----------------------------------------------------------------------------------

    def _encode_line(self, output: Line) -> None:
        started = self._stages.now_ns()
        text = normalise(output.line.text)
        ids, mask = self._models.tokenizer.encode(text)
        buckets = pad_ids([hashed_ngrams(text, self._chat)])
        sentence = self._models.graphs["text"].run({"input_ids": ids, "attention_mask": mask})
        ngrams = self._models.graphs["ngrams"].run({"buckets": buckets})
        embedding = np.concatenate([sentence["embedding"][0], ngrams["embedding"][0]])
        self._keep(Feature(modality=Modality.CHAT, key=output.line.sequence, embedding=embedding))
        self._counts["lines"] += 1
        self._stages.add("text", started)


def _remember(kept: OrderedDict[int, T], key: int, value: T, size: int) -> None:
    """Keep the newest ``size`` by key."""
    kept[key] = value
    if len(kept) > size:
        kept.popitem(last=False)
