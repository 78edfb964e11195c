"""GRID's spoken digits and colours as windows of the engine, for `studies.aligned_grid`.

A window is what the engine's fusion would be given just after the word has ended: the grid of
40 ms has one picture of the 25 a second and four frames of sound in each cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from counterpoint.engine.kernels import cpu
from counterpoint.engine.preprocess.audio import normalise_log_mel
from counterpoint.engine.preprocess.faces import FaceTracker
from counterpoint.engine.preprocess.spec import AudioSpec, VideoSpec
from counterpoint.streams.errors import UsageError
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    BoolArray,
    Float32Array,
    UInt8Array,
    VideoFrame,
)
from counterpoint.trainer.data.files import need, read_sound
from counterpoint.trainer.data.recordings import GridClip
from counterpoint.trainer.fit.augment import mask_log_mel, mix
from counterpoint.trainer.fit.config import AudioAugment
from counterpoint.trainer.records import load_arrays, save_arrays

HOP_NS: Final = 40_000_000
CELLS: Final = 20
"""Of a window: 0.8 s, the longest word and something before it."""

FACE_PX: Final = 80
"""As large as faces are in these pictures of 160 x 160."""

MOUTH: Final = (slice(52, 80), slice(20, 60))
"""Rows and columns of the mouth in the detector's rectangle."""

RATE_HZ: Final = 16_000
HOP_SAMPLES: Final = RATE_HZ * HOP_NS // NS_PER_S

HEADS: Final[Mapping[str, tuple[str, ...]]] = {
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "colour": ("blue", "green", "red", "white"),
}
VIDEO: Final = VideoSpec(
    context_ns=CELLS * HOP_NS, sample_period_ns=HOP_NS, tolerance_ns=2 * HOP_NS,
    image_size_px=FACE_PX,
)  # fmt: skip
AUDIO: Final = AudioSpec(
    context_ns=CELLS * HOP_NS, context_frames=4, steps_per_hop=1, voice_threshold=0.1
)
"""A cell has its own four frames and the four before them. The networks learn from noise that is up
to 12 dB louder than speech, so there is little reason to keep it from them: at the usual threshold
of 0.5 the detector lets through an eighth of the windows at -10 dB."""

TRAIN_NOISE: Final = (0.0, 0.7)
TEST_NOISE: Final = (0.7, 1.0)
"""Parts of each recording of noise: what is tested with was never trained with."""

