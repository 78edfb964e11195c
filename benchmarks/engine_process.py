"""A real ``counterpoint serve`` in a process of its own, and what it says over HTTP."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

START_S = 120
_OPEN = re.compile(r"open (http://\S+?)/\?session=")


class EngineProcess:
    """Made by `engine_process`.

    Attributes:
        url: where it listens, without a slash at the end.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url = url
        self._process = process
        self._measured = psutil.Process(process.pid)

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process alone; its Redis is another one."""
        return int(self._measured.memory_info().rss)

    @property
    def cpu_s(self) -> float:
        """Processor time so far, all threads."""
        times = self._measured.cpu_times()
        return float(times.user + times.system)

    @property
    def threads(self) -> int:
        return int(self._measured.num_threads())

    def describe(self, session: str) -> dict[str, Any]:
        """``GET /sessions/NAME``."""
        found: dict[str, Any] = json.loads(self._get(f"/sessions/{session}"))
        return found

    def metrics(self) -> dict[str, float]:
        """``GET /metrics``: series -> value."""
        lines = self._get("/metrics").splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name.removeprefix("counterpoint_"): float(value) for name, value in pairs}

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:  # noqa: S310 - our own
            return str(answer.read().decode())


@contextmanager
def engine_process(*arguments: str, sets: Sequence[str] = ()) -> Iterator[EngineProcess]:
    """Serve on a free port of loopback, on an embedded Redis, while the block lasts.

    Args:
        arguments: more of the command line.
        sets: settings, ``section.key=value``.

    Raises:
        RuntimeError: it did not start; with what it said.
    """
    command = [sys.executable, "-m", "counterpoint.engine.cli", "serve", "--port", "0", *arguments]
    for each in sets:
        command += ["--set", each]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        url = _until_open(process, said)
        # What it says later on must be read, or it would wait for us.
        threading.Thread(target=_pass_on, args=(process.stderr,), daemon=True).start()
        yield EngineProcess(process, url)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def _until_open(process: subprocess.Popen[str], said: list[str]) -> str:
    assert process.stderr is not None
    timer = threading.Timer(START_S, process.kill)
    timer.start()
    try:
        for line in process.stderr:
            said.append(line)
            if (match := _OPEN.search(line)) is not None:
                return match.group(1)
    finally:
        timer.cancel()
    raise RuntimeError("the engine did not start:\n" + "".join(said))


def _pass_on(lines: Any) -> None:
    for line in lines:
        sys.stderr.write(f"engine: {line}")
