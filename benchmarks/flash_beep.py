"""How far apart flash and beep are for the engine, which coincide once a second at the sender.

Two senders: Chromium whose fake camera and microphone play the clip (VP8 and Opus), and FFmpeg's
WHIP muxer (H.264 and Opus) in a process of its own. Received by a `Peer`, as the engine does; what
it hands over is searched for flashes and beeps. Positive: the beep is later.

- ``truth``: beep less flash at the sender. Chromium's two fake devices start and loop on their own,
  so there it is read from the tracks that are sent, event by event (`benchmarks.chromium_sender`).
  FFmpeg is given both with the same timestamp.
- ``engine``: beep less flash by the session times of what the engine was handed.
- ``error``: engine less truth of the same event. What the targets are about: the median's amount
  at most 15 ms from Chromium, 5 ms from FFmpeg.
- ``arrival``: before both tracks' Sender Reports are accepted. ``sr``: from then on. ``settled``:
  20 s later, when the correction of at most 5 ms a second is over.
- Opus looks 312 samples (6.5 ms) ahead, so what is decoded is late by as much. FFmpeg takes that
  off its timestamps, Chromium does not, and nothing that is sent says so: it is in Chromium's
  ``error``.
- ``video``, ``audio``: by how much each alone is later than its capture (Chromium only: the same
  clock on both sides).

    python -m benchmarks.flash_beep [--seconds 90] [--senders chromium ffmpeg] [--report FILE.md]

The last line of output is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import clip
from benchmarks.chromium_sender import Seen, sending
from benchmarks.machine import ROOT, circumstances, finish
from benchmarks.report import table, write_page
from counterpoint.engine.server.app import make_app
from counterpoint.engine.server.port import Joined
from counterpoint.engine.server.serve import serving
from counterpoint.engine.server.settings import ServerSettings
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import NS_PER_S, Modality, Tier
from counterpoint.streams.webrtc import Peer, PeerSettings, PeerStats
from tests.support.live_sessions import FakeLiveSessions
from tests.support.webrtc import CollectingFeed

MS = 1_000_000
CLIP_S = 10
SETTLE_NS = 20 * NS_PER_S
TARGET_MS = {"chromium": 15.0, "ffmpeg": 5.0}
PHASES = ("arrival", "sr", "settled")


class Receiver(FakeLiveSessions):
    """Takes one peer and keeps what it hands over."""

    def __init__(self, runtime: SystemRuntime) -> None:
        super().__init__()
        self.feed = CollectingFeed(runtime)
        self.stats: PeerStats | None = None
        self._runtime = runtime
        self._task: asyncio.Task[None] | None = None

    async def join(self, session: str, participant: str, offer: str) -> Joined:
        del participant
        self.sessions[session] = {"only"}
        return Joined(connection="only", answer=await self.answer(offer), etag="only")

    async def answer(self, offer: str) -> str:
        peer = Peer("sender", self._runtime, PeerSettings(loopback=True))
        answer = await peer.answer(offer)
        self._task = asyncio.create_task(self._run(peer))
        return answer

    async def _run(self, peer: Peer) -> None:
        try:
            await peer.run(self.feed)
        finally:
            self.stats = peer.stats()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One flash and its beep, session times at the engine.

    Fields:
        truth_ns: beep less flash at the sender.
        video_late_ns, audio_late_ns: less the capture instants; None where they are not known.
    """

    flash_ns: int
    beep_ns: int
    truth_ns: int
    video_late_ns: int | None = None
    audio_late_ns: int | None = None

    @property
    def engine_ns(self) -> int:
        return self.beep_ns - self.flash_ns

    @property
    def error_ns(self) -> int:
        return self.engine_ns - self.truth_ns


def found(feed: CollectingFeed) -> tuple[list[int], list[int]]:
    """Session times of flashes and beeps that were handed over."""
    frames = [(frame.t_ns, float(frame.y.mean())) for frame in feed.frames]
    pieces = [clip.Sound(t_ns=chunk.t_ns, samples=chunk.samples) for chunk in feed.chunks]
    return clip.flashes_ns(frames), clip.beeps_ns(pieces)


def nearest(times_ns: list[int], to_ns: int) -> int | None:
    """The nearest, if it is within half a second."""
    best = min(times_ns, key=lambda t_ns: abs(t_ns - to_ns), default=None)
    return best if best is not None and abs(best - to_ns) < NS_PER_S // 2 else None


def together(feed: CollectingFeed) -> list[Event]:
    """Events of a sender that gives flash and beep the same timestamp."""
    flashes, beeps = found(feed)
    pairs = [(flash, nearest(beeps, flash)) for flash in flashes]
    return [Event(flash_ns=f, beep_ns=b, truth_ns=0) for f, b in pairs if b is not None]


def apart(feed: CollectingFeed, seen: Seen) -> list[Event]:
    """Events whose capture instants are known: each is matched with what it became."""
    flashes, beeps = found(feed)
    events: list[Event] = []
    for captured_ns in seen.flashes_ns:
        heard_ns = nearest(seen.beeps_ns, captured_ns)
        if heard_ns is None:
            continue
        flash_ns = nearest(flashes, feed.session_ns(captured_ns))
        beep_ns = nearest(beeps, feed.session_ns(heard_ns))
        if flash_ns is not None and beep_ns is not None:
            events.append(
                Event(
                    flash_ns=flash_ns,
                    beep_ns=beep_ns,
                    truth_ns=heard_ns - captured_ns,
                    video_late_ns=flash_ns - feed.session_ns(captured_ns),
                    audio_late_ns=beep_ns - feed.session_ns(heard_ns),
                )
            )
    return events


