"""Rows through sessions of the engine: what it says of each, with all subsets of modalities.

A row is encoded once, as the engine encodes it, and fused once for each subset that it has: by the
engine's own fusion, whose rings then hold the features of that subset alone.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from counterpoint.engine.align import AudioCell, Line, Part, State, VideoCell, Window
from counterpoint.engine.calibrate import probabilities
from counterpoint.engine.config import Config
from counterpoint.engine.encode import Counts, SessionEncoder, StageClock
from counterpoint.engine.fuse import MODALITIES, Feature, Fused, Fusion
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.session import Session
from counterpoint.streams.runtime import Runtime, SystemRuntime
from counterpoint.streams.types import Modality
from counterpoint.trainer.data.index import DatasetError, Example
from counterpoint.trainer.evaluation.rows import open_row

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

TEXT_AS: Final = {"text": Modality.CHAT, "video": Modality.VIDEO, "audio": Modality.AUDIO}
"""What an index calls a modality, and what the engine does."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Said:
    """What the engine says of one row with one subset of its modalities.

    Fields:
        heard: for each window, the modalities that the model heard (`Fused.mask`).
        logits: head -> (windows, C).
        probabilities: head -> (windows, C), calibrated.
        values: number -> (windows,), in its own unit.
        contributions: head -> (windows, 3, C): video, audio, chat; number -> (windows, 3, 1).
    """

    heard: tuple[str, ...]
    logits: Mapping[str, Floats]
    probabilities: Mapping[str, Floats]
    values: Mapping[str, Floats]
    contributions: Mapping[str, Floats]

    def answer(self, head: str) -> Floats:
        """(C,): the mean of the windows' probabilities."""
        mean: Floats = self.probabilities[head].mean(axis=0)
        return mean


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """A row and what the engine said of it.

    Fields:
        example: the row.
        mask: the modalities that the row has, as ``"110"``: video, audio, chat.
        said: by subset of them (the row's own mask among them).
        predictions: as the session published them for the same windows.
        broke_off: why a source ended early, by modality.
    """

    example: Example
    mask: str
    said: Mapping[str, Said]
    predictions: tuple[Prediction, ...]
    broke_off: Mapping[str, str]


def subsets_of(mask: str) -> tuple[str, ...]:
    """Every mask with a part of the modalities of ``mask``, none of the others, and at least one.

    From few to many, so that ``mask`` itself is the last.
    """
    choices = [("0", "1") if bit == "1" else ("0",) for bit in mask]
    masks = ["".join(bits) for bits in itertools.product(*choices) if "1" in bits]
    return tuple(sorted(masks, key=lambda found: (found.count("1"), found)))


def score_rows(
    models: Models,
    examples: Sequence[Example],
    *,
    tick: Callable[[Scored], None] = lambda _: None,
) -> list[Scored]:
    """Play every row through a session of its own, flat out.

    The windows that count for a row are those from the first whole context on (audio's, or
    video's where there is no sound), or the last one where the row is shorter.

    Args:
        tick: called after each row.

    Raises:
        DatasetError: naming the row that cannot be played.
    """
    with SystemRuntime() as runtime:
        return asyncio.run(_score(models, examples, runtime, tick))


async def _score(
    models: Models,
    examples: Sequence[Example],
    runtime: Runtime,
    tick: Callable[[Scored], None],
) -> list[Scored]:
    found = []
    for example in examples:
        found.append(await score_row(models, example, runtime))
        tick(found[-1])
    return found


async def score_row(models: Models, example: Example, runtime: Runtime) -> Scored:
    """What the engine says of one row; see `score_rows`."""
    has = {TEXT_AS[name] for name in example.modalities}
    mask = "".join("1" if modality in has else "0" for modality in MODALITIES)
    encoder = SubsetEncoder(models, runtime.now_ns, mask)
    sources = open_row(example, hop_ns=models.bundle.manifest.hop_ns)
    session = Session(
        name=f"row-{example.row}",
        source=sources.source,
        sources=sources.names,
        models=models,
        runtime=runtime,
        config=Config(),
        sink=_NoSink(),
        speed=None,
        duration_ns=sources.duration_ns,
        encoder=encoder,
    )
    async with asyncio.TaskGroup() as group:
        running = runtime.spawn(group, session.name, session.run())
        predictions = [prediction async for prediction in session.predictions()]
    summary = running.result()
    if not predictions:
        raise DatasetError(f"row {example.row} ({example.id}): nothing in it lasts for a window")
    settled_ns = _settled_ns(models, has)
    last_ns = predictions[-1].end_ns
    kept = [
        position
        for position, prediction in enumerate(predictions)
        if prediction.end_ns >= min(settled_ns, last_ns)
    ]
    return Scored(
        example=example,
        mask=mask,
        said={
            subset: _said(models, [fused[position] for position in kept])
            for subset, fused in encoder.fused.items()
        },
        predictions=tuple(predictions[position] for position in kept),
        broke_off={modality.value: why for modality, why in summary.errors.items()},
    )


