"""What a run of `benchmarks.live_sessions` comes to: slopes, growth, and whether it all adds up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.report import table

TARGET_MB_A_MINUTE = 1.0


@dataclass(slots=True)
class Run:
    """What was measured.

    Fields:
        samples: one each five seconds.
        sessions, refusals: who was let in; what the others were told.
        ended: who was let in and did not stay to the end.
        sent, received: accounts of clients and engine at the end, by session.
        shares: cores used by the engine and by the clients' process, on average.
    """

    samples: list[dict[str, Any]] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    sent: dict[str, Any] = field(default_factory=dict)
    received: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)


def slope(pairs: Sequence[tuple[float, float]]) -> float:
    """The median slope between any two points (Theil and Sen)."""
    slopes = [
        (y2 - y1) / (x2 - x1)
        for number, (x1, y1) in enumerate(pairs)
        for x2, y2 in pairs[number + 1 :]
        if x2 > x1
    ]
    return median(slopes) if slopes else 0.0


def accounts(found: Run) -> dict[str, dict[str, int]]:
    """What does not add up, over all sessions: name -> both sides and their difference."""
    totals: dict[str, list[int]] = {}

    def add(name: str, left: int, right: int) -> None:
        sides = totals.setdefault(name, [0, 0, 0])
        sides[0] += left
        sides[1] += right
        sides[2] += abs(left - right)

    for name in found.sessions:
        sent = found.sent[name]
        (participant,) = found.received[name]["participants"]
        (connection,) = participant["connections"]
        for kind in ("video", "audio"):
            track = connection[kind]
            came = track["packets"] - track["duplicates"]
            add(f"{kind} RTP: sent = received + lost", sent["rtp"][kind], came + track["lost"])
            explained = track["decoded"] + track["waiting"] + track["decode_errors"]
            explained += sum(track["dropped"].values()) + track["frames_given_up"]
            add(f"{kind} frames: sent = handed over + stated", sent["frames"][kind], explained)
            items = dict(participant["items"][kind])
            add(f"{kind} items: handed over = received", track["frames"], items["received"])
            received = items.pop("received")
            add(f"{kind} items: received = used + stated", received, sum(items.values()))
        lines = participant["items"]["chat"]["received"]
        add("lines: sent = received", sent["lines"], lines)
        windows = sent["windows"]
        add("windows without a word: participant", windows["missing"], 0)
        add("windows without a word: session", windows["session_missing"], 0)
        add(
            "windows skipped: engine = client", participant["skipped"], windows["stated_as_skipped"]
        )
    keys = ("left", "right", "unaccounted")
    return {name: dict(zip(keys, sides, strict=True)) for name, sides in totals.items()}


def figures(found: Run) -> dict[str, Any]:
    """What the run comes to."""
    samples = found.samples
    late = samples[len(samples) // 3 :]
    third = max(1, len(samples) // 3)

    def growth(first: list[float], last: list[float]) -> dict[str, float]:
        return {"first_third": round(median(first), 2), "last_third": round(median(last), 2)}

    def of(key: str, kind: str, part: list[dict[str, Any]]) -> list[float]:
        return [s[key][kind]["p50"] for s in part if s[key][kind]["p50"] is not None]

    def since(key: str, name: str) -> dict[str, float]:
        def told(part: list[dict[str, Any]]) -> list[float]:
            return [s[key][name] for s in part if s[key][name] is not None]

        return growth(told(samples[:third]), told(samples[-third:]))

    return {
        "memory_mb": {"first": samples[0]["memory_mb"], "last": samples[-1]["memory_mb"]},
        "memory_mb_a_minute": round(slope([(s["second"] / 60, s["memory_mb"]) for s in late]), 3),
        "video_delay_p50_ms": growth(
            of("delay_ms", "video", samples[:third]), of("delay_ms", "video", samples[-third:])
        ),
        "audio_delay_p50_ms": growth(
            of("delay_ms", "audio", samples[:third]), of("delay_ms", "audio", samples[-third:])
        ),
        "made_p50_ms": since("made_ms", "p50"),
        "made_p99_ms": since("made_ms", "p99"),
        "answer_p50_ms": since("answer_ms", "p50"),
        "answer_p99_ms": since("answer_ms", "p99"),
        "drops": samples[-1]["dropped"],
        "accounts": accounts(found),
        "cores": found.shares,
        "machine_busy": round(median(s["machine_busy"] for s in samples), 2),
    }


def _last(refusals: list[str]) -> str:
    return f" (the last: {refusals[-1]})" if refusals else ""


def tables(found: Run, told: dict[str, Any]) -> list[str]:
    """For people to read."""
    growths = [
        [name, told[key]["first_third"], told[key]["last_third"]]
        for name, key in (
            ("last packet → item, video p50 (ms)", "video_delay_p50_ms"),
            ("last packet → item, sound p50 (ms)", "audio_delay_p50_ms"),
            ("window end → prediction made p50 (ms)", "made_p50_ms"),
            ("window end → prediction made p99 (ms)", "made_p99_ms"),
            ("window end → client p50 (ms)", "answer_p50_ms"),
            ("window end → client p99 (ms)", "answer_p99_ms"),
        )
    ]
    memory = told["memory_mb"]
    drops = ", ".join(f"{reason} {count}" for reason, count in told["drops"].items()) or "none"
    text = (
        f"{len(found.sessions)} sessions. Memory {memory['first']} MB after the first sample, "
        f"{memory['last']} MB at the end, {told['memory_mb_a_minute']} MB a minute over the last "
        f"two thirds (target: under {TARGET_MB_A_MINUTE:g}). Cores: engine "
        f"{told['cores']['engine']}, clients {told['cores']['clients']}; the machine was "
        f"{told['machine_busy']:.0%} busy (median). Refusals: {len(found.refusals)}"
        f"{_last(found.refusals)}. Ended by themselves: {', '.join(found.ended) or 'none'}. "
        f"Drops, as stated: {drops}."
    )
    balance = [
        [name, sides["left"], sides["right"], sides["unaccounted"]]
        for name, sides in told["accounts"].items()
    ]
    course = [
        [
            sample["second"],
            sample["memory_mb"],
            sample["delay_ms"]["video"]["p50"],
            sample["delay_ms"]["audio"]["p50"],
            sample["answer_ms"]["p50"],
            sample["answer_ms"]["p99"],
            f"{sample['machine_busy']:.0%}",
        ]
        for sample in found.samples[:: max(1, len(found.samples) // 20)]
    ]
    head = ["second", "MB", "video ms", "sound ms", "answer p50 ms", "p99 ms", "busy"]
    return [
        text,
        table(["", "first third", "last third"], growths),
        table(["account", "left", "right", "unaccounted"], balance),
        table(head, course),
    ]
