"""How far mapped time lies from the truth when a sender's clocks drift, for eight simulated hours.

A sender of known truth: sound at 48 kHz whose clock is ``ppm`` fast, pictures at 90 kHz whose clock
is right, a packet of each every 100 ms, 20 ms of path and 10 ms of jitter upon it, 2 % lost and 1 %
out of order. With Sender Reports (tier ``sr``) the clock that stamps them is 80 ppm slow besides.
Errors are taken after the first 30 s, in milliseconds, as amounts:

- ``audio_video``: how far sound and pictures of one instant are mapped apart. What matters.
- ``audio``: how far the sound's time lies from capture plus the path's 20 ms, which cannot be seen
  from one side.
- ``p50``, ``p99``, ``max`` of each; ``epochs``: breaks of the timeline, which should be none.

No time is measured: the figures are the same on every machine.

    python -m benchmarks.drift [--hours 8] [--out FILE]

The last line of output is one JSON document.
"""

from __future__ import annotations

import argparse
import heapq
from pathlib import Path

import numpy as np

from benchmarks.machine import circumstances, finish
from counterpoint.streams.clock import RtpClock, SenderOffset
from counterpoint.streams.types import NS_PER_S, Modality
from tests.support.rtp_sender import MS, Packet, Track

PPM = (-500, -100, 0, 20, 100, 500)
PATH_NS = 20 * MS


def simulate(ppm: int, reports: bool, hours: float) -> dict[str, object]:
    """One session: errors after the first 30 s."""
    first = (1_300 * MS, NS_PER_S) if reports else (None, None)
    tracks = (
        Track(
            name="audio",
            rate_hz=48_000,
            media_ppm=ppm,
            sender_ppm=-80,
            first_timestamp=(1 << 32) - 48_000,
            reports_from_ns=first[0],
            path_ns=PATH_NS,
            loss=0.02,
            late=0.01,
        ),
        Track(
            name="video",
            rate_hz=90_000,
            sender_ppm=-80,
            first_timestamp=1 << 31,
            reports_from_ns=first[1],
            reports_every_ns=NS_PER_S,
            path_ns=PATH_NS,
            loss=0.02,
            late=0.01,
        ),
    )
    offset = SenderOffset()
    clocks = (
        RtpClock("microphone", Modality.AUDIO, 48_000, offset),
        RtpClock("camera", Modality.VIDEO, 90_000, offset),
    )
    errors: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def tagged(which: int) -> list[tuple[int, int, Packet]]:
        until_ns = int(hours * 3_600) * NS_PER_S
        return [(p.arrived_ns, which, p) for p in tracks[which].packets(until_ns)]

    for arrived_ns, which, packet in heapq.merge(
        tagged(0), tagged(1), key=lambda arrival: arrival[:2]
    ):
        clock = clocks[which]
        if packet.ntp is not None:
            clock.report(which, packet.ntp, packet.timestamp, arrived_ns)
            continue
        media_ns = clock.packet(which, packet.timestamp, arrived_ns)
        if media_ns is None:
            raise RuntimeError("the sender has one SSRC a track, none can be gone")
        t_ns = clock.map(media_ns)
        if packet.true_ns >= 30 * NS_PER_S:
            errors[which][packet.true_ns] = t_ns - packet.true_ns - PATH_NS
    audio, video = errors
    return {
        "audio_video": amounts([audio[at] - video[at] for at in audio.keys() & video.keys()]),
        "audio": amounts(list(audio.values())),
        "epochs": sum(clock.clock.epoch for clock in clocks),
    }


def amounts(errors_ns: list[int]) -> dict[str, float]:
    """p50, p99 and greatest amount, milliseconds."""
    sizes = np.abs(np.array(errors_ns)) / MS
    return {
        "p50": round(float(np.percentile(sizes, 50)), 3),
        "p99": round(float(np.percentile(sizes, 99)), 3),
        "max": round(float(sizes.max()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hours", type=float, default=8, help="simulated length of a session")
    parser.add_argument("--out", type=Path, help="also write the JSON document there")
    arguments = parser.parse_args()
    tiers: dict[str, dict[str, object]] = {}
    for tier in ("arrival", "sr"):
        tiers[tier] = {}
        for ppm in PPM:
            result = simulate(ppm, tier == "sr", arguments.hours)
            tiers[tier][str(ppm)] = result
            print(f"{tier:8} {ppm:+5d} ppm", result)
    document: dict[str, object] = {
        "benchmark": "drift",
        **circumstances(),
        "hours": arguments.hours,
        "error_ms": tiers,
    }
    finish(document, arguments.out)


if __name__ == "__main__":
    main()
