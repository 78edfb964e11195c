"""What a seed means: which faults a run has, when they strike, and how the engine is set up."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

S = 1_000_000_000

FAULTS = (
    "video jitter",
    "video lag",
    "video loss",
    "video reordering",
    "video stall",
    "video death",
    "video clock break",
    "video wild stamps",
    "audio jitter",
    "audio loss",
    "audio drift",
    "audio stall",
    "audio death",
    "chat burst",
    "chat silence",
    "source hangs",
    "models slow",
    "models hang",
    "redis slow",
    "redis gone",
    "redis reply lost",
    "redis busy",
    "redis loses data",
    "wall clock steps",
    "reader stops",
    "small queues",
    "left early",
)
"""Each is on in half of the seeds."""

SOURCE_FAULTS = frozenset(f for f in FAULTS if f.split()[0] in {"video", "audio", "chat"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, reproduced by these values alone.

    Fields:
        seed: of every draw.
        seconds: simulated length of the session's media.
        faults: those that are on.
        noise: whether steps of tasks are held back at random.
        sessions: how many run side by side; only the first one's sources have faults.
    """

    seed: int
    seconds: float
    faults: frozenset[str]
    noise: bool = True
    sessions: int = 1

    @classmethod
    def draw(cls, seed: int, seconds: float) -> Plan:
        """The plan of a seed: each fault with probability one half."""
        rng = random.Random(f"{seed}/plan")
        return cls(
            seed=seed,
            seconds=seconds,
            faults=frozenset(name for name in FAULTS if rng.random() < 0.5),
            sessions=rng.choice([1, 1, 2, 3]),
        )

    def calm(self) -> Plan:
        """The same without faults of sources."""
        return replace(self, faults=self.faults - SOURCE_FAULTS)

    def rng(self, name: str) -> random.Random:
        """The draws of one component."""
        return random.Random(f"{self.seed}/{name}")

    def spells(self, fault: str, *, every_s: float, longest_s: float) -> list[tuple[int, int]]:
        """When a fault is active, as half-open spans of nanoseconds; none where it is off."""
        if fault not in self.faults:
            return []
        rng = self.rng(f"spells/{fault}")
        spans: list[tuple[int, int]] = []
        # A fault that is on strikes at least once, however short the run.
        t_s = rng.uniform(0.1, 0.6) * min(every_s, self.seconds)
        while t_s < self.seconds:
            length_s = rng.uniform(0.1, 1.0) * longest_s
            spans.append((int(t_s * S), int((t_s + length_s) * S)))
            t_s += length_s + rng.uniform(0.5, 1.5) * every_s
        return spans

    def command(self) -> str:
        """The command line that reproduces it."""
        faults = ",".join(sorted(self.faults)) or "none"
        quiet = "" if self.noise else " --no-noise"
        quiet += f" --sessions {self.sessions}" if self.sessions > 1 else ""
        return (
            f"python -m tests.simulation --seed {self.seed} --seconds {self.seconds:g} "
            f"--faults '{faults}'{quiet}"
        )


def active(spans: list[tuple[int, int]], t_ns: int) -> bool:
    """Whether an instant lies in one of the spans."""
    for start_ns, end_ns in spans:  # in order
        if t_ns < end_ns:
            return start_ns <= t_ns
    return False
