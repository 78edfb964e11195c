"""FFmpeg's WHIP muxer (inside PyAV) as a process of its own: sends the clip of `benchmarks.clip`.

    python -m benchmarks.whip_sender URL FOLDER --seconds 60

H.264 and Opus at the pace of real time. A picture and the sound of one instant carry the same
timestamp, so at the sender flash and beep are together to a sample.
"""

from __future__ import annotations

import argparse
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from aiortc.rtcdtlstransport import RTCCertificate
from cryptography.hazmat.primitives import serialization

from benchmarks import clip

PACKET = clip.RATE_HZ // 50
TICKS_HZ = 90_000


def certificate(folder: Path) -> dict[str, str]:
    """A P-256 certificate for the muxer: aiortc refuses the RSA one that it makes by itself."""
    made = RTCCertificate.generateCertificate()
    pem = serialization.Encoding.PEM
    cert, key = folder / "whip-cert.pem", folder / "whip-key.pem"
    cert.write_bytes(made._cert.public_bytes(pem))  # noqa: SLF001 - not to be had otherwise
    key.write_bytes(
        made._key.private_bytes(  # noqa: SLF001
            pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return {"cert_file": str(cert), "key_file": str(key)}


def send(url: str, folder: Path, seconds: int) -> None:
    """Send until the time is over.

    Raises:
        av.error.FFmpegError: the server refused, or the connection broke off.
    """
    with av.open(url, "w", format="whip", options=certificate(folder)) as out:
        video = out.add_stream(
            "libx264",
            rate=clip.FPS,
            options={"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline"},
        )
        video.width, video.height, video.pix_fmt = clip.WIDTH, clip.HEIGHT, "yuv420p"
        video.codec_context.gop_size = clip.FPS
        video.codec_context.time_base = Fraction(1, TICKS_HZ)
        audio = out.add_stream("libopus", rate=clip.RATE_HZ, layout="stereo")
        audio.codec_context.time_base = Fraction(1, clip.RATE_HZ)
        sound = (clip.sound(1) * 32_767).astype(np.int16)
        out.start_encoding()  # the handshake
        began, pictures, samples = time.monotonic(), 0, 0
        while pictures < seconds * clip.FPS:
            picture_due = pictures / clip.FPS
            sound_due = (samples + PACKET) / clip.RATE_HZ  # when its last sample is there
            time.sleep(max(0.0, began + min(picture_due, sound_due) - time.monotonic()))
            if picture_due <= sound_due:
                frame = av.VideoFrame.from_ndarray(clip.picture(pictures), format="yuv420p")
                frame.pts, frame.time_base = pictures * TICKS_HZ // clip.FPS, Fraction(1, TICKS_HZ)
                out.mux(video.encode(frame))
                pictures += 1
            else:
                at = samples % clip.RATE_HZ
                both = np.repeat(sound[at : at + PACKET], 2).reshape(1, -1)
                chunk = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
                chunk.sample_rate, chunk.pts = clip.RATE_HZ, samples
                chunk.time_base = Fraction(1, clip.RATE_HZ)
                out.mux(audio.encode(chunk))
                samples += PACKET


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="http://HOST:PORT/whip/SESSION")
    parser.add_argument("folder", type=Path, help="for the certificate")
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    send(arguments.url, arguments.folder, arguments.seconds)


if __name__ == "__main__":
    main()
