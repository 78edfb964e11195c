"""WHIP clients that are not ours, each in a process of its own, since all they do blocks."""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from aiortc.rtcdtlstransport import RTCCertificate
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.programs import Program, program
from tests.support.webrtc_whip import SYSTEM_PYTHON

_HERE = Path(__file__).parent
CLIP = _HERE.parent / "data" / "grid_clip.mp4"


def ffmpeg(url: str, **options: str) -> AbstractAsyncContextManager[Program]:
    """FFmpeg's WHIP muxer sends a clip again and again: H.264 and Opus.

    Args:
        options: the muxer's, e.g. ``authorization``; see `write_certificate`.
    """
    given = [f"{name}={value}" for name, value in options.items()]
    main = str(_HERE / "whip_ffmpeg_main.py")
    return program(sys.executable, main, url, str(CLIP), *given)


def gstreamer(url: str, *, trickle: bool = False) -> AbstractAsyncContextManager[Program]:
    """GStreamer's webrtcbin sends a moving picture and a tone: VP8 and Opus.

    Args:
        trickle: offer at once, and send candidates after it.
    """
    main = str(_HERE / "whip_gstreamer_main.py")
    return program(SYSTEM_PYTHON, main, url, *(["trickle"] if trickle else []))


def write_certificate(folder: Path) -> dict[str, str]:
    """A self-signed P-256 certificate, as options of the muxer.

    An FFmpeg with GnuTLS, as in PyAV's wheels, makes itself one on P-224 where it is given none,
    and OpenSSL speaks no such curve any more.
    """
    made = RTCCertificate.generateCertificate()
    cert_file, key_file = folder / "certificate.pem", folder / "key.pem"
    cert_file.write_bytes(made._cert.public_bytes(Encoding.PEM))
    key_file.write_bytes(
        made._key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    return {"cert_file": str(cert_file), "key_file": str(key_file)}
