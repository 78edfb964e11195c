"""Many live sessions at once, for minutes: memory, delays, and an account of every drop.

A real ``counterpoint serve`` (default models, embedded Redis) in one process; in another one
browser-like clients (aiortc; VP8 640x480 at 30 a second, Opus, a data channel with a line of chat
every five seconds), each a session of its own. What they send is encoded before, so that the
machine's cores are the engine's. Every five seconds:

- ``memory``: resident memory of the engine's process. ``MB a minute`` is the slope of a line
  (Theil and Sen) through the last two thirds of the run.
- ``delay``: from a frame's last packet to its item, as ``GET /sessions/NAME`` has it (the median of
  the last thousand frames): the median over all sessions, and the greatest.
- ``made``, ``answer``: window end to the participant's prediction being made, and to its arrival at
  the client, over the data channel. Client and engine have the same clock.

At the end the clients send no more media, a second goes by, and it must all add up: RTP packets
sent against received, frames sent against handed over and stated as lost, items against what became
of them, windows at the client against those stated as skipped, drops in predictions against the
session's own count.

    python -m benchmarks.live_sessions [--sessions 8] [--minutes 10] [--report FILE.md] [--out FILE]

``--set`` goes to the engine. Its admission is as it is by default: a machine that is too small for
all of them takes fewer in, and what the others were told is shown. The last line of output is one
JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psutil

from benchmarks.engine_process import EngineProcess, engine_process
from benchmarks.live_accounts import Run, figures, tables
from benchmarks.live_clients import Encoded, LiveClient, encode, percentiles_ms
from benchmarks.machine import circumstances, finish
from benchmarks.report import write_page

EVERY_S = 5.0
JOIN_EVERY_S = 6.0  # so that the engine has measured what the one before costs
TRIES = 3
CLIP_S = 20
QUIET_S = 1.0
STATS_S = 60.0
MB = 1_000_000


# -- the clients' process ------------------------------------------------------------------------


def clients(pipe: Pipe, url: str, count: int) -> None:
    """Join, then answer what is asked over the pipe: ``sample``, ``end``."""
    asyncio.run(_clients(pipe, url, encode(CLIP_S), count))


async def _clients(pipe: Pipe, url: str, encoded: Encoded, count: int) -> None:
    loop = asyncio.get_running_loop()
    async with httpx2.AsyncClient(timeout=60.0) as http, asyncio.TaskGroup() as group:
        inside: list[LiveClient] = []
        refusals: list[str] = []
        for number in range(count):
            client = await _join(http, url, f"load-{number}", encoded, refusals)
            if client is not None:
                inside.append(client)
        chats = [group.create_task(client.chat()) for client in inside]
        pipe.send({"sessions": [client.session for client in inside], "refusals": refusals})
        while await loop.run_in_executor(None, pipe.recv) == "sample":
            pipe.send(_sample(inside))
        for task in chats:
            task.cancel()
        for client in inside:
            client.pause()
        await asyncio.sleep(QUIET_S)
        inside = [client for client in inside if not client.gone]
        pipe.send({client.session: await _account(client) for client in inside})
        await loop.run_in_executor(None, pipe.recv)  # the engine was asked meanwhile
        for client in inside:
            await client.leave(http)


async def _join(
    http: httpx2.AsyncClient, url: str, session: str, encoded: Encoded, refusals: list[str]
) -> LiveClient | None:
    """One more client; it comes again when it is told to. None: it was refused for good."""
    for _ in range(TRIES):
        client = LiveClient(url, session, encoded)
        answer = await client.join(http)
        if answer.status_code == 201:
            await asyncio.sleep(JOIN_EVERY_S)
            return client
        refusals.append(f"{session}: {answer.status_code} {answer.json()['message']}")
        await client.pc.close()
        await asyncio.sleep(float(answer.headers.get("Retry-After", "5")))
    return None


def _sample(inside: Sequence[LiveClient]) -> dict[str, Any]:
    delays = [delay for client in inside for delay in client.delays]
    for client in inside:
        client.delays.clear()
    return {
        "made_ms": percentiles_ms([made for made, _ in delays]),
        "answer_ms": percentiles_ms([came for _, came in delays]),
        "predictions": len(delays),
        "gone": [client.session for client in inside if client.gone],
    }


async def _account(client: LiveClient) -> dict[str, Any]:
    return {
        "rtp": await client.rtp_sent(),
        "frames": {"video": client.video.sent, "audio": client.audio.sent},
        "lines": client.lines,
        "windows": {
            "came": client.own.came,
            "stated_as_skipped": client.own.stated,
            "missing": client.own.missing,
            "session_missing": client.whole.missing,
        },
        "dropped": dict(client.own.dropped),
        "answered": dict(client.answered),
    }


# -- the run ---------------------------------------------------------------------------------------


def run(count: int, minutes: float, sets: Sequence[str]) -> Run:
    """The whole benchmark."""
    found = Run()
    context = multiprocessing.get_context("spawn")
    with engine_process(sets=sets) as engine:
        here, there = context.Pipe()
        process = context.Process(target=clients, args=(there, engine.url, count), daemon=True)
        process.start()
        found.sessions, found.refusals = _ask(here, process).values()
        for line in found.refusals:
            print("refused:", line)
        if not found.sessions:
            raise SystemExit("no session was let in")
        sender = psutil.Process(process.pid)
        _watch(found, engine, here, process, minutes, sender)
        here.send("end")
        found.sent = _ask(here, process)
        found.received = {name: engine.describe(name) for name in found.sessions}
        found.metrics = engine.metrics()
        here.send("leave")
        process.join(timeout=30)
    return found


def _ask(pipe: Pipe, process: Any, question: str | None = None) -> Any:
    if question is not None:
        pipe.send(question)
    while not pipe.poll(1.0):
        if not process.is_alive():
            raise SystemExit("the clients' process ended by itself; see above")
    return pipe.recv()


def _watch(
    found: Run, engine: EngineProcess, pipe: Pipe, process: Any, minutes: float, sender: Any
) -> None:
    began, engine_began, sender_began = time.monotonic(), engine.cpu_s, _cpu_s(sender)
    psutil.cpu_percent()
    while (at := time.monotonic() - began) < minutes * 60:
        time.sleep(max(0.0, (len(found.samples) + 1) * EVERY_S - at))
        told = _ask(pipe, process, "sample")
        for name in set(told["gone"]) & set(found.sessions):
            # The account at the end is of those who are left; that it ended is told.
            found.sessions.remove(name)
            found.ended.append(f"{name} at {time.monotonic() - began:.0f} s")
        if not found.sessions:
            raise SystemExit("all sessions ended by themselves: too many?")
        described = [engine.describe(name) for name in found.sessions]
        sample = {
            "second": round(time.monotonic() - began),
            "memory_mb": round(engine.rss_bytes / MB, 2),
            "threads": engine.threads,
            "machine_busy": round(psutil.cpu_percent() / 100, 2),
            "delay_ms": {kind: _delays(described, kind) for kind in ("video", "audio")},
            "dropped": _dropped(described),
            **told,
        }
        found.samples.append(sample)
        print(_said(sample), flush=True)
    wall = time.monotonic() - began
    found.shares = {
        "engine": round((engine.cpu_s - engine_began) / wall, 2),
        "clients": round((_cpu_s(sender) - sender_began) / wall, 2),
    }


def _cpu_s(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _connections(described: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        connection
        for each in described
        for participant in each["participants"]
        for connection in participant["connections"]
    ]


def _delays(described: Sequence[dict[str, Any]], kind: str) -> dict[str, float | None]:
    tracks = [connection[kind] for connection in _connections(described)]
    p50 = [t["delay_p50_ms"] for t in tracks if t and t["delay_p50_ms"] is not None]
    p99 = [t["delay_p99_ms"] for t in tracks if t and t["delay_p99_ms"] is not None]
    if not p50:
        return {"p50": None, "worst_p50": None, "p99": None}
    return {
        "p50": round(median(p50), 2),
        "worst_p50": round(max(p50), 2),
        "p99": round(median(p99), 2),
    }


def _dropped(described: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Every count of what was lost on purpose or given up, over all sessions."""
    total: dict[str, int] = {}

    def add(reason: str, count: int) -> None:
        if count:
            total[reason] = total.get(reason, 0) + count

    for each in described:
        for participant in each["participants"]:
            add("windows skipped", participant["skipped"])
            for reason, count in participant["dropped"].items():
                add(reason, count)
    for connection in _connections(described):
        for kind in ("video", "audio"):
            track = connection[kind]
            for reason, count in track["dropped"].items():
                add(f"{kind} track: {reason}", count)
            for name in ("lost", "frames_given_up", "decode_errors"):
                add(f"{kind} track: {name}", track[name])
    return total


