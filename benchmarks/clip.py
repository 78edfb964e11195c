"""A clip in which a white flash and a beep coincide once a second, and how both are found again.

The flash is the first of three white pictures, the beep a chirp that begins at the same instant,
exact to a sample: half a second after each whole second, so that no event lies at an end.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

NS_PER_S = 1_000_000_000
RATE_HZ = 48_000
FPS = 30
WIDTH, HEIGHT = 320, 240
EVENT_FRAME = FPS // 2  # within each second
EVENT_SAMPLE = RATE_HZ // 2
FLASH_FRAMES = 3
DARK, BRIGHT = 24, 235
THRESHOLD = (DARK + BRIGHT) / 2
BEEP_S = 0.04
LEVEL = 0.5
# Of the correlation with the beep, where 1 is the beep itself.
SURE = 0.7


def beep() -> Float32Array:
    """(1920,) float32: 500 to 4,000 Hz in 40 ms, from full level on so that its start is sharp."""
    at = np.arange(round(BEEP_S * RATE_HZ)) / RATE_HZ
    return (LEVEL * np.sin(2 * np.pi * (500 * at + 3_500 / (2 * BEEP_S) * at**2))).astype(
        np.float32
    )


def sound(seconds: int) -> Float32Array:
    """(seconds * 48000,) float32, mono."""
    one = np.zeros(RATE_HZ, np.float32)
    one[EVENT_SAMPLE : EVENT_SAMPLE + len(beep())] = beep()
    return np.tile(one, seconds)


def is_bright(number: int) -> bool:
    """Whether the picture of that number is white."""
    return EVENT_FRAME <= number % FPS < EVENT_FRAME + FLASH_FRAMES


def picture(number: int) -> UInt8Array:
    """(HEIGHT * 3 / 2, WIDTH) uint8, 4:2:0: grey, dark or white."""
    planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    planes[:HEIGHT] = BRIGHT if is_bright(number) else DARK
    return planes


def write(folder: Path, seconds: int) -> tuple[Path, Path]:
    """The clip as Y4M and WAV, as Chromium's fake devices take them."""
    video, audio = folder / "flash.y4m", folder / "beep.wav"
    with video.open("wb") as out:
        out.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{FPS}:1 Ip A1:1 C420jpeg\n".encode())
        for number in range(seconds * FPS):
            out.write(b"FRAME\n" + picture(number).tobytes())
    with wave.open(str(audio), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((sound(seconds) * 32_767).astype("<i2").tobytes())
    return video, audio


# -- found again -----------------------------------------------------------------------------------


def flashes_ns(frames: list[tuple[int, float]]) -> list[int]:
    """Instants at which dark turns to white.

    Args:
        frames: (time, mean luma) of each picture, in order.
    """
    return [t_ns for (_, before), (t_ns, luma) in pairwise(frames) if before < THRESHOLD <= luma]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A piece of sound, mono at 48 kHz.

    Fields:
        t_ns: of its first sample.
    """

    t_ns: int
    samples: Float32Array


def beeps_ns(pieces: list[Sound]) -> list[int]:
    """Instants at which beeps begin, by their correlation with the chirp.

    Where sound is missing, a beep across the gap is not found.
    """
    found: list[int] = []
    for run in _runs(pieces):
        samples = np.concatenate([piece.samples for piece in run])
        starts = np.cumsum([0, *(len(piece.samples) for piece in run)])
        for at in _onsets(samples):
            # By its own piece's time: the clock may correct itself from piece to piece.
            index = int(np.searchsorted(starts, at, side="right")) - 1
            found.append(run[index].t_ns + round((at - int(starts[index])) * NS_PER_S / RATE_HZ))
    return found


def _runs(pieces: list[Sound]) -> list[list[Sound]]:
    """Pieces that follow one another without a gap (a correction of the clock is none)."""
    runs: list[list[Sound]] = []
    end_ns = 0
    for piece in pieces:
        if not runs or abs(piece.t_ns - end_ns) > 5_000_000:
            runs.append([])
        runs[-1].append(piece)
        end_ns = piece.t_ns + len(piece.samples) * NS_PER_S // RATE_HZ
    return runs


def _onsets(samples: Float32Array) -> list[int]:
    pattern = beep()
    if len(samples) < len(pattern):
        return []
    # By the Fourier transform; a direct correlation of a minute takes seconds.
    size = 1 << (len(samples) + len(pattern)).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(pattern, size))
    match = np.fft.irfft(spectrum, size)[: len(samples) - len(pattern) + 1]
    match /= float(np.dot(pattern, pattern))
    found: list[int] = []
    for at in np.flatnonzero(match > SURE * max(1e-3, float(match.max()))):
        if found and at - found[-1] < RATE_HZ // 2:
            if match[at] > match[found[-1]]:
                found[-1] = int(at)
        else:
            found.append(int(at))
    return found
