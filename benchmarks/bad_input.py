"""A second client that misbehaves: what it is answered, and what a good session notices of it.

A real ``counterpoint serve`` that asks for tokens. Good sessions (`benchmarks.live_clients`) run
all the time; the bad client has a connection to a session of its own all the time, too, and in its
phases does one thing again and again:

- 100 requests a second with malformed SDP, with offers that are never connected, or with wrong
  tokens; 25 a second with a megabyte of body;
- over its data channel 5 messages of a megabyte a second, 100 binary ones, 1,000 lines of chat.

Calm and bad phases alternate, in ``--rounds`` rounds that each try all ways in another order, and
each bad phase is compared with the calm one before it: ``p50`` and ``p99`` are milliseconds from
window end to prediction at the good clients, ``ratio`` is p99 over the calm p99, over all rounds
together. Target: at most 1.10. ``nothing`` is a bad phase in which nothing bad is done: how far
its ratio is from 1 is noise: of the machine, and of when packets come in relation to windows' ends,
which moves by milliseconds; more sessions see more of it at once. ``cores`` is what the engine's
process used. The bad client runs only where nothing else wants to.

    python -m benchmarks.bad_input [--sessions 4] [--rounds 2] [--phase 20] [--report FILE.md]

The last line of output is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.bad_client import bad_client
from benchmarks.engine_process import engine_process
from benchmarks.live_clients import LiveClient, encode, percentiles_ms
from benchmarks.machine import circumstances, finish
from benchmarks.report import table, write_page
from counterpoint.engine.server.auth import mint

TARGET = 1.10
SETTLE_S = 10.0
GAP_S = 0.5
SECRET = b"a secret for this benchmark alone, of no use elsewhere"


# -- the good clients' process ---------------------------------------------------------------------


def good_clients(pipe: Pipe, url: str, count: int) -> None:
    """Join; each message over the pipe is answered with the delays since the last; None ends it."""
    asyncio.run(_good_clients(pipe, url, count))


async def _good_clients(pipe: Pipe, url: str, count: int) -> None:
    loop = asyncio.get_running_loop()
    encoded = encode(20)
    token = mint(SECRET, now_ns=time.time_ns(), valid_s=86_400, sessions=["good-*"])
    clients = [LiveClient(url, f"good-{n}", encoded, token=token) for n in range(count)]
    async with httpx2.AsyncClient(timeout=60.0) as http, asyncio.TaskGroup() as group:
        for client in clients:
            (await client.join(http)).raise_for_status()
        chats = [group.create_task(client.chat()) for client in clients]
        pipe.send("joined")
        while await loop.run_in_executor(None, pipe.recv) is not None:
            pipe.send([came for client in clients for _, came in client.delays])
            for client in clients:
                client.delays.clear()
        for task in chats:
            task.cancel()
        for client in clients:
            await client.leave(http)


# -- the run ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Way:
    """What one way of misbehaving came to, over all rounds.

    Fields:
        calm, bad: delays at the good clients, seconds.
        calm_cpu, bad_cpu: (processor time of the engine, seconds gone by), of each phase.
        answers: what the bad client was told, and how often.
    """

    calm: list[float] = field(default_factory=list)
    bad: list[float] = field(default_factory=list)
    calm_cpu: list[tuple[float, float]] = field(default_factory=list)
    bad_cpu: list[tuple[float, float]] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def ratio(self) -> float:
        """p99 over the calm p99; 0 where nothing was measured."""
        calm, bad = percentiles_ms(self.calm)["p99"], percentiles_ms(self.bad)["p99"]
        return round(bad / calm, 3) if calm and bad else 0.0


def run(count: int, rounds: int, phase_s: float, only: list[str]) -> dict[str, Way]:
    """All rounds; ways by name."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret"
        secret.write_bytes(SECRET)
        sets = [f"server.token_secret_file={secret}", "live.capacity=1.0"]
        with engine_process(sets=sets) as engine:
            good, there = context.Pipe()
            bad, yonder = context.Pipe()
            processes = [
                context.Process(target=good_clients, args=(there, engine.url, count), daemon=True),
                context.Process(target=bad_client, args=(yonder, engine.url, SECRET), daemon=True),
            ]
            for process, pipe in zip(processes, (good, bad), strict=True):
                process.start()
                told = _hear(pipe, process)
            names = [name for name in told if not only or name in only]
            ways = {name: Way() for name in names}
            time.sleep(SETTLE_S)
            order = random.Random("bad input")
            for number in range(rounds):
                for name in order.sample(names, len(names)):
                    way = ways[name]
                    for act, delays, cpu in (
                        ("nothing", way.calm, way.calm_cpu),
                        (name, way.bad, way.bad_cpu),
                    ):
                        time.sleep(GAP_S)
                        began, used = time.monotonic(), engine.cpu_s
                        heard, answers = _phase(good, bad, processes, act, phase_s)
                        cpu.append((engine.cpu_s - used, time.monotonic() - began))
                        delays += heard
                    way.answers.update(answers)
                    print(f"round {number + 1}, {name}: {_said(way)}", flush=True)
            for pipe, process in ((good, processes[0]), (bad, processes[1])):
                pipe.send(None)
                process.join(timeout=30)
    return ways