_MASKS: Final = AudioAugment(time_masks=1, time_frames=8, bin_masks=1, bins=8)
_SHIFT_PX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sights:
    """One clip as the engine sees and hears it.

    Fields:
        faces: (cells, S, S) uint8 full-range grey; cell i is sampled at ``(i + 1) * HOP_NS``.
        seen: (cells,) whether there is a face.
        sound: (N,) float32 at 16 kHz from time 0.
    """

    faces: UInt8Array
    seen: BoolArray
    sound: Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A word to be recognised.

    Fields:
        head: of `HEADS`.
        label: position among the head's words.
        last: the window's end in hops, the first that is not before the word's end.
    """

    head: str
    label: int
    last: int


def words_of(clip: GridClip) -> tuple[Said, ...]:
    """The digit and the colour of a clip.

    Raises:
        UsageError: naming the clip and a word that is none of `HEADS`.
    """
    said = []
    for head, names in HEADS.items():
        word = clip.word(head)
        if word.text not in names:
            raise UsageError(f"{clip.path}: {word.text!r} is no {head}")
        last = -(-word.end_ns // HOP_NS)
        said.append(Said(head=head, label=names.index(word.text), last=last))
    return tuple(said)


def split_clips(
    clips: Sequence[GridClip], sizes: Mapping[str, int], *, seed: int
) -> dict[str, list[GridClip]]:
    """Clips drawn without replacement into parts of these sizes.

    All are of one speaker: what is measured on them says nothing about another one.

    Raises:
        UsageError: there are not that many.
    """
    if sum(sizes.values()) > len(clips):
        raise UsageError(f"GRID: {len(clips)} clips are fewer than {sum(sizes.values())}")
    order = np.random.default_rng(seed).permutation(len(clips))
    parts, first = {}, 0
    for name, size in sizes.items():
        parts[name] = [clips[place] for place in sorted(order[first : first + size])]
        first += size
    return parts


def needed_cells(clip: GridClip) -> tuple[int, int]:
    """From the first to the last hop (exclusive) of the windows of both words, from 0 on."""
    ends = [said.last for said in words_of(clip)]
    return max(0, min(ends) - CELLS), max(ends)


def read_sights(clip: GridClip, cache: Path) -> Sights:
    """A clip through the engine's own source and face tracker; kept in ``cache``.

    Faces are looked for in the cells of `needed_cells` only.

    Raises:
        SourceError: it cannot be opened.
    """
    stored = cache / f"{clip.path.stem}.npz"
    if not stored.exists():
        found = _look(clip.path, *needed_cells(clip))
        save_arrays(stored, faces=found.faces, seen=found.seen, sound=found.sound)
    arrays = load_arrays(stored)
    return Sights(faces=arrays["faces"], seen=arrays["seen"], sound=arrays["sound"])


def _look(path: Path, first: int, last: int) -> Sights:
    source = MediaFileSource(path)
    tracker = FaceTracker()
    faces: dict[int, UInt8Array | None] = {}
    chunks: list[AudioChunk] = []
    wake_ns: int | None = 0
    try:
        while wake_ns is not None:
            step = source.step(wake_ns)
            for _, item in step.items:
                if isinstance(item, VideoFrame):
                    cell = item.t_ns // HOP_NS
                    faces[cell] = _face(tracker, item) if first <= cell < last else None
                elif isinstance(item, AudioChunk):
                    chunks.append(item)
            wake_ns = step.next_wake_ns
    finally:
        source.close()
    cells = max(faces, default=-1) + 1
    pictures = np.zeros((cells, FACE_PX, FACE_PX), np.uint8)
    seen = np.zeros(cells, np.bool_)
    for place, face in faces.items():
        if face is not None:
            pictures[place], seen[place] = face, True
    return Sights(faces=pictures, seen=seen, sound=joined(chunks))


def _face(tracker: FaceTracker, frame: VideoFrame) -> UInt8Array | None:
    where = tracker.update(frame)
    if where is None:
        return None
    grey = cpu.crop_resize(frame.y, where, FACE_PX)
    return grey if frame.full_range else cpu.to_full_range(grey)


def joined(chunks: Sequence[AudioChunk]) -> Float32Array:
    """(N,) chunks at 16 kHz on one line from time 0; where there is none, silence."""
    places = [round(chunk.t_ns * RATE_HZ / NS_PER_S) for chunk in chunks]
    ends = [at + len(chunk.samples) for at, chunk in zip(places, chunks, strict=True)]
    sound = np.zeros(max(ends, default=0), np.float32)
    for at, end, chunk in zip(places, ends, chunks, strict=True):
        sound[at:end] = chunk.samples
    return sound


def read_noises(data: Path, part: tuple[float, float]) -> tuple[Float32Array, ...]:
    """Each recording of background noise from one share of its length to another, at 16 kHz.

    Raises:
        UsageError: the set is missing.
    """
    folder = need(data / "noise", "background noise")
    sounds = [read_sound(path, RATE_HZ) for path in sorted(folder.glob("*.flac"))]
    return tuple(sound[int(part[0] * len(sound)) : int(part[1] * len(sound))] for sound in sounds)


def draw_noise(noises: Sequence[Float32Array], length: int, random: Generator) -> Float32Array:
    """(length,) of one of them, from a place drawn evenly, going on at its start."""
    noise = noises[int(random.integers(len(noises)))]
    places = int(random.integers(len(noise))) + np.arange(length)
    return np.asarray(np.take(noise, places, mode="wrap"), np.float32)


def with_noise(
    sound: Float32Array, span: tuple[int, int], noise: Float32Array, snr_db: float
) -> Float32Array:
    """``sound`` (N,) with ``noise`` (N,), the ratio being of the samples within ``span``.

    So pauses before and after what is said do not count.
    """
    first, last = span
    spoken = sound[first:last]
    mixed = mix(spoken, noise[first:last], snr_db)
    # The factor that `mix` chose for the spoken part, for the whole.
    change, part = mixed - spoken, noise[first:last]
    power = float(np.dot(part, part))
    factor = float(np.dot(change, part)) / power if power > 0 else 0.0
    return np.asarray(sound + np.float32(factor) * noise, np.float32)


def spoken_span(clip: GridClip) -> tuple[int, int]:
    """From the first word's start to the last one's end, in samples."""
    ends = clip.words[0].start_ns, clip.words[-1].end_ns
    first, last = (round(ns * RATE_HZ / NS_PER_S) for ns in ends)
    return first, last


def window_of(
    sights: Sights,
    sound: Float32Array,
    last: int,
    video: VideoSpec,
    audio: AudioSpec,
    random: Generator | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """The window that ends after ``last`` hops, as `nets.model.Model.encode` takes it.

    Args:
        sound: in place of the clip's own.
        random: of augmentation; None: as it is.

    Returns:
        ``faces`` (CELLS, 1, 28, 40), mouths only, and ``logmel`` (CELLS, 8, 64) float32,
        normalised, and their masks (CELLS,).
    """
    first = last - CELLS
    low, high = max(first, 0), min(last, len(sights.faces))
    mouths = cut_mouths(sights.faces[low:high], random)
    pictures = np.zeros((CELLS, *mouths.shape[1:]), np.float32)
    pictures[low - first : high - first] = cpu.normalise_face(mouths, video)
    seen = np.zeros(CELLS, np.float32)
    seen[low - first : high - first] = sights.seen[low:high]
    # One hop more for the frames that reach back, and what the first of them reaches back to.
    start, end = (first - 1) * HOP_SAMPLES - audio.overlap_samples, last * HOP_SAMPLES
    part = np.zeros(end - start, np.float32)
    held = sound[max(start, 0) : max(end, 0)]
    part[max(-start, 0) : max(-start, 0) + len(held)] = held
    log_mel = _kernel(audio)(part)
    if random is not None:
        log_mel = mask_log_mel(log_mel, np.asarray(audio.mean, np.float32), _MASKS, random)
    own = audio.frames_per(HOP_NS)
    hops = np.lib.stride_tricks.sliding_window_view(log_mel, audio.context_frames + own, axis=0)
    hops = np.ascontiguousarray(hops[::own].transpose(0, 2, 1))
    there = np.arange(first, last) < -(-len(sound) // HOP_SAMPLES)
    return {
        "faces": pictures[:, None],
        "video_mask": seen,
        "logmel": normalise_log_mel(hops, audio),
        "audio_mask": (there & (np.arange(first, last) >= 0)).astype(np.float32),
    }


@lru_cache(maxsize=4)
def _kernel(audio: AudioSpec) -> cpu.LogMel:
    """Its filters are the same for every window."""
    return cpu.LogMel(audio)


def cut_mouths(faces: UInt8Array, random: Generator | None = None) -> UInt8Array:
    """(T, S, S) faces -> (T, 28, 40) mouths.

    Args:
        random: move, light and perhaps mirror all alike; beyond the face its edge goes on.
    """
    rows, columns = (np.arange(FACE_PX)[part] for part in MOUTH)
    if random is None:
        return np.ascontiguousarray(faces[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    down, right = (int(random.integers(-_SHIFT_PX, _SHIFT_PX + 1)) for _ in range(2))
    if random.random() < 0.5:
        columns = columns[::-1]
    rows = np.clip(rows + down, 0, FACE_PX - 1)
    columns = np.clip(columns + right, 0, FACE_PX - 1)
    moved = faces[:, rows[:, None], columns].astype(np.float32)
    lit = (moved - 128) * random.uniform(0.8, 1.2) + 128 + random.uniform(-20, 20)
    changed: UInt8Array = np.clip(lit, 0, 255).astype(np.uint8)
    return changed


def stack(windows: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> dict[str, Tensor]:
    """Windows as one batch."""
    return {
        name: torch.from_numpy(np.stack([window[name] for window in windows]))
        for name in windows[0]
    }
