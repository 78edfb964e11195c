"""Clients that are not ours, and the least of an endpoint that they can post an offer to."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiortc.rtcdtlstransport import RTCCertificate
from cryptography.hazmat.primitives import serialization

from counterpoint.streams.webrtc import Peer
from tests.support.requirements import require

ROOT = Path(__file__).parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's bindings to GStreamer are its own
STOP_S = 10.0


@asynccontextmanager
async def endpoint(peer: Peer, answered: asyncio.Event) -> AsyncIterator[str]:
    """A URL on loopback; the first offer that is posted to it is the peer's."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
        body = (await reader.readexactly(int(lines.get("content-length", 0)))).decode()
        if head.startswith("POST"):
            answer = (await peer.answer(body)).encode()
            answered.set()
            status = "201 Created\r\nLocation: /whip/1\r\nContent-Type: application/sdp"
        else:
            answer, status = b"", "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(answer)}\r\n\r\n".encode())
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/whip"
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def ffmpeg(url: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """FFmpeg's WHIP muxer: H.264 and Opus.

    Args:
        folder: for its certificate.
    """
    made = RTCCertificate.generateCertificate()
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made._cert.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        made._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    module = "tests.support.webrtc_ffmpeg_main"
    async with _process(sys.executable, "-m", module, url, str(certificate), str(key)) as process:
        yield process


def require_gstreamer() -> None:
    """Skip, or fail where all is required, without GStreamer and its bindings."""
    names = "'Gst', '1.0'), ('GstWebRTC', '1.0'), ('GstSdp', '1.0'"
    check = (
        f"import gi; [gi.require_version(*v) for v in (({names}),)]; "
        "from gi.repository import Gst; Gst.init(None); "
        "parts = 'webrtcbin nicesrc vp8enc rtpvp8pay opusenc rtpopuspay dtlsdec srtpenc'.split(); "
        "raise SystemExit(not all(map(Gst.ElementFactory.find, parts)))"
    )
    there = (
        Path(SYSTEM_PYTHON).exists()
        and not subprocess.run(
            [SYSTEM_PYTHON, "-c", check], capture_output=True, check=False
        ).returncode
    )
    require("GStreamer", there, "install gstreamer1.0-plugins-bad, gstreamer1.0-nice, python3-gi")


@asynccontextmanager
async def gstreamer(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """GStreamer's webrtcbin: VP8 and Opus, with an RSA certificate. See `require_gstreamer`."""
    script = str(Path(__file__).with_name("webrtc_gstreamer_main.py"))
    async with _process(SYSTEM_PYTHON, script, url) as process:
        yield process


@asynccontextmanager
async def _process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        async with asyncio.timeout(STOP_S):
            await process.wait()
