"""Part (c) of `adaptation`: drift alarms on GRID's speaker, undisturbed and disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.adaptation_sessions import CHUNK, RATE_HZ, Change, Playlist, Take, play
from counterpoint.engine.adapt.adapter import signals
from counterpoint.engine.adapt.drift import Drift
from counterpoint.engine.models import Models
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.types import NS_PER_S, Float32Array, UInt8Array, VideoFrame
from counterpoint.trainer.data.files import read_sound
from counterpoint.trainer.data.recordings import list_grid

EVERY_FRAME = 4
"""Pictures kept: every fourth of 25 a second; the engine samples four a second."""
BLACK = 16


def takes(data: Path, minutes: float, change: Change | None, *, seed: int) -> Iterator[Take]:
    """GRID clips in random order, 2 to 2.9 s of each, so that nothing repeats at a fixed pace."""
    random = np.random.default_rng(seed)
    clips = list_grid(data)
    order = random.permutation(len(clips))
    at_ns = count = 0
    while at_ns < minutes * 60 * NS_PER_S:
        clip = clips[order[count % len(order)]]
        take = read_take(clip.path, chunks=int(random.integers(20, 30)))
        count += 1
        if change is not None:
            take = change(take, at_ns)
        yield take
        at_ns += take.length_ns


def read_take(path: Path, *, chunks: int) -> Take:
    """The first ``chunks`` tenths of a second of a clip."""
    samples = read_sound(path)[: chunks * CHUNK]
    samples = np.pad(samples, (0, chunks * CHUNK - len(samples)))
    end_ns = chunks * CHUNK * NS_PER_S // RATE_HZ
    source = MediaFileSource(path, audio=False)
    frames: list[VideoFrame] = []
    step = source.step(0)
    while True:
        frames += [item for _, item in step.items if isinstance(item, VideoFrame)]
        if step.next_wake_ns is None:
            break
        step = source.step(step.next_wake_ns)
    source.close()
    kept = [frame for frame in frames[::EVERY_FRAME] if frame.t_ns < end_ns]
    return Take(samples=samples, frames=tuple(kept))


# -- what goes wrong ---------------------------------------------------------------------------


def _progress(at_ns: int, from_s: float, over_s: float) -> float:
    return float(np.clip((at_ns / NS_PER_S - from_s) / over_s, 0.0, 1.0))


def _lit(frame: VideoFrame, light: float, random: np.random.Generator) -> VideoFrame:
    """A picture with part of the light, and a sensor's noise that does not fall with it."""
    level = (frame.y.astype(np.float32) - BLACK) * light
    noisy = BLACK + level + 3.0 * random.standard_normal(frame.y.shape)
    y: UInt8Array = np.clip(noisy.round(), BLACK, 235).astype(np.uint8)
    return VideoFrame(source=frame.source, t_ns=frame.t_ns, y=y, sequence=frame.sequence)


def darkens(from_s: float, *, over_s: float, to: float, seed: int) -> Change:
    """It gets dark, down to a part ``to`` of the light."""
    random = np.random.default_rng(seed)

    def change(take: Take, at_ns: int) -> Take:
        light = float(to ** _progress(at_ns, from_s, over_s))
        frames = tuple(_lit(frame, light, random) for frame in take.frames)
        return Take(samples=take.samples, frames=frames)

    return change


def noise_rises(
    from_s: float, noise: Float32Array, *, over_s: float, to_db: float, seed: int
) -> Change:
    """Noise of a room, from 40 dB below the voice to ``to_db`` (voice over noise)."""
    random = np.random.default_rng(seed)

    def change(take: Take, at_ns: int) -> Take:
        snr_db = 40 + (to_db - 40) * _progress(at_ns, from_s, over_s)
        start = int(random.integers(len(noise) - len(take.samples)))
        piece = noise[start : start + len(take.samples)]
        voice_power, noise_power = float(np.mean(take.samples**2)), float(np.mean(piece**2))
        gain = np.sqrt(voice_power / max(noise_power, 1e-12) / 10 ** (snr_db / 10))
        samples = np.clip(take.samples + gain * piece, -1, 1).astype(np.float32)
        return Take(samples=samples, frames=take.frames)

    return change


# -- signals and alarms ------------------------------------------------------------------------

Signals = list[dict[str, float]]
"""What is watched of each window of a session."""


def record(
    models: Models, data: Path, minutes: float, change: Change | None, *, seed: int
) -> Signals:
    """A session of that length, and what an `Adapter` would watch of each of its windows."""
    playlist = Playlist(takes(data, minutes, change, seed=seed), video=True)
    return [signals(fused, said.heads) for said, fused in play(models, playlist)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """
    Fields:
        hours: length of the session.
        alarms: (second, signal, mean before, mean now).
    """

    hours: float
    alarms: tuple[tuple[float, str, float, float], ...]

    def until(self, second: float) -> int:
        """How many alarms come before that instant."""
        return sum(at < second for at, *_ in self.alarms)

    def delay_s(self, second: float) -> float | None:
        """From an instant to the first alarm behind it."""
        return next((round(at - second, 1) for at, *_ in self.alarms if at >= second), None)


def watch(said: Signals, delta: float, *, hop_s: float, every: int) -> Watched:
    """Alarms over a session's signals, as `Adapter` has them: of every ``every``-th window."""
    drift = Drift(delta)
    alarms = [
        ((index + 1) * hop_s, alarm.signal, round(alarm.before, 2), round(alarm.now, 2))
        for index in range(0, len(said), every)
        for alarm in drift.update(said[index])
    ]
    return Watched(hours=len(said) * hop_s / 3600, alarms=tuple(alarms))


# -- what goes wrong ---------------------------------------------------------------------------


def scenarios(data: Path, from_s: float, seed: int) -> dict[str, Change]:
    """What changes from that instant on."""
    noise = read_sound(data / "noise" / "running_tap.flac")
    dishes = read_sound(data / "noise" / "doing_the_dishes.flac")
    return {
        "it gets dark within a minute (to 5 % of the light)": darkens(
            from_s, over_s=60, to=0.05, seed=seed
        ),
        "the light goes off at once (to 2 %)": darkens(from_s, over_s=1, to=0.02, seed=seed),
        "a running tap, within a minute to 0 dB": noise_rises(
            from_s, noise, over_s=60, to_db=0, seed=seed
        ),
        "dishes are done, at once, at -5 dB": noise_rises(
            from_s, dishes, over_s=1, to_db=-5, seed=seed
        ),
    }
