"""A real Chromium for tests, with a fake camera and microphone, driven through Playwright."""

from __future__ import annotations

import importlib.util
import shutil
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av

from tests.support.requirements import require

if TYPE_CHECKING:
    from playwright.async_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
CAPTURE_RATE_HZ = 48_000

_ARGUMENTS = (
    "--no-sandbox",
    "--headless=new",
    "--use-fake-device-for-media-stream=fps=30",
    "--use-fake-ui-for-media-stream",
    # A machine may have loopback only, and who sends no media is given no host addresses else.
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--disable-gpu",
    "--mute-audio",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """Files that Chromium plays, again and again, as camera and microphone."""

    video: Path
    audio: Path

    def arguments(self) -> list[str]:
        return [
            f"--use-file-for-fake-video-capture={self.video}",
            f"--use-file-for-fake-audio-capture={self.audio}",
        ]


def executable() -> str | None:
    """The system's Chromium, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def require_chromium() -> None:
    """Skip (in CI: fail) where Chromium or Playwright is missing."""
    require("Chromium", executable() is not None, "install Debian's `chromium`")
    there = importlib.util.find_spec("playwright") is not None
    require("Playwright", there, "install the dev extra")


@asynccontextmanager
async def open_chromium(capture: Capture | None = None) -> AsyncIterator[Browser]:
    """Chromium, headless; its camera and microphone show ``capture``, or a test picture."""
    from playwright.async_api import async_playwright

    arguments = [*_ARGUMENTS, *(capture.arguments() if capture else [])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable(), args=arguments, headless=True
        )
        try:
            yield browser
        finally:
            await browser.close()


def write_capture(clip: Path, folder: Path) -> Capture:
    """A clip as files that Chromium takes for a camera (Y4M) and a microphone (WAV, 48 kHz)."""
    capture = Capture(video=folder / "camera.y4m", audio=folder / "microphone.wav")
    with av.open(str(clip)) as container, capture.video.open("wb") as out:
        stream = container.streams.video[0]
        rate = stream.average_rate
        if rate is None:
            raise ValueError(f"{clip} states no rate of pictures")
        size = f"W{stream.width} H{stream.height}"
        header = f"YUV4MPEG2 {size} F{rate.numerator}:{rate.denominator} Ip A1:1 C420jpeg\n"
        out.write(header.encode())
        for frame in container.decode(stream):
            out.write(b"FRAME\n")
            out.write(frame.to_ndarray(format="yuv420p").tobytes())
    with av.open(str(clip)) as container, wave.open(str(capture.audio), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(CAPTURE_RATE_HZ)
        resampler = av.AudioResampler(format="s16", layout="mono", rate=CAPTURE_RATE_HZ)
        for chunk in container.decode(audio=0):
            for part in resampler.resample(chunk):
                sound.writeframes(part.to_ndarray().tobytes())
        for part in resampler.resample(None):
            sound.writeframes(part.to_ndarray().tobytes())
    return capture
