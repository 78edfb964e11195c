"""Nothing in a simulated run may touch the real world: clocks, sockets, threads, chance."""

from __future__ import annotations

import gc
import os
import random
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

ESCAPES: tuple[tuple[Any, str], ...] = (
    (time, "sleep"),
    (time, "monotonic"),
    (time, "monotonic_ns"),
    (time, "time_ns"),
    (socket.socket, "connect"),
    (threading.Thread, "start"),
    (subprocess, "Popen"),
    (random, "random"),
    (random, "randint"),
    (random, "uniform"),
    (random, "choice"),
    (os, "urandom"),
    (uuid, "uuid4"),
)


class EscapeError(AssertionError):
    """Something reached around the runtime port."""


@contextmanager
def guarded() -> Iterator[None]:
    """Make every escape an error, while the block lasts. The collector is off, too."""
    escaped: list[str] = []

    def trap(name: str) -> Any:
        def caught(*args: Any, **kwargs: Any) -> Any:
            escaped.append(name)
            raise EscapeError(f"{name} was called in a simulated run: use the runtime port")

        return caught

    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with ExitStack() as stack:
            for owner, name in ESCAPES:
                label = f"{getattr(owner, '__name__', owner)}.{name}"
                stack.enter_context(mock.patch.object(owner, name, trap(label)))
            yield
    finally:
        if collecting:
            gc.enable()
    # Also what somebody swallowed.
    if escaped:
        raise EscapeError(f"called in a simulated run: {', '.join(sorted(set(escaped)))}")