def _said(sample: dict[str, Any]) -> str:
    video, audio = sample["delay_ms"]["video"], sample["delay_ms"]["audio"]
    made, answer = sample["made_ms"], sample["answer_ms"]
    return (
        f"{sample['second']:>4} s: {sample['memory_mb']:7.2f} MB, video {video['p50']} ms "
        f"(worst session {video['worst_p50']}), audio {audio['p50']} ms, made p50 {made['p50']} "
        f"p99 {made['p99']} ms, answer p50 {answer['p50']} p99 {answer['p99']} ms "
        f"of {sample['predictions']}, busy {sample['machine_busy']:.0%}, "
        f"drops {sample['dropped'] or 'none'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10.0, help="after all have joined")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="S.KEY=VALUE")
    parser.add_argument("--report", type=Path, help="also write a page with the tables there")
    parser.add_argument("--out", type=Path, help="also write the JSON document there")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    found = run(arguments.sessions, arguments.minutes, arguments.sets)
    told = figures(found)
    parts = tables(found, told)
    print("\n\n".join(parts))
    document: dict[str, object] = {
        "benchmark": "live_sessions",
        **circumstances(),
        "sessions": {
            "asked": arguments.sessions,
            "let_in": len(found.sessions) + len(found.ended),
        },
        "refusals": found.refusals,
        "ended_by_themselves": found.ended,
        "minutes": arguments.minutes,
        "settings": arguments.sets,
        "load_before": round(before, 2),
        **told,
        "samples": found.samples,
    }
    if arguments.report is not None:
        about = __doc__.split("    python -m")[0].strip()
        write_page(arguments.report, "Many live sessions", [about, *parts], document)
    finish(document, arguments.out)


if __name__ == "__main__":
    main()
