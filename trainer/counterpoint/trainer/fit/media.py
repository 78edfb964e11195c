"""Recordings as the engine would see them: faces on the grid of hops, sound at its rate.

Decoded once and kept as npz, so that training reads neither video nor compressed
sound again. All preprocessing is the engine's own.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame as AvFrame

from counterpoint.engine.kernels import cpu
from counterpoint.engine.kernels.reference import Rectangle
from counterpoint.engine.preprocess.faces import FaceTracker
from counterpoint.engine.preprocess.spec import HOP_NS
from counterpoint.streams.errors import UsageError
from counterpoint.streams.pyav_frames import PlaneReader, Planes, to_ns
from counterpoint.streams.types import BoolArray, Float32Array, UInt8Array, VideoFrame
from counterpoint.trainer.data.files import read_sound
from counterpoint.trainer.data.index import Example
from counterpoint.trainer.fit.config import RunConfig
from counterpoint.trainer.records import load_arrays, save_arrays

RATE_HZ: Final = 16_000
HOP_SAMPLES: Final = RATE_HZ * HOP_NS // 1_000_000_000
_VERSION: Final = "2"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Media:
    """What was decoded of one example.

    Fields:
        faces: (hops, S, S) uint8 full-range grey, one for each hop; (1, S, S) of a picture.
        seen: (hops,) whether there is a face.
        sound: (N,) float32 samples at 16 kHz.
    """

    faces: UInt8Array
    seen: BoolArray
    sound: Float32Array

    @property
    def hops(self) -> int:
        """Length on the grid, the last hop being filled up."""
        return max(len(self.faces), -(-len(self.sound) // HOP_SAMPLES))


def read_media(example: Example, config: RunConfig, cache: Path) -> Media:
    """Decode an example, or take it from ``cache``.

    Raises:
        UsageError: a file cannot be decoded, naming the row and the column.
    """
    faces, seen = _no_faces(config.video.image_size_px)
    sound = np.zeros(0, np.float32)
    if example.video is not None and config.video.use:
        faces, seen = _faces(example, example.video, config, cache)
    if example.audio is not None and config.audio.use:
        sound = _sound(example, example.audio, cache)
    return Media(faces=faces, seen=seen, sound=sound)


def _faces(
    example: Example, path: Path, config: RunConfig, cache: Path
) -> tuple[UInt8Array, BoolArray]:
    size, how = config.video.image_size_px, config.video.face
    stored = _stored(cache, example, path, "faces", str(size), how)
    if stored.exists():
        arrays = load_arrays(stored)
        return arrays["faces"], arrays["seen"]
    try:
        faces, seen = read_faces(example, size, whole=how == "whole")
    except (av.FFmpegError, StopIteration) as error:
        raise _unreadable(example, "video", path, error) from error
    save_arrays(stored, faces=faces, seen=seen)
    return faces, seen


def _sound(example: Example, path: Path, cache: Path) -> Float32Array:
    stored = _stored(cache, example, path, "sound")
    if stored.exists():
        return _float(load_arrays(stored)["sound"])
    try:
        sound = _span(read_sound(path, RATE_HZ), example)
    except (av.FFmpegError, IndexError) as error:
        raise _unreadable(example, "audio", path, error) from error
    whole = np.rint(np.clip(sound, -1, 1) * 32767).astype(np.int16)
    save_arrays(stored, sound=whole)
    # As the next reading will give it: the first epoch is no different from the second.
    return _float(whole)


def _stored(cache: Path, example: Example, path: Path, *how: str) -> Path:
    """By file and span, not by row: rows that share a recording share what was decoded of it."""
    about = path.stat()
    key = [_VERSION, *how, f"{path.resolve()}:{about.st_size}:{about.st_mtime_ns}"]
    key += [str(example.start_ns), str(example.end_ns)]
    return cache / f"{hashlib.sha256('|'.join(key).encode()).hexdigest()[:24]}.npz"


def _float(whole: npt.NDArray[np.int16]) -> Float32Array:
    return np.asarray(whole / np.float32(32767), np.float32)


def _unreadable(example: Example, column: str, path: Path, error: Exception) -> UsageError:
    what = str(error) or "nothing in it"
    return UsageError(f"row {example.row}, column {column!r}: cannot decode {path}: {what}")


def _no_faces(size: int) -> tuple[UInt8Array, BoolArray]:
    return np.zeros((0, size, size), np.uint8), np.zeros(0, np.bool_)


def read_faces(example: Example, size: int, *, whole: bool) -> tuple[UInt8Array, BoolArray]:
    """The face at each sampling instant of an example's video; of a picture, the one.

    Args:
        whole: the picture itself is the face.
    """
    if example.video is None:
        return _no_faces(size)
    tracker = None if whole else _tracker()
    if tracker is not None:
        tracker.reset()
    faces: list[UInt8Array] = []
    seen: list[bool] = []
    for frame in _sampled(example.video, example):
        where = _middle(frame) if tracker is None else tracker.update(frame)
        face = np.zeros((size, size), np.uint8)
        if where is not None:
            face = cpu.crop_resize(frame.y, where, size)
            face = face if frame.full_range else cpu.to_full_range(face)
        faces.append(face)
        seen.append(where is not None)
    if not faces:
        raise StopIteration
    return np.stack(faces), np.array(seen)


@functools.cache
def _tracker() -> FaceTracker:
    """The process's own: reading its cascade takes longer than looking for one face."""
    return FaceTracker()


def _sampled(path: Path, example: Example) -> Iterator[VideoFrame]:
    """The newest frame at the end of each hop of the span, as the aligner samples."""
    with av.open(str(path)) as container:
        reader = PlaneReader()
        due = example.start_ns + HOP_NS
        last: AvFrame | None = None
        for frame in container.decode(video=0):
            at = to_ns(frame.pts, frame.time_base) or 0
            if example.end_ns is not None and at >= example.end_ns:
                break
            while last is not None and at >= due:
                due += HOP_NS
                yield _frame(reader.read(last))
            if at >= example.start_ns:
                last = frame
        if last is not None:
            yield _frame(reader.read(last))


def _frame(planes: Planes) -> VideoFrame:
    return VideoFrame(source="file", t_ns=0, y=planes.y, sequence=0, full_range=planes.full_range)


def _middle(frame: VideoFrame) -> Rectangle:
    height, width = frame.y.shape
    side = min(height, width)
    return Rectangle(x=(width - side) // 2, y=(height - side) // 2, width=side, height=side)


def _span(sound: Float32Array, example: Example) -> Float32Array:
    start = example.start_ns * RATE_HZ // 1_000_000_000
    end = None if example.end_ns is None else example.end_ns * RATE_HZ // 1_000_000_000
    part = sound[start:end]
    if not len(part):
        raise IndexError("nothing in its span")
    return part


def read_noise(path: Path) -> Float32Array:
    """A sound file that is mixed into others, (N,) at 16 kHz.

    Raises:
        UsageError: it cannot be decoded, or has nothing in it.
    """
    try:
        sound = read_sound(path, RATE_HZ)
    except (av.FFmpegError, IndexError) as error:
        raise UsageError(f"data.noise: cannot decode {path}: {error}") from error
    if not len(sound):
        raise UsageError(f"data.noise: there is no sound in {path}")
    return sound
