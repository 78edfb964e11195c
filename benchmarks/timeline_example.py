"""The picture in the README: ten seconds of a session in which much goes wrong, from one seed.

A camera of 30 pictures a second stalls for 1.3 s; a microphone loses packets, and half a second of
its sound comes late, in a burst; somebody writes, then nobody does; the network jitters. Windows
have a deadline of 300 ms and a lateness of 1.2 s, so what came late is given again.

    python -m benchmarks.timeline_example [--seed 7] [--out docs/images/timeline.svg]
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from counterpoint.engine.align import AlignSpec
from counterpoint.engine.timeline import trace
from counterpoint.engine.timeline_svg import draw
from counterpoint.streams.types import (
    AudioChunk,
    Bound,
    ChatLine,
    ClockUpdate,
    Item,
    Modality,
    Tier,
    VideoFrame,
)

MS = 1_000_000
S = 1_000 * MS
LENGTH_NS = 10 * S
SENT_NS = 12 * S
TITLE = "One session: a camera that stalls, sound that comes late, a chat that falls silent"
SOURCES = {Modality.VIDEO: "camera", Modality.AUDIO: "microphone", Modality.CHAT: "chat"}
SPEC = AlignSpec(
    hop_ns=250 * MS,
    video_context_ns=1 * S,
    audio_context_ns=1 * S,
    chat_context_ns=4 * S,
    video_tolerance_ns=60 * MS,
    audio_rate_hz=16_000,
    chat_max_lines=8,
    deadline_ns=300 * MS,
    idle_ns=1 * S,
    stalled_ns=1_100 * MS,
    chat_delay_ns=200 * MS,
    lateness_ns=1_200 * MS,
)


def session(seed: int) -> list[tuple[int, Item]]:
    """Arrivals, in order."""
    rng = random.Random(f"timeline/{seed}")

    def delay_ns() -> int:
        return 20 * MS + int(abs(rng.gauss(0, 12)) * MS)

    arrivals: list[tuple[int, Item]] = [
        (
            0,
            ClockUpdate(
                source=SOURCES[modality],
                modality=modality,
                t_ns=0,
                tier=Tier.REPORTS,
                error_ns=MS,
            ),
        )
        for modality in (Modality.VIDEO, Modality.AUDIO)
    ]
    grey = np.zeros((2, 2), np.uint8)
    for n, t_ns in enumerate(range(9 * MS, SENT_NS, S // 30)):
        if not 3_100 * MS < t_ns < 4_400 * MS:
            frame = VideoFrame(source="camera", t_ns=t_ns, y=grey, sequence=n)
            arrivals.append((t_ns + delay_ns(), frame))
    silence = np.zeros(320, np.float32)
    for n, t_ns in enumerate(range(0, SENT_NS, 20 * MS)):
        lost = 8_200 * MS < t_ns < 8_330 * MS
        burst = 6_000 * MS <= t_ns < 6_500 * MS
        chunk = AudioChunk(
            source="microphone", t_ns=t_ns, samples=silence, rate_hz=16_000, sequence=n
        )
        arrived_ns = 7_150 * MS + t_ns // 50 if burst else t_ns + 20 * MS + delay_ns()
        if not lost:
            arrivals.append((arrived_ns, chunk))
    for n, t_ns in enumerate((700 * MS, 1_250 * MS, 1_600 * MS, 2_900 * MS)):
        line = ChatLine(source="chat", t_ns=t_ns, author="ada", text="…", sequence=n)
        arrivals.append((t_ns + delay_ns(), line))
    arrivals += [
        (t_ns + 15 * MS, Bound(source="chat", modality=Modality.CHAT, t_ns=t_ns))
        for t_ns in range(0, SENT_NS, 500 * MS)
    ]
    return sorted(arrivals, key=lambda arrival: arrival[0])


def picture(seed: int) -> str:
    """The SVG document."""
    traced = trace(session(seed), SPEC, SOURCES, until_ns=LENGTH_NS)
    return draw(traced, title=TITLE, to_ns=LENGTH_NS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("docs/images/timeline.svg"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(picture(args.seed), encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