def _settled_ns(models: Models, has: set[Modality]) -> int:
    modalities = models.bundle.manifest.modalities
    if Modality.AUDIO in has:
        return modalities.audio.context_ns
    return modalities.video.context_ns if Modality.VIDEO in has else 0


def _said(models: Models, windows: Sequence[Fused]) -> Said:
    bundle = models.bundle
    heads = tuple(bundle.manifest.heads)
    return Said(
        heard=tuple(fused.mask for fused in windows),
        logits={head: np.stack([fused.logits[head] for fused in windows]) for head in heads},
        probabilities={
            head: np.array(
                [
                    # As the engine reports: with nothing heard the prior speaks as it is.
                    probabilities(
                        fused.logits[head],
                        bundle.temperature(head, fused.mask) if "1" in fused.mask else 1.0,
                    )
                    for fused in windows
                ]
            )
            for head in heads
        },
        values={
            name: np.array([fused.values[name] for fused in windows])
            for name in bundle.manifest.numbers
        },
        contributions={
            task: np.stack([fused.contributions[task] for fused in windows])
            for task in bundle.manifest.tasks
        },
    )


class SubsetEncoder:
    """A session's encoder that also fuses each subset. Implements `engine.encode.Encoder`.

    Fields:
        fused: by subset, one for each window in order.
    """

    def __init__(self, models: Models, clock: Callable[[], int], mask: str) -> None:
        self._inner = SessionEncoder(models, clock, keep_features=True)
        self._mask = mask
        self.fused: dict[str, list[Fused]] = {subset: [] for subset in subsets_of(mask)}
        self._fusions = {subset: Fusion(models) for subset in self.fused if subset != mask}

    @property
    def counts(self) -> Counts:
        return self._inner.counts

    @property
    def stages(self) -> StageClock:
        return self._inner.stages

    def encode(self, outputs: Iterable[VideoCell | AudioCell | Line]) -> None:
        """See `Encoder.encode`."""
        self._inner.encode(outputs)
        for feature in self._inner.take_features():
            place = MODALITIES.index(feature.modality)
            for subset, fusion in self._fusions.items():
                if subset[place] == "1":
                    fusion.put(feature)

    def fuse(self, window: Window) -> Fused:
        """See `Encoder.fuse`."""
        fused = self._inner.fuse(window)
        self.fused[self._mask].append(fused)
        for subset, fusion in self._fusions.items():
            self.fused[subset].append(fusion.fuse(without(window, subset)))
        return fused

    def take_features(self) -> list[Feature]:
        """None: they were taken already."""
        return []


def without(window: Window, subset: str) -> Window:
    """The window as if the session had no source of what is not in ``subset``."""
    gone = {m for m, bit in zip(MODALITIES, subset, strict=True) if bit == "0"}
    parts = {
        modality: Part(
            start_ns=part.start_ns,
            state=State.MISSING,
            reason="no source",
            coverage=0.0,
            age_ns=None,
            complete=True,
        )
        if modality in gone
        else part
        for modality, part in window.parts.items()
    }
    return replace(
        window,
        video_cells=range(0) if Modality.VIDEO in gone else window.video_cells,
        audio_cells=range(0) if Modality.AUDIO in gone else window.audio_cells,
        chat_lines=() if Modality.CHAT in gone else window.chat_lines,
        parts=parts,
    )


class _NoSink:
    """Predictions are read from the session itself. Implements `engine.session.Sink`."""

    def offer(self, prediction: Prediction) -> None:
        """Not kept here."""

    async def wait_room(self) -> None:
        """There is always room."""
