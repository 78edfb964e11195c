"""Acted emotional speech: RAVDESS (English, Livingstone & Russo 2018) and nEMO (Polish, Christop
2024), always split by speaker. A random split would put a speaker on both sides and report
figures that no new speaker reaches.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from counterpoint.engine.preprocess.audio import clip_log_mel
from counterpoint.engine.preprocess.spec import AudioSpec
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.data.files import need, read_sound
from counterpoint.trainer.labels import EMOTION, NEMO, RAVDESS, index_of
from counterpoint.trainer.records import load_arrays, save_arrays

RAVDESS_VALIDATION: Final = frozenset(f"ravdess-{actor:02d}" for actor in range(17, 21))
CALIBRATION: Final = frozenset({"ravdess-15", "ravdess-16", "nemo-MP0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One recording.

    Fields:
        path: Opus file.
        speaker: ``ravdess-01`` or ``nemo-EB0``.
        emotion: position in ``labels.EMOTION``.
    """

    path: Path
    speaker: str
    emotion: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpokenClips:
    """Clips with their raw (not normalised) log-mel.

    Fields:
        clips: N recordings.
        log_mel: N arrays (hops * 25, 64) float32 as `clip_log_mel` gives them.
    """

    clips: tuple[Clip, ...]
    log_mel: tuple[Float32Array, ...]

    def chosen(self, speakers: frozenset[str]) -> SpokenClips:
        """Only the clips of ``speakers``."""
        keep = [index for index, clip in enumerate(self.clips) if clip.speaker in speakers]
        return SpokenClips(
            clips=tuple(self.clips[index] for index in keep),
            log_mel=tuple(self.log_mel[index] for index in keep),
        )

    @property
    def speakers(self) -> frozenset[str]:
        return frozenset(clip.speaker for clip in self.clips)

    @property
    def emotions(self) -> np.ndarray:
        """(N,) int64."""
        return np.array([clip.emotion for clip in self.clips], np.int64)


def list_ravdess(data: Path) -> list[Clip]:
    """The clips in ``data``/ravdess_speech, from their file names.

    ``modality-channel-emotion-intensity-statement-repetition-actor.opus``

    Raises:
        UsageError: the folder or its clips are missing.
    """
    folder = need(data / "ravdess_speech" / "audio", "RAVDESS")
    codes = index_of(EMOTION, RAVDESS)
    clips = []
    for path in sorted(folder.glob("*.opus")):
        fields = path.stem.split("-")
        clips.append(Clip(path=path, speaker=f"ravdess-{fields[6]}", emotion=codes[fields[2]]))
    return clips


def list_nemo(data: Path) -> list[Clip]:
    """The clips in ``data``/nemo, from ``data.tsv``.

    Raises:
        UsageError: the table is missing.
    """
    table = need(data / "nemo" / "data.tsv", "nEMO")
    names = index_of(EMOTION, NEMO)
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Clip(
            path=table.parent / "audio" / row["file"].replace(".wav", ".opus"),
            speaker=f"nemo-{row['speaker']}",
            emotion=names[row["emotion"]],
        )
        for row in sorted(rows, key=lambda row: row["file"])
    ]


def read_speech(data: Path, cache: Path, spec: AudioSpec) -> SpokenClips:
    """Both sets, each clip decoded once and its log-mel kept in ``cache`` (one npz).

    Raises:
        UsageError: a set or one of its files is missing.
    """
    clips = list_ravdess(data) + list_nemo(data)
    stored = cache / "speech_log_mel.npz"
    if not stored.exists():
        parts = [clip_log_mel(read_sound(need(clip.path, "speech")), spec) for clip in clips]
        save_arrays(
            stored,
            frames=np.concatenate(parts),
            counts=np.array([len(part) for part in parts], np.int64),
        )
    arrays = load_arrays(stored)
    if len(arrays["counts"]) != len(clips):
        stored.unlink()  # made from another set of files
        return read_speech(data, cache, spec)
    parts = np.split(arrays["frames"], np.cumsum(arrays["counts"])[:-1])
    return SpokenClips(clips=tuple(clips), log_mel=tuple(parts))


def read_noise(data: Path, spec: AudioSpec) -> tuple[Float32Array, ...]:
    """Log-mel of the background noises of Speech Commands (Warden 2018), for augmentation.

    Raises:
        UsageError: the folder is missing.
    """
    folder = need(data / "noise", "background noise")
    return tuple(clip_log_mel(read_sound(path), spec) for path in sorted(folder.glob("*.flac")))