def _phase(
    good: Pipe, bad: Pipe, processes: list[Any], way: str, seconds: float
) -> tuple[list[float], dict[str, int]]:
    """Delays at the good clients while the bad one does that, and its answers."""
    good.send("from now on")
    _hear(good, processes[0])
    bad.send((way, seconds))
    answers = _hear(bad, processes[1])
    good.send("up to now")
    return _hear(good, processes[0]), answers


def _hear(pipe: Pipe, process: Any) -> Any:
    while not pipe.poll(1.0):
        if not process.is_alive():
            raise SystemExit("a client's process ended by itself; see above")
    return pipe.recv()


def _said(way: Way) -> str:
    calm, bad = percentiles_ms(way.calm), percentiles_ms(way.bad)
    return f"p99 calm {calm['p99']} ms, bad {bad['p99']} ms, ratio {way.ratio}"


def cores(phases: list[tuple[float, float]]) -> float:
    """Used on average."""
    return round(sum(cpu for cpu, _ in phases) / sum(wall for _, wall in phases), 2)


def row(name: str, way: Way) -> list[object]:
    """One line of the table."""
    calm, bad = percentiles_ms(way.calm), percentiles_ms(way.bad)
    answers = "; ".join(f"{text} ×{count}" for text, count in way.answers.most_common())
    measured = f"{len(way.calm)} + {len(way.bad)}"
    used = f"{cores(way.calm_cpu)} → {cores(way.bad_cpu)}"
    delays = (calm["p50"], calm["p99"], bad["p50"], bad["p99"])
    return [name, measured, *delays, way.ratio, used, answers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int, default=4, help="good ones")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--phase", type=float, default=20.0, help="seconds of each phase; the clip is 20 s long"
    )
    parser.add_argument("--ways", nargs="+", default=[], help="some of the ways only, by name")
    parser.add_argument("--report", type=Path, help="also write a page with the table there")
    parser.add_argument("--out", type=Path, help="also write the JSON document there")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    ways = run(arguments.sessions, arguments.rounds, arguments.phase, arguments.ways)
    head = ["way", "windows", "calm p50", "calm p99", "bad p50", "bad p99", "ratio", "cores"]
    printed = table([*head, "answers"], [row(name, way) for name, way in ways.items()])
    print(printed)
    document: dict[str, object] = {
        "benchmark": "bad_input",
        **circumstances(),
        "sessions": arguments.sessions,
        "rounds": arguments.rounds,
        "phase_s": arguments.phase,
        "load_before": round(before, 2),
        "target_ratio": TARGET,
        "ways": {
            name: {
                "calm_ms": percentiles_ms(way.calm),
                "bad_ms": percentiles_ms(way.bad),
                "ratio": way.ratio,
                "calm_cores": cores(way.calm_cpu),
                "bad_cores": cores(way.bad_cpu),
                "answers": dict(way.answers),
            }
            for name, way in ways.items()
        },
    }
    if arguments.report is not None:
        about = __doc__.split("    python -m")[0].strip()
        write_page(arguments.report, "A client that misbehaves", [about, printed], document)
    finish(document, arguments.out)


if __name__ == "__main__":
    main()
