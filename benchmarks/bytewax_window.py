"""The aligner's items through bytewax's event-time windows, for comparison.

Bytewax (Rust under a Python API) knows no media: each modality is a key, each key has tumbling
windows of one hop, and all that is done in a window is counting. It keeps no contexts, cuts no
sound, samples no pictures, waits for no other modality and states nothing about what is absent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

from counterpoint.streams.types import Bound, ClockUpdate, Item, SourceEnded, modality_of

ORIGIN = datetime(2026, 1, 1, tzinfo=UTC)
OUT_OF_ORDER = timedelta(milliseconds=10)
BATCH = 1_000


def available() -> bool:
    """Whether bytewax is installed."""
    return find_spec("bytewax") is not None


def run(arrivals: Sequence[tuple[int, Item]], hop_ns: int) -> tuple[float, int, int]:
    """CPU seconds, windows, and items counted in them; bytewax in this process, one worker."""
    import bytewax.operators as op
    import bytewax.operators.windowing as win
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink, TestingSource, run_main

    # Made beforehand, as the aligner's items are.
    items = [
        (modality_of(item).value, ORIGIN + timedelta(microseconds=item.t_ns / 1_000))
        for _, item in arrivals
        if not isinstance(item, Bound | ClockUpdate | SourceEnded)
    ]
    counted: list[tuple[str, tuple[int, int]]] = []
    flow = Dataflow("windows")
    stream = op.input("in", flow, TestingSource(items, batch_size=BATCH))
    windows = win.fold_window(
        "count",
        stream,
        win.EventClock(ts_getter=_itself, wait_for_system_duration=OUT_OF_ORDER),
        win.TumblingWindower(length=timedelta(microseconds=hop_ns / 1_000), align_to=ORIGIN),
        int,
        _count,
        int.__add__,
        ordered=False,
    )
    op.output("out", windows.down, TestingSink(counted))
    begin = time.process_time()
    run_main(flow)
    spent = time.process_time() - begin
    return spent, len(counted), sum(_counts(counted))


def _itself(stamp: datetime) -> datetime:
    return stamp


def _count(count: int, _: Any) -> int:
    return count + 1


def _counts(counted: list[tuple[str, tuple[int, int]]]) -> Iterator[int]:
    return (count for _, (_, count) in counted)
