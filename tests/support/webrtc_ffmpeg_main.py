"""FFmpeg's WHIP muxer, as PyAV carries it, sends until it is told to stop: run as a process.

It holds the interpreter's lock while it connects, so it cannot run beside the engine.

    python -m tests.support.webrtc_ffmpeg_main URL CERTIFICATE KEY
"""

from __future__ import annotations

import sys
import time
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

WIDTH, HEIGHT, RATE = 320, 240, 30


def picture(number: int) -> av.VideoFrame:
    grey = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    grey[:HEIGHT] = 16 + number % 200
    frame = av.VideoFrame.from_ndarray(grey, format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, RATE)
    return frame


def sound(number: int) -> av.AudioFrame:
    at = np.arange(960) + number * 960
    tone = (np.sin(2 * np.pi * 440 * at / 48_000) * 16_000).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(
        np.repeat(tone, 2).reshape(1, -1), format="s16", layout="stereo"
    )
    frame.sample_rate, frame.pts, frame.time_base = 48_000, number * 960, Fraction(1, 48_000)
    return frame


def main(url: str, certificate: str, key: str) -> None:
    # Its own certificates are of a curve (P-224) that OpenSSL no longer speaks.
    options = {"cert_file": certificate, "key_file": key}
    with av.open(url, "w", format="whip", options=options) as output:
        video, audio = output.add_stream("libx264", rate=RATE), output.add_stream("libopus", 48_000)
        assert isinstance(video, VideoStream)
        assert isinstance(audio, AudioStream)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"tune": "zerolatency", "preset": "ultrafast", "profile": "baseline"}
        video.gop_size = RATE
        audio.layout = "stereo"
        output.start_encoding()
        start = time.monotonic()
        pictures = sounds = 0
        while True:
            passed = time.monotonic() - start
            while pictures / RATE <= passed:
                output.mux(video.encode(picture(pictures)))
                pictures += 1
            while sounds / 50 <= passed:
                output.mux(audio.encode(sound(sounds)))
                sounds += 1
            time.sleep(0.002)


if __name__ == "__main__":
    main(*sys.argv[1:])
