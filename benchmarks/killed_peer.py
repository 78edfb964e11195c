"""How long a session lasts after its only client was killed, with the settings that `serve` has.

A client sends pictures and sound, and vanishes without a word. Measured: from then until the engine
lists the session no more, over several clients one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import urllib.request
from pathlib import Path

import numpy as np

from benchmarks.engine_process import EngineProcess, engine_process
from benchmarks.machine import circumstances, finish
from tests.support.webrtc import Client, PatternTrack, ToneTrack

GIVE_UP_S = 60.0
LOOK_EVERY_S = 0.02


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--out", type=Path, help="also write the JSON document there")
    args = parser.parse_args()
    with engine_process() as engine:
        lasted = [await _one(engine, f"killed-{number}") for number in range(args.clients)]
    for seconds in lasted:
        print(f"{seconds:.2f} s")
    print(f"median {np.median(lasted):.2f} s, longest {max(lasted):.2f} s; target: at most 5 s")
    finish(
        {
            "benchmark": "killed_peer",
            **circumstances(),
            "clients": args.clients,
            "median_s": round(float(np.median(lasted)), 3),
            "longest_s": round(max(lasted), 3),
            "target_s": 5.0,
        },
        args.out,
    )


async def _one(engine: EngineProcess, session: str) -> float:
    client = Client(PatternTrack(), ToneTrack(), channel_label="counterpoint")
    try:
        offer = (await client.offer()).encode()
        await client.accept(await asyncio.to_thread(_post, f"{engine.url}/whip/{session}", offer))
        await client.until_open()
        # The greeting, then predictions: media are under way.
        await client.until_received(6)
        client.kill()
        killed_s = time.monotonic()
        while time.monotonic() < killed_s + GIVE_UP_S:
            if not await asyncio.to_thread(_runs, engine, session):
                return time.monotonic() - killed_s
            await asyncio.sleep(LOOK_EVERY_S)
        raise RuntimeError(f"{session} still runs after {GIVE_UP_S:g} s")
    finally:
        await client.close()


def _post(url: str, offer: bytes) -> str:
    request = urllib.request.Request(  # noqa: S310 - our own server
        url, data=offer, headers={"Content-Type": "application/sdp"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return str(answer.read().decode())


def _runs(engine: EngineProcess, session: str) -> bool:
    with urllib.request.urlopen(f"{engine.url}/sessions", timeout=30) as answer:  # noqa: S310
        return f'"{session}"' in answer.read().decode()


if __name__ == "__main__":
    asyncio.run(main())
