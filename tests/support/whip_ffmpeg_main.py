"""FFmpeg's WHIP muxer as a client, in a process of its own, since all it does blocks.

As a program it sends a clip again and again, at its own pace, until its standard input ends:

    python whip_ffmpeg_main.py URL CLIP [OPTION=VALUE ...]

The options are the muxer's. Each line of its output is an object with an ``event``: ``sending``
when the connection stands, ``closed``, or ``failed`` with the error's ``type`` and ``text``.
"""

from __future__ import annotations

import json
import select
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

RATE_HZ = 48_000
SOUND = 960


class _Clip:
    """A clip's pictures and sound (stereo, 20 ms each), without an end."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
            assert rate is not None
            self.rate = rate
            self.pictures = list(container.decode(video=0))
        resampler = av.AudioResampler("s16", "stereo", RATE_HZ, frame_size=SOUND)
        with av.open(str(path)) as container:
            self.sound = [
                out
                for frame in container.decode(audio=0)
                for out in resampler.resample(frame)
                if out.samples == SOUND
            ]

    def picture(self, number: int) -> av.VideoFrame:
        frame = self.pictures[number % len(self.pictures)]
        frame.pts, frame.time_base = number, 1 / self.rate
        frame.pict_type = 0
        return frame

    def chunk(self, number: int) -> av.AudioFrame:
        frame = self.sound[number % len(self.sound)]
        frame.pts, frame.time_base = number * SOUND, Fraction(1, RATE_HZ)
        return frame


def say(event: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"event": event} | more) + "\n")
    sys.stdout.flush()


def send(url: str, path: Path, options: dict[str, str]) -> None:
    """Until standard input ends."""
    clip = _Clip(path)
    with av.open(url, "w", format="whip", options=options) as container:
        video = container.add_stream("libx264", rate=clip.rate)
        assert isinstance(video, av.VideoStream)
        video.width, video.height = clip.pictures[0].width, clip.pictures[0].height
        video.pix_fmt, video.bit_rate = "yuv420p", 800_000
        video.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "profile": "baseline",
            "x264-params": "keyint=25",
        }
        audio = container.add_stream("libopus", rate=RATE_HZ, layout="stereo")
        assert isinstance(audio, av.AudioStream)
        audio.bit_rate = 64_000
        # As with a real camera, time goes on while it connects: it opens with a burst.
        start = time.monotonic()
        container.start_encoding()
        say("sending")
        pictures = chunks = 0
        while True:
            picture_at, chunk_at = float(pictures / clip.rate), chunks * SOUND / RATE_HZ
            wait_s = start + min(picture_at, chunk_at) - time.monotonic()
            if select.select([sys.stdin], [], [], max(0.0, wait_s))[0]:
                break
            if picture_at <= chunk_at:
                container.mux(video.encode(clip.picture(pictures)))
                pictures += 1
            else:
                container.mux(audio.encode(clip.chunk(chunks)))
                chunks += 1
    say("closed")


def main() -> int:
    url, path, *options = sys.argv[1:]
    av.logging.set_level(av.logging.ERROR)  # then errors say more than a number
    try:
        send(url, Path(path), dict(option.split("=", 1) for option in options))
    except av.FFmpegError as error:
        say("failed", type=type(error).__name__, text=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
