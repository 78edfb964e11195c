"""Makes the video of the demo session out of GRID clips (CC BY 4.0).

    python deploy/make_demo.py --clips DIR --grid-s1 DIR --out engine/counterpoint/engine/demo

``--clips`` has GRID clips of several speakers as recorded (MPEG-1 360x288, MP2), ``--grid-s1``
clips of speaker 1 (MP4 160x160, AAC). Each clip is cut to exactly 3 s of pictures (75 at 25 a
second) and 3 s of sound (48,000 samples), so that the joins keep both together; then all is
encoded again. Same input and same FFmpeg, same bytes. The result is decoded again and checked.
The last line of output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt

WIDTH: Final = 360
HEIGHT: Final = 288
FRAMES_A_SECOND: Final = 25
RATE_HZ: Final = 16_000
CLIP_FRAMES: Final = 75
CLIP_SAMPLES: Final = 48_000
AAC_FRAME: Final = 1024
MAX_BYTES: Final = 1_500_000

# (folder, file): speakers change at every join.
ORDER: Final = (
    ("clips", "grid_lbbc2a.mpg"),
    ("clips", "grid_id2_vcd_swwp2s.mpg"),
    ("grid_s1", "prav8n.mp4"),
    ("clips", "grid_lwbsza.mpg"),
    ("clips", "grid_sbia1a.mpg"),
    ("grid_s1", "srbo2n.mp4"),
    ("clips", "grid_swiz3n.mpg"),
    ("grid_s1", "lgaf5s.mp4"),
    ("clips", "grid_bbaf2n.mpg"),
)


def read_pictures(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Exactly `CLIP_FRAMES` RGB pictures (HEIGHT, WIDTH, 3), with black bars where needed."""
    with av.open(str(path)) as container:
        count = 0
        for frame in container.decode(video=0):
            if count == CLIP_FRAMES:
                return
            scale = min(WIDTH / frame.width, HEIGHT / frame.height)
            width, height = round(frame.width * scale), round(frame.height * scale)
            picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
            scaled = frame.to_ndarray(
                format="rgb24", width=width, height=height, interpolation="BICUBIC"
            )
            picture[top : top + height, left : left + width] = scaled
            yield picture
            count += 1
        if count < CLIP_FRAMES:
            raise SystemExit(f"{path}: {count} pictures, {CLIP_FRAMES} are needed")


def read_sound(path: Path) -> npt.NDArray[np.float32]:
    """Exactly `CLIP_SAMPLES` mono samples; a clip that is a little short ends in silence."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
    pieces = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    samples = np.concatenate(pieces)[:CLIP_SAMPLES]
    return np.pad(samples, (0, CLIP_SAMPLES - len(samples))).astype(np.float32)


def write_session(paths: list[Path], out: Path) -> None:
    """Encode all clips one after the other, pictures and sound interleaved by time."""
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(out), "w", format="mp4", options=options) as container:
        video = container.add_stream("libx264", rate=FRAMES_A_SECOND)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1
        video.options = {"crf": "24", "preset": "veryslow", "g": "50", "flags": "+bitexact"}
        audio = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        audio.bit_rate = 48_000
        audio.options = {"flags": "+bitexact"}
        sound = np.concatenate([read_sound(path) for path in paths])
        sent = 0
        for index, picture in enumerate(p for path in paths for p in read_pictures(path)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_A_SECOND)
            container.mux(video.encode(frame))
            until = (index + 1) * RATE_HZ // FRAMES_A_SECOND
            while sent < until and sent < len(sound):
                block = sound[sent : sent + AAC_FRAME]
                audio_frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
                audio_frame.sample_rate = RATE_HZ
                audio_frame.pts, audio_frame.time_base = sent, Fraction(1, RATE_HZ)
                container.mux(audio.encode(audio_frame))
                sent += len(block)
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def lag_samples(heard: npt.NDArray[np.float32], meant: npt.NDArray[np.float32]) -> int:
    """How many samples ``heard`` comes after ``meant``, by the peak of their correlation."""
    size = len(heard) + len(meant)
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(meant, size))
    correlation = np.fft.irfft(spectrum, size)
    peak = int(np.argmax(correlation))
    return peak if peak < size // 2 else peak - size


def check(paths: list[Path], out: Path) -> dict[str, float]:
    """Decode the result and compare it with the clips.

    Raises:
        SystemExit: a count, a duration or the place of a clip in the result is not as it must be.
    """
    with av.open(str(out)) as container:
        frames = [
            (frame.time or 0.0, frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]
    with av.open(str(out)) as container:
        runs = [(frame.pts, frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
    sound = np.concatenate([run for _, run in runs])[runs[0][0] :]
    lags, errors = [], []
    for number, path in enumerate(paths):
        start = number * CLIP_SAMPLES
        lags.append(lag_samples(sound[start : start + CLIP_SAMPLES], read_sound(path)))
        for index, picture in enumerate(read_pictures(path), start=number * CLIP_FRAMES):
            errors.append(float(np.abs(frames[index][1].astype(int) - picture).mean()))
    found = {
        "bytes": out.stat().st_size,
        "pictures": len(frames),
        "last_picture_seconds": frames[-1][0],
        "sound_seconds": len(sound) / RATE_HZ,
        "largest_sound_lag_samples": max(map(abs, lags)),
        "largest_mean_pixel_error": round(max(errors), 2),
    }
    seconds = len(paths) * CLIP_FRAMES / FRAMES_A_SECOND
    good = (
        found["bytes"] <= MAX_BYTES
        and len(frames) == len(paths) * CLIP_FRAMES
        and all(abs(t - i / FRAMES_A_SECOND) < 1e-6 for i, (t, _) in enumerate(frames))
        and 0 <= len(sound) / RATE_HZ - seconds < AAC_FRAME / RATE_HZ
        and runs[0][0] == 0
        and max(map(abs, lags)) <= RATE_HZ // 1000
        and max(errors) < 8.0  # a picture of the wrong clip or instant differs by far more
    )
    if not good:
        raise SystemExit(f"{out}: not as it must be: {found}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--grid-s1", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folders = {"clips": arguments.clips, "grid_s1": arguments.grid_s1}
    paths = [folders[folder] / name for folder, name in ORDER]
    out = arguments.out / "session.mp4"
    write_session(paths, out)
    sys.stdout.write(json.dumps(check(paths, out)) + "\n")


if __name__ == "__main__":
    main()
