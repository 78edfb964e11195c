"""Chromium with fake camera and microphone as a sender whose own view of its media is known.

The page reads the very tracks that it sends (`MediaStreamTrackProcessor`, so before any encoder)
and notes when, by Chromium's capture time, a flash and a beep were there. Chromium stamps pictures
with CLOCK_MONOTONIC and sound with `performance.now`'s clock; the offset between both is asked for
over the debugging connection, by the quickest of many questions (Cristian, 1989).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import clip
from counterpoint.streams.runtime import SystemRuntime
from tests.support.browser import Capture, open_chromium

if TYPE_CHECKING:
    from playwright.async_api import Page

QUESTIONS = 50
NS_PER_MS = 1_000_000
# What may lie between a capture time and its reading in the page; else it is of another clock.
MOST_DELAY_NS = 1_000_000_000

_PAGE = """
async () => {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: {width: WIDTH, height: HEIGHT, frameRate: FPS},
    audio: {echoCancellation: false, noiseSuppression: false, autoGainControl: false},
  });
  const seen = window.seen = {pictures: [], beeps: [], error: null};
  const watch = async (track, take) => {
    const reader = new MediaStreamTrackProcessor({track}).readable.getReader();
    try {
      for (;;) {
        const {done, value} = await reader.read();
        if (done) return;
        await take(value);
        value.close();
      }
    } catch (error) { seen.error = String(error); }
  };
  let planes = new Uint8Array(0);
  watch(stream.getVideoTracks()[0], async (frame) => {
    const readAt = performance.now();
    if (planes.length < frame.allocationSize()) planes = new Uint8Array(frame.allocationSize());
    await frame.copyTo(planes);
    seen.pictures.push([frame.timestamp / 1e3, readAt, planes[0]]);
  });
  let quiet = 0;
  watch(stream.getAudioTracks()[0], (data) => {
    const readAt = performance.now();
    const samples = new Float32Array(data.numberOfFrames);
    data.copyTo(samples, {planeIndex: 0, format: "f32-planar"});
    samples.forEach((sample, index) => {
      if (Math.abs(sample) < 0.02) { quiet += 1; return; }
      const beginsAt = data.timestamp / 1e3 + index * 1e3 / data.sampleRate;
      if (quiet > data.sampleRate / 4) seen.beeps.push([beginsAt, readAt]);
      quiet = 0;
    });
  });
  const pc = window.pc = new RTCPeerConnection();
  for (const track of stream.getTracks()) pc.addTrack(track, stream);
  await pc.setLocalDescription();
  while (pc.iceGatheringState !== "complete")
    await new Promise((go) => pc.addEventListener("icegatheringstatechange", go, {once: true}));
  const answer = await window.answer(pc.localDescription.sdp);
  await pc.setRemoteDescription({type: "answer", sdp: answer});
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was sent, by the sender's capture times.

    Fields:
        flashes_ns, beeps_ns: instants of CLOCK_MONOTONIC.
    """

    flashes_ns: list[int]
    beeps_ns: list[int]


class ChromiumSender:
    """Made by `sending`."""

    def __init__(self, page: Page, runtime: SystemRuntime) -> None:
        self._page = page
        self._runtime = runtime

    async def seen(self) -> Seen:
        """What was sent so far.

        Raises:
            RuntimeError: the page could not read its own tracks, or their clocks are unknown.
        """
        origin_ns = await self._origin_ns()
        seen = await self._page.evaluate("window.seen")
        if seen["error"] is not None:
            raise RuntimeError(f"the page cannot read its own tracks: {seen['error']}")

        def shift_ns(pairs: list[tuple[float, float]]) -> int:
            """What makes these capture times (paired with their reading) CLOCK_MONOTONIC."""
            at_ms, read_ms = median(at for at, _ in pairs), median(read for _, read in pairs)
            for shift in (origin_ns, 0):
                if abs(origin_ns + (read_ms - at_ms) * NS_PER_MS - shift) < MOST_DELAY_NS:
                    return shift
            raise RuntimeError(
                f"this Chromium's capture times are of a clock that is not known: {at_ms} ms "
                f"where performance.now says {read_ms} ms"
            )

        pictures_ns = shift_ns([(at, read) for at, read, _ in seen["pictures"]])
        sound_ns = shift_ns(seen["beeps"])
        frames = [(pictures_ns + round(at * NS_PER_MS), y) for at, _, y in seen["pictures"]]
        return Seen(
            flashes_ns=clip.flashes_ns(frames),
            beeps_ns=[sound_ns + round(at * NS_PER_MS) for at, _ in seen["beeps"]],
        )

    async def _origin_ns(self) -> int:
        """CLOCK_MONOTONIC where `performance.now` is 0, to half of the quickest round trip."""
        found: list[tuple[int, int]] = []
        for _ in range(QUESTIONS):
            asked_ns = self._runtime.now_ns()
            answer_ms: float = await self._page.evaluate("performance.now()")
            answered_ns = self._runtime.now_ns()
            middle_ns = (asked_ns + answered_ns) // 2
            found.append((answered_ns - asked_ns, middle_ns - round(answer_ms * NS_PER_MS)))
        return min(found)[1]


@asynccontextmanager
async def sending(
    folder: Path, seconds: int, answer: Callable[[str], Awaitable[str]], runtime: SystemRuntime
) -> AsyncIterator[ChromiumSender]:
    """Chromium sends the clip while the block lasts.

    Args:
        folder: for the clip's files.
        seconds: length of the clip, which is played again and again.
        answer: from the page's offer to the answer.
    """
    # Written beside the loop: tens of megabytes.
    video, audio = await asyncio.to_thread(clip.write, folder, seconds)
    script = _PAGE
    for name, value in (("WIDTH", clip.WIDTH), ("HEIGHT", clip.HEIGHT), ("FPS", clip.FPS)):
        script = script.replace(name, str(value))
    async with open_chromium(Capture(video=video, audio=audio)) as browser:
        page = await browser.new_page()
        # An address of a secure context, where cameras may be used; nothing listens there.
        await page.route(
            "**/*", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
        )
        await page.goto("http://localhost/")
        await page.expose_function("answer", answer)
        await page.evaluate(script)
        yield ChromiumSender(page, runtime)
