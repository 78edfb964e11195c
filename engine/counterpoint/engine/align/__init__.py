"""The aligner: items and clock ticks in, aligned windows out. Pure: no tasks, threads, I/O, clocks.

How a session drives it, at each instant ``now`` on the session timeline::

    for item, arrived_ns in arrivals:            # arrived_ns <= now, in order
        aligner.push(item, arrived_ns)
    for output in aligner.advance(now):          # Line, VideoCell, AudioCell, Window
        ...
    wake = aligner.next_wake_ns()                # advance() again then, or when items arrive
    ...
    outputs = aligner.finish(end_ns)             # once

What comes out depends on the arrivals alone, never on how often `advance` is called: whatever was
due between two arrivals is closed at the instant when it was due.
"""

from counterpoint.engine.align.aligner import Aligner
from counterpoint.engine.align.window import (
    AlignSpec,
    AudioCell,
    Counters,
    Line,
    Output,
    Part,
    State,
    Status,
    Tally,
    VideoCell,
    Window,
)

__all__ = [
    "AlignSpec",
    "Aligner",
    "AudioCell",
    "Counters",
    "Line",
    "Output",
    "Part",
    "State",
    "Status",
    "Tally",
    "VideoCell",
    "Window",
]