async def from_chromium(seconds: int, folder: Path) -> tuple[Receiver, list[Event]]:
    with SystemRuntime() as runtime:
        receiver = Receiver(runtime)
        async with sending(folder, CLIP_S, receiver.answer, runtime) as sender:
            await asyncio.sleep(seconds)
            seen = await sender.seen()
            await receiver.stop()
        return receiver, apart(receiver.feed, seen)


async def from_ffmpeg(seconds: int, folder: Path) -> tuple[Receiver, list[Event]]:
    settings = ServerSettings()
    with SystemRuntime() as runtime:
        receiver = Receiver(runtime)
        async with serving(make_app(receiver, settings, runtime), settings, runtime) as url:
            sender = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.whip_sender", f"{url}/whip/clip", str(folder)),
                *("--seconds", str(seconds)),
                cwd=ROOT,
            )
            if code := await sender.wait():
                print(f"FFmpeg's sender broke off (exit code {code}); what came before counts")
            await receiver.stop()
        return receiver, together(receiver.feed)


SENDERS: Mapping[str, Callable[..., object]] = {"chromium": from_chromium, "ffmpeg": from_ffmpeg}


def reports_from_ns(feed: CollectingFeed) -> int | None:
    """Session time from which both tracks go by Sender Reports; None if they never did."""
    since: dict[Modality, int] = {}
    for update in feed.updates:
        if update.tier is not Tier.REPORTS:
            since.pop(update.modality, None)
        else:
            since.setdefault(update.modality, update.t_ns)
    return max(since.values()) if len(since) == 2 else None


def by_phase(events: list[Event], from_ns: int | None) -> dict[str, list[Event]]:
    """Events before both tracks went by reports, after, and once that has settled."""
    if from_ns is None:
        return {"arrival": events, "sr": [], "settled": []}
    return {
        "arrival": [event for event in events if event.flash_ns < from_ns],
        "sr": [event for event in events if event.flash_ns >= from_ns],
        "settled": [event for event in events if event.flash_ns >= from_ns + SETTLE_NS],
    }


def summary(values_ns: list[int]) -> dict[str, float]:
    """Median, p5 and p95 in milliseconds."""
    p5, p50, p95 = np.percentile(values_ns, [5, 50, 95]) / MS
    return {"p5": round(p5, 2), "median": round(p50, 2), "p95": round(p95, 2)}


def figures(events: list[Event]) -> dict[str, object]:
    """All that is told of one phase."""
    told: dict[str, object] = {"events": len(events)}
    if events:
        told["truth_ms"] = summary([event.truth_ns for event in events])
        told["engine_ms"] = summary([event.engine_ns for event in events])
        told["error_ms"] = summary([event.error_ns for event in events])
        for name in ("video", "audio"):
            late = [getattr(event, f"{name}_late_ns") for event in events]
            if None not in late:
                told[f"{name}_late_ms"] = summary(late)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=90, help="from each sender")
    parser.add_argument("--senders", nargs="+", choices=SENDERS, default=list(SENDERS))
    parser.add_argument("--report", type=Path, help="also write a page with the tables there")
    parser.add_argument("--out", type=Path, help="also write the JSON document there")
    arguments = parser.parse_args()
    told: dict[str, dict[str, object]] = {}
    rows: list[list[object]] = []
    for name in arguments.senders:
        play = from_chromium if name == "chromium" else from_ffmpeg
        with tempfile.TemporaryDirectory() as folder:
            receiver, events = asyncio.run(play(arguments.seconds, Path(folder)))
        phases = by_phase(events, reports_from_ns(receiver.feed))
        told[name] = {phase: figures(phases[phase]) for phase in PHASES}
        stats = receiver.stats
        told[name]["reports"] = 0 if stats is None else stats.reports_taken
        told[name]["target_ms"] = TARGET_MS[name]
        rows += [row(name, phase, phases[phase]) for phase in PHASES]
    head = ["sender", "clock", "events", "truth ms", "engine ms (p5…p95)", "error ms (p5…p95)"]
    printed = table([*head, "video late", "audio late"], rows)
    print(printed)
    document: dict[str, object] = {
        "benchmark": "flash_beep",
        **circumstances(),
        "seconds": arguments.seconds,
        "senders": told,
    }
    if arguments.report is not None:
        about = __doc__.split("    python -m")[0].strip()
        write_page(arguments.report, "Flash and beep", [about, printed], document)
    finish(document, arguments.out)


def row(name: str, phase: str, events: list[Event]) -> list[object]:
    """One line of the table."""
    if not events:
        return [name, phase, 0, None, None, None, None, None]

    def spread(values: list[int]) -> str:
        told = summary(values)
        return f"{told['median']:.2f} ({told['p5']:.2f}…{told['p95']:.2f})"

    late = [
        [late_ns for late_ns in each if late_ns is not None]
        for each in zip(*((e.video_late_ns, e.audio_late_ns) for e in events), strict=True)
    ]
    return [
        name,
        phase,
        len(events),
        spread([event.truth_ns for event in events]),
        spread([event.engine_ns for event in events]),
        spread([event.error_ns for event in events]),
        *(f"{np.median(each) / MS:.2f}" if each else None for each in late),
    ]


if __name__ == "__main__":
    main()
