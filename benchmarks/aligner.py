"""How many items a second the aligner takes on one core, whatever session and context length.

The items are those of a live session: 30 pictures, 50 chunks of 20 ms of sound at 16 kHz and
one line of chat a second, each arriving a little after it was captured, in order of arrival. They
are made beforehand; what is timed is pushing each one, advancing whenever the aligner has something
to give, and taking the outputs: everything that a session does with the aligner, and nothing else.

- ``items_per_s``: items pushed for each second of CPU time, the best of a few rounds.
- ``ns_per_item``: the same as time for one item, cells and windows included.
- ``by_length``, ``by_context``: items a second for sessions of different lengths and for contexts
  of different lengths. They should not differ by more than the machine's noise.
- ``with_lateness``: the same with an allowed lateness of two seconds, when windows stay open.
- ``bytewax``: the same items counted in its event-time windows, in the same run
  (`benchmarks.bytewax_window` says how little it is asked to do); null where it is not installed.

    python -m benchmarks.aligner [--rounds 5] [--seconds 300] [--out FILE]

The last line of output is one JSON document.
"""

from __future__ import annotations

import argparse
import gc
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks import bytewax_window
from benchmarks.machine import circumstances, finish
from counterpoint.engine.align import Aligner, AlignSpec
from counterpoint.streams.types import AudioChunk, ChatLine, Item, Modality, VideoFrame

MS = 1_000_000
S = 1_000 * MS
SOURCES = {Modality.VIDEO: "camera", Modality.AUDIO: "microphone", Modality.CHAT: "room"}


def session(seconds: int) -> list[tuple[int, Item]]:
    """Arrivals of a session with jitter, sorted by arrival."""
    rng = np.random.default_rng(7)
    grey = np.zeros((2, 2), np.uint8)
    samples = rng.uniform(-1, 1, 320).astype(np.float32)
    arrivals: list[tuple[int, Item]] = []
    for n in range(seconds * 30):
        t_ns = n * S // 30
        item: Item = VideoFrame(source="camera", t_ns=t_ns, y=grey, sequence=n)
        arrivals.append((t_ns + 15 * MS, item))
    for n in range(seconds * 50):
        t_ns = n * 20 * MS
        item = AudioChunk(
            source="microphone", t_ns=t_ns, samples=samples, rate_hz=16_000, sequence=n
        )
        arrivals.append((t_ns + 25 * MS, item))
    for n in range(seconds):
        t_ns = n * S + int(rng.integers(S))
        item = ChatLine(source="room", t_ns=t_ns, author="ann", text="hello", sequence=n)
        arrivals.append((t_ns + 60 * MS, item))
    delays = rng.integers(0, 4 * MS, len(arrivals)).tolist()
    jittered = [(at + extra, item) for (at, item), extra in zip(arrivals, delays, strict=True)]
    return sorted(jittered, key=lambda arrival: arrival[0])


def run(spec: AlignSpec, arrivals: list[tuple[int, Item]]) -> tuple[float, int]:
    """CPU seconds for a session, and the windows it gave."""
    aligner = Aligner(spec, SOURCES)
    begin = time.process_time()
    wake_ns = 0
    for arrived_ns, item in arrivals:
        aligner.push(item, arrived_ns)
        wake_ns = aligner.next_wake_ns() or 0
        if wake_ns <= arrived_ns:
            aligner.advance(arrived_ns)
    aligner.finish(arrivals[-1][0])
    spent = time.process_time() - begin
    aligner.check()
    return spent, aligner.counters().windows


def best(spec: AlignSpec, arrivals: list[tuple[int, Item]], rounds: int) -> dict[str, float]:
    """The best of several rounds."""
    results = [run(spec, arrivals) for _ in range(rounds)]
    spent = min(seconds for seconds, _ in results)
    return {
        "items": len(arrivals),
        "windows": results[0][1],
        "items_per_s": round(len(arrivals) / spent),
        "ns_per_item": round(spent / len(arrivals) * 1e9),
    }


def beside(arrivals: list[tuple[int, Item]], rounds: int) -> dict[str, float | str] | None:
    """What bytewax does with the same items; None without it."""
    if not bytewax_window.available():
        return None
    results = [bytewax_window.run(arrivals, AlignSpec().hop_ns) for _ in range(rounds)]
    spent = min(seconds for seconds, _, _ in results)
    _, windows, counted = results[0]
    if counted != len(arrivals):
        raise RuntimeError(f"bytewax counted {counted} of {len(arrivals)} items")
    return {
        "version": version("bytewax"),
        "windows": windows,
        "items_per_s": round(len(arrivals) / spent),
        "ns_per_item": round(spent / len(arrivals) * 1e9),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=300, help="length of the session")
    parser.add_argument("--out", type=Path, help="also write the JSON document there")
    arguments = parser.parse_args()
    gc.disable()
    arrivals = session(arguments.seconds)
    overall = best(AlignSpec(), arrivals, arguments.rounds)
    lengths = {
        str(seconds): best(AlignSpec(), session(seconds), arguments.rounds)["items_per_s"]
        for seconds in (arguments.seconds // 10, arguments.seconds * 4)
    }
    contexts = {
        str(seconds): best(
            AlignSpec(
                video_context_ns=seconds * S,
                audio_context_ns=seconds * S,
                chat_context_ns=seconds * S,
            ),
            arrivals,
            arguments.rounds,
        )["items_per_s"]
        for seconds in (1, 60)
    }
    patient = best(AlignSpec(lateness_ns=2 * S), arrivals, arguments.rounds)
    other = beside(arrivals, arguments.rounds)
    print(f"{overall['items_per_s']:,} items/s, {overall['ns_per_item']} ns an item")
    print("by length of session:", {f"{k} s": f"{v:,}" for k, v in lengths.items()})
    print("by length of contexts:", {f"{k} s": f"{v:,}" for k, v in contexts.items()})
    print(f"with a lateness of 2 s: {patient['items_per_s']:,} items/s")
    if other is None:
        print("bytewax is not installed; pip install -e .[bench]")
    else:
        print(f"bytewax, counting only: {other['items_per_s']:,} items/s")
    document: dict[str, object] = {
        "benchmark": "aligner",
        **circumstances(),
        "session_seconds": arguments.seconds,
        **overall,
        "by_length": lengths,
        "by_context": contexts,
        "with_lateness": patient,
        "bytewax": other,
    }
    finish(document, arguments.out)


if __name__ == "__main__":
    main()
