"""A process of its own that listens to one microphone: ``python -m tests.support.listen DEVICE``.

PortAudio and ALSA read the environment once for a process, so a private sound server needs one.
Each line on stdin runs the microphone until it breaks off. On stdout comes one JSON object a line:
``chunk``, ``clock`` or ``error``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
from typing import Any

from counterpoint.streams.errors import CounterpointError
from counterpoint.streams.microphone import Microphone
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import AudioChunk, ClockUpdate, Item, Modality


class _Printer:
    def __init__(self, runtime: SystemRuntime) -> None:
        self._runtime = runtime
        self._origin_ns = runtime.now_ns()
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        return self._runtime.now_ns() - self._origin_ns

    def session_ns(self, monotonic_ns: int) -> int:
        return monotonic_ns - self._origin_ns

    def wanted_ns(self, modality: Modality) -> int:
        return 0

    def put(self, item: Item) -> None:
        match item:
            case AudioChunk():
                self.say(
                    "chunk",
                    t_ns=item.t_ns,
                    end_ns=item.end_ns,
                    arrived_ns=self.now_ns(),
                    rate_hz=item.rate_hz,
                    sequence=item.sequence,
                    samples=base64.b64encode(item.samples.tobytes()).decode(),
                )
            case ClockUpdate():
                self.say("clock", tier=item.tier, error_ns=item.error_ns, epoch=item.epoch)

    def say(self, what: str, **values: Any) -> None:
        with self._lock:
            sys.stdout.write(json.dumps({"what": what, **values}) + "\n")
            sys.stdout.flush()


def main() -> None:
    with SystemRuntime() as runtime:
        printer = _Printer(runtime)
        microphone = Microphone(sys.argv[1], runtime)
        for _ in sys.stdin:
            try:
                asyncio.run(microphone.run(printer))
            except CounterpointError as error:
                printer.say("error", text=str(error), code=error.exit_code)


if __name__ == "__main__":
    main()
