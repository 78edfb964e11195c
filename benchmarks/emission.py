"""How long after its end a window leaves, under four rules for when its data are complete.

Simulated: 30 pictures a second and packets of 20 ms of sound, a window of 250 ms each 250 ms. A
picture arrives 3 ms after its capture, a packet 3 ms after its last sample, each later by the
absolute value of a normal draw with a standard deviation of ``--jitter-ms``. Phases are drawn anew
for each of ten sessions: against the window's end, neither pictures nor packets stand still.

- ``fixed``: the newest time of each source less 100 ms, as Flink's BoundedOutOfOrderness.
- ``next``: a source is complete up to the time of its newest item, plus one; MediaPipe's default.
- ``duration``: up to the newest item's time plus its duration (nominal for pictures).
- ``counterpoint``: the engine's own `Aligner`, with no help: sound is contiguous, pictures are
  complete once none is expected before the end, by the smallest gap learned.

``p50``, ``p99`` and ``max`` are milliseconds from a window's end to its emission, on the session's
time: queueing and computing are not in it. The first two seconds, in which gaps are learned, are.

    python -m benchmarks.emission [--minutes 10] [--jitter-ms 5] [--out FILE]

The last line of output is one JSON document.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import circumstances, finish
from counterpoint.engine.align import Aligner, AlignSpec, Window
from counterpoint.streams.types import AudioChunk, Item, Modality, VideoFrame

MS = 1_000_000
S = 1_000 * MS
FRAME_NS = S // 30
PACKET_NS = 20 * MS
OUT_OF_ORDER_NS = 100 * MS
SESSIONS = 10
SOURCES = {Modality.VIDEO: "camera", Modality.AUDIO: "microphone"}

Arrival = tuple[int, Item]


def session(number: int, length_ns: int, jitter_ms: float) -> list[Arrival]:
    """Arrivals of one session, sorted; the phases of both sources are drawn from its number."""
    rng = random.Random(f"emission/{number}")
    grey = np.zeros((2, 2), np.uint8)
    samples = np.zeros(PACKET_NS * 16_000 // S, np.float32)

    def delay_ns() -> int:
        return 3 * MS + int(abs(rng.gauss(0, jitter_ms)) * MS)

    arrivals: list[Arrival] = []
    for n, t_ns in enumerate(range(rng.randrange(FRAME_NS), length_ns, FRAME_NS)):
        frame = VideoFrame(source="camera", t_ns=t_ns, y=grey, sequence=n)
        arrivals.append((t_ns + delay_ns(), frame))
    # On the grid of samples, so that only arrivals are at stake.
    start_ns = rng.randrange(320) * 62_500
    for n, t_ns in enumerate(range(start_ns, length_ns, PACKET_NS)):
        chunk = AudioChunk(
            source="microphone", t_ns=t_ns, samples=samples, rate_hz=16_000, sequence=n
        )
        arrivals.append((t_ns + PACKET_NS + delay_ns(), chunk))
    return sorted(arrivals, key=lambda arrival: arrival[0])


def fixed(item: Item) -> int:
    """Bound after an item: a constant is allowed for what may still come before it."""
    return item.t_ns - OUT_OF_ORDER_NS


def following(item: Item) -> int:
    """Bound after an item: the next one is later by a nanosecond at least."""
    return item.t_ns + 1


def duration(item: Item) -> int:
    """Bound after an item: the next one begins where it ends."""
    return item.end_ns if isinstance(item, AudioChunk) else item.t_ns + FRAME_NS


def by_bound(rule: Callable[[Item], int]) -> Callable[[list[Arrival], AlignSpec], list[int]]:
    """Latencies where a window leaves once every source's bound has reached its end."""

    def latencies_ns(arrivals: list[Arrival], spec: AlignSpec) -> list[int]:
        bounds = dict.fromkeys(SOURCES.values(), 0)
        end_ns, found = spec.hop_ns, []
        for at_ns, item in arrivals:
            bounds[item.source] = max(bounds[item.source], rule(item))
            while min(bounds.values()) >= end_ns:
                found.append(max(at_ns, end_ns) - end_ns)
                end_ns += spec.hop_ns
        return found

    return latencies_ns


def by_aligner(arrivals: list[Arrival], spec: AlignSpec) -> list[int]:
    """Latencies of the engine's aligner, advanced at every arrival and every wake."""
    aligner = Aligner(spec, SOURCES)
    found: list[int] = []
    for at_ns, item in arrivals:
        aligner.push(item, at_ns)
        found += [
            output.emitted_ns - output.end_ns
            for output in aligner.advance(at_ns)
            if isinstance(output, Window)
        ]
    return found


RULES: dict[str, Callable[[list[Arrival], AlignSpec], list[int]]] = {
    "fixed": by_bound(fixed),
    "next": by_bound(following),
    "duration": by_bound(duration),
    "counterpoint": by_aligner,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="simulated, over all sessions")
    parser.add_argument("--jitter-ms", type=float, default=5.0)
    parser.add_argument("--out", type=Path, help="also write the JSON document there")
    arguments = parser.parse_args()
    length_ns = int(arguments.minutes * 60 * S / SESSIONS)
    found: dict[str, list[int]] = {name: [] for name in RULES}
    for number in range(SESSIONS):
        arrivals = session(number, length_ns, arguments.jitter_ms)
        for name, rule in RULES.items():
            found[name] += rule(arrivals, AlignSpec())
    figures: dict[str, dict[str, float]] = {}
    for name, latencies_ns in found.items():
        p50, p99 = np.percentile(latencies_ns, [50, 99]) / MS
        figures[name] = {
            "windows": len(latencies_ns),
            "p50_ms": round(float(p50), 1),
            "p99_ms": round(float(p99), 1),
            "max_ms": round(max(latencies_ns) / MS, 1),
        }
        print(f"{name:>13}: p50 {p50:5.1f} ms, p99 {p99:5.1f} ms, of {len(latencies_ns)} windows")
    document: dict[str, object] = {
        "benchmark": "emission",
        **circumstances(),
        "minutes": arguments.minutes,
        "jitter_ms": arguments.jitter_ms,
        "rules": figures,
    }
    finish(document, arguments.out)


if __name__ == "__main__":
    main()
