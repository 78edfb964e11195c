"""Clips of GRID through sessions of the engine: with noise, and sound shifted against picture.

A clip's picture is the same in every condition, so each of its cells is encoded once; sound,
alignment, windows and fusion are the engine's, anew in each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from counterpoint.engine.align import AudioCell, Line, VideoCell, Window
from counterpoint.engine.config import Config
from counterpoint.engine.encode import Counts, SessionEncoder, StageClock
from counterpoint.engine.fuse import Feature, Fused, Fusion
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.session import Session
from counterpoint.streams.errors import FailedError
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    DropCounter,
    Float32Array,
    Item,
    Modality,
    SourceEnded,
    Step,
    VideoFrame,
)
from counterpoint.trainer.data.recordings import GridClip
from counterpoint.trainer.evaluation.scoring import without
from counterpoint.trainer.studies.grid_data import (
    HOP_NS,
    RATE_HZ,
    joined,
    needed_cells,
    spoken_span,
    with_noise,
    words_of,
)

SUBSETS: Final[Mapping[str, str]] = {"both": "110", "video": "100", "audio": "010"}
"""What is heard, as the engine's masks write it."""

CHUNK: Final = 320
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How a clip is played.

    Fields:
        snr_db: of speech to noise; None: as it was recorded.
        shift_ms: how much later than in truth its sound is, against its picture.
    """

    snr_db: float | None
    shift_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """A clip as decoded, from the first cell to the last one that its words' windows need.

    Fields:
        frames: of the whole clip.
        sound: (N,) float32 at 16 kHz from time 0.
        start_ns, end_ns: what is played; the session's time 0 is ``start_ns``.
    """

    clip: GridClip
    frames: tuple[VideoFrame, ...]
    sound: Float32Array
    start_ns: int
    end_ns: int


def open_recording(clip: GridClip) -> Recording:
    """Decode a clip through the engine's source.

    Raises:
        SourceError: it cannot be opened.
    """
    source = MediaFileSource(clip.path)
    items: list[Item] = []
    wake_ns: int | None = 0
    try:
        while wake_ns is not None:
            step = source.step(wake_ns)
            items += [item for _, item in step.items]
            wake_ns = step.next_wake_ns
    finally:
        source.close()
    first, last = needed_cells(clip)
    return Recording(
        clip=clip,
        frames=tuple(item for item in items if isinstance(item, VideoFrame)),
        sound=joined([item for item in items if isinstance(item, AudioChunk)]),
        # A hop of sound before the first window, for the frames that reach back.
        start_ns=max(0, first - 1) * HOP_NS,
        end_ns=last * HOP_NS,
    )


def items_of(
    recording: Recording, noise: Float32Array, condition: Condition
) -> list[tuple[int, Item]]:
    """What arrives in a session, with the instants of release, in order.

    Noise is part of the sound and moves with it. Where shifted sound has no samples there are
    none, and nothing stands for them.

    Args:
        noise: (N,) as long as the recording's sound.
    """
    start_ns, length_ns = recording.start_ns, recording.end_ns - recording.start_ns
    frames = [frame for frame in recording.frames if 0 <= frame.t_ns - start_ns < length_ns]
    placed: list[tuple[int, Item]] = [
        (frame.t_ns - start_ns, replace(frame, t_ns=frame.t_ns - start_ns, sequence=place))
        for place, frame in enumerate(frames)
    ]
    sound = recording.sound
    if condition.snr_db is not None:
        sound = with_noise(sound, spoken_span(recording.clip), noise, condition.snr_db)
    # The sample that is heard at the session's time 0.
    origin = (start_ns - condition.shift_ms * 1_000_000) * RATE_HZ // NS_PER_S
    first, last = max(origin, 0), min(origin + length_ns * RATE_HZ // NS_PER_S, len(sound))
    for place, at in enumerate(range(first, last, CHUNK)):
        samples = sound[at : min(at + CHUNK, last)]
        t_ns = (at - origin) * NS_PER_S // RATE_HZ
        chunk = AudioChunk(
            source=recording.clip.path.name,
            t_ns=t_ns,
            samples=samples.copy(),
            rate_hz=RATE_HZ,
            sequence=place,
        )
        placed.append((t_ns + len(samples) * NS_PER_S // RATE_HZ, chunk))
    placed.sort(key=lambda pair: pair[0])
    for modality in (Modality.VIDEO, Modality.AUDIO):
        ended = SourceEnded(source=recording.clip.path.name, modality=modality, t_ns=length_ns)
        placed.append((length_ns, ended))
    return placed


class ItemSource:
    """Items that are there already, given at their instants. Implements `Source`."""

    modalities = frozenset({Modality.VIDEO, Modality.AUDIO})

    def __init__(self, items: Sequence[tuple[int, Item]]) -> None:
        self.drops = DropCounter()
        self._items = list(items)

    def step(self, now_ns: int) -> Step:
        """See `Source.step`."""
        count = 0
        while count < len(self._items) and self._items[count][0] <= now_ns:
            count += 1
        due, self._items = self._items[:count], self._items[count:]
        return Step(items=tuple(due), next_wake_ns=self._items[0][0] if self._items else None)

    def close(self) -> None:
        """See `Source.close`."""
        self._items = []


class WordEncoder:
    """A session's encoder that fuses each subset where a word ends. Implements `Encoder`.

    Args:
        ends_ns: of the windows that count, on the session's timeline.
        seen: by cell, what was made of a clip's pictures before; filled where it lacks them.

    Fields:
        fused: end of a window -> what is heard (`SUBSETS`) -> what the fusion says.
    """

    def __init__(
        self,
        models: Models,
        clock: Callable[[], int],
        ends_ns: frozenset[int],
        seen: dict[int, Feature],
    ) -> None:
        self._inner = SessionEncoder(models, clock, keep_features=True)
        self._fusion = Fusion(models)
        self._ends_ns = ends_ns
        self._seen = seen
        self.fused: dict[int, dict[str, Fused]] = {}

    @property
    def counts(self) -> Counts:
        return self._inner.counts

    @property
    def stages(self) -> StageClock:
        return self._inner.stages

    def encode(self, outputs: Iterable[VideoCell | AudioCell | Line]) -> None:
        """See `Encoder.encode`."""
        for output in outputs:
            known = self._seen.get(output.index) if isinstance(output, VideoCell) else None
            if known is not None:
                self._fusion.put(known)
                continue
            self._inner.encode([output])
            for feature in self._inner.take_features():
                self._fusion.put(feature)
                if feature.modality is Modality.VIDEO:
                    self._seen[feature.key] = feature

    def fuse(self, window: Window) -> Fused:
        """See `Encoder.fuse`."""
        both = self._fusion.fuse(window)
        if window.end_ns in self._ends_ns:
            self.fused[window.end_ns] = {
                heard: both if heard == "both" else self._fusion.fuse(without(window, mask))
                for heard, mask in SUBSETS.items()
            }
        return both

    def take_features(self) -> list[Feature]:
        """None: they were taken already."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the engine says of one word in one condition.

    Fields:
        head: the word's kind.
        actual: position among the head's words.
        said: what is heard (`SUBSETS`) -> position of the likeliest word.
        mask: which modalities the model heard of both; the engine withholds sound without a voice.
    """

    head: str
    actual: int
    said: Mapping[str, int]
    mask: str


async def play(
    models: Models,
    recording: Recording,
    noise: Float32Array,
    condition: Condition,
    seen: dict[int, Feature],
    runtime: Runtime,
) -> tuple[Heard, ...]:
    """One session: the answers of the first windows that end no earlier than the words.

    Words are where they are in the picture, so sound that is shifted is early or late.

    Raises:
        FailedError: the session did not come to its regular end, several times.
    """
    for _ in range(_ATTEMPTS):
        try:
            fused = await fuse_words(models, recording, noise, condition, seen, runtime)
        except FailedError as error:
            # The engine gives up what hangs, and a process that was stopped for a minute hung.
            why = error
            continue
        return tuple(
            Heard(
                head=said.head,
                actual=said.label,
                said={
                    heard: int(one.logits[said.head].argmax())
                    for heard, one in fused[said.head].items()
                },
                mask=fused[said.head]["both"].mask,
            )
            for said in words_of(recording.clip)
        )
    raise why


async def fuse_words(
    models: Models,
    recording: Recording,
    noise: Float32Array,
    condition: Condition,
    seen: dict[int, Feature],
    runtime: Runtime,
) -> dict[str, dict[str, Fused]]:
    """Head -> what is heard (`SUBSETS`) -> what the fusion says in the window of its word.

    Args:
        noise: (N,) as long as the recording's sound.
        seen: of this clip's pictures; filled where it lacks them.

    Raises:
        FailedError: the session did not come to its regular end.
    """
    ends = {said.head: said.last * HOP_NS - recording.start_ns for said in words_of(recording.clip)}
    encoder = WordEncoder(models, runtime.now_ns, frozenset(ends.values()), seen)
    name = recording.clip.path.name
    session = Session(
        name=name,
        source=ItemSource(items_of(recording, noise, condition)),
        sources={Modality.VIDEO: name, Modality.AUDIO: name},
        models=models,
        runtime=runtime,
        config=Config(),
        sink=_NoSink(),
        speed=None,
        duration_ns=recording.end_ns - recording.start_ns,
        encoder=encoder,
    )
    async with asyncio.TaskGroup() as group:
        running = runtime.spawn(group, session.name, session.run())
        async for _ in session.predictions():
            pass
    summary = running.result()
    missing = [head for head, end_ns in ends.items() if end_ns not in encoder.fused]
    if summary.errors or summary.skipped or missing:
        raise FailedError(
            f"{name}: broke off ({dict(summary.errors)}), skipped {summary.skipped}, "
            f"no window for {missing}"
        )
    return {head: encoder.fused[end_ns] for head, end_ns in ends.items()}


class _NoSink:
    """Implements `engine.session.Sink`."""

    def offer(self, prediction: Prediction) -> None:
        """Answers are read where they are made."""

    async def wait_room(self) -> None:
        """There is always room."""
