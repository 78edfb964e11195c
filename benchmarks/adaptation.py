"""Adaptation in service: does each part help under a simulated shift, and do no harm without one?

Priors: faces and lines that the bundle was not trained on, each the answer of one context, drawn so
that classes occur with other shares than in the bundle's data. Every answer is adapted by those
before it in its session. ``gain`` is the mean change over the sessions, ``worst`` the session with
the least; ``adapted`` the share of answers that were changed at all. Base ``stated`` is what the
bundle says of its own mean answers with just this modality, and what the engine uses;
``unheard`` is what it answers when nothing is heard, for bundles that do not say.

Baseline: RAVDESS' actors 17 to 20, unknown to the bundle, all clips of an actor in a row through
the engine: one session. The first minute with a voice makes the baseline; clips behind it are
scored. ``AUC`` is how well one class is told from the others by its score with the sessions put
together, mean over the classes; ``recall`` is macro recall with the highest score as the answer.

Drift: GRID's speaker through the engine, camera and microphone, 2 to 2.9 s of a clip after another;
and the actors above. ``undisturbed`` has nothing but that: each alarm is false. In the others
something changes for good after 150 s; ``delay`` is from there to the first alarm.

    python -m benchmarks.adaptation [--data DIR] [--minutes 12] [--calm-first] [--keep FOLDER]
        [--report FILE]

About five minutes of one core. What the engine said is kept in ``--keep`` and read from there
where it is there: for figures of it again.

The last line of output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import adaptation_baseline as baseline
from benchmarks import adaptation_drift as drift
from benchmarks import adaptation_prior as prior
from benchmarks.machine import circumstances, finish
from benchmarks.report import table, write_page
from counterpoint.engine.adapt.adapter import WATCHED_EVERY_NS, unheard_shares
from counterpoint.engine.adapt.settings import AdaptationSection
from counterpoint.engine.bundle import default_bundle_path, load_bundle
from counterpoint.engine.device import open_device
from counterpoint.engine.models import Models
from counterpoint.streams.types import NS_PER_S

SESSIONS, LENGTH = 8, 300
CHANGE_S, DISTURBED_MINUTES = 150.0, 4.5
DELTAS = (0.0001, 0.002, 0.05)
ORDERS = {False: "clips mixed", True: "calm clips first"}
GRID = "undisturbed: one man, read commands"


class Kept:
    """What took long to make, as JSON in a folder; None: nothing is kept."""

    def __init__(self, folder: Path | None, digest: str) -> None:
        self._folder = None if folder is None else folder / digest[:12]

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """What was kept under that name, or else is made now."""
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.json"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            whole = path.with_suffix(".part")
            whole.write_text(json.dumps(make()), encoding="utf-8")
            whole.replace(path)  # a run that is stopped leaves no half of it
        return json.loads(path.read_text(encoding="utf-8"))


def priors(models: Models, data: Path, kept: Kept) -> list[dict[str, Any]]:
    """A row for each set, shift and base."""
    rows: list[dict[str, Any]] = []

    def make() -> list[dict[str, Any]]:
        sets = prior.read_held(models.bundle, open_device("cpu"), data, unheard_shares(models))
        return [held.document() for held in sets]

    for document in kept.get("priors", make):
        held = prior.Held.read(document)
        bases = {"unheard": held.unheard, "stated": held.stated}
        for shift, shares in prior.SHIFTS[held.labels].items():
            for name, base in bases.items():
                if base is None:
                    continue
                outcome = prior.simulate(
                    held, shares, base, AdaptationSection(), sessions=SESSIONS, length=LENGTH
                )
                rows.append({"set": held.name, "shift": shift, "base": name, **asdict(outcome)})
                print(rows[-1], flush=True)
    return rows


def spoken(
    models: Models, data: Path, kept: Kept, name: str, *, calm_first: bool
) -> list[baseline.Spoken]:
    """A session for each actor."""
    order = ORDERS[calm_first]
    sessions = []
    for actor, microphone in baseline.MICROPHONES[name].items():
        speak = partial(baseline.speak, models, data, actor, microphone, calm_first=calm_first)
        document = kept.get(f"{actor}, {name}, {order}", partial(_document, speak))
        sessions.append(baseline.Spoken.read(document))
    return sessions


def _document(speak: Callable[[], baseline.Spoken]) -> dict[str, Any]:
    return speak().document()


def baselines(
    models: Models, data: Path, kept: Kept, orders: Sequence[bool]
) -> list[dict[str, Any]]:
    """A row for each kind of session."""
    rows: list[dict[str, Any]] = []
    for calm_first in orders:
        for name in baseline.MICROPHONES:
            sessions = spoken(models, data, kept, name, calm_first=calm_first)
            outcome = baseline.figures([baseline.score(session) for session in sessions])
            rows.append({"sessions": name, "order": ORDERS[calm_first], **asdict(outcome)})
            print(rows[-1], flush=True)
    return rows


def drifts(models: Models, data: Path, minutes: float, kept: Kept) -> list[dict[str, Any]]:
    """A row for each session, or for several alike, and confidence parameter."""
    hop_s = models.bundle.manifest.hop_ns / NS_PER_S
    every = -(-WATCHED_EVERY_NS // models.bundle.manifest.hop_ns)
    scenarios = drift.scenarios(data, CHANGE_S, seed=1)
    sessions: dict[str, list[drift.Signals]] = {}
    for seed, name in enumerate([GRID, *scenarios]):
        change = scenarios.get(name)
        length = minutes if change is None else DISTURBED_MINUTES
        record = partial(drift.record, models, data, length, change, seed=seed)
        sessions[name] = [kept.get(f"drift {seed}, {length:g} minutes", record)]
    for name in baseline.MICROPHONES:
        voices = spoken(models, data, kept, name, calm_first=False)
        sessions[f"undisturbed: four actors, all emotions mixed, {name}"] = [
            voice.watched for voice in voices
        ]
    rows: list[dict[str, Any]] = []
    for name, alike in sessions.items():
        for delta in DELTAS:
            watched = [drift.watch(said, delta, hop_s=hop_s, every=every) for said in alike]
            calm_s = CHANGE_S if name in scenarios else 1e9
            rows.append(
                {
                    "session": name,
                    "delta": delta,
                    "hours": round(sum(min(one.hours, calm_s / 3600) for one in watched), 2),
                    "false": sum(one.until(calm_s) for one in watched),
                    "delay_s": watched[0].delay_s(CHANGE_S) if name in scenarios else None,
                    "alarms": [
                        alarm
                        for one in watched
                        for alarm in one.alarms
                        if name not in scenarios or alarm[0] >= CHANGE_S
                    ],
                }
            )
            print(rows[-1], flush=True)
    return rows


def page(document: dict[str, Any]) -> Sequence[str]:
    """The parts of the report."""
    parts = [__doc__.split("\n\n    python")[0], "## Priors"]
    parts.append(
        f"{SESSIONS} sessions of {LENGTH} observations (15 minutes at one in 3 s) for each row; "
        "default settings."
    )
    head: tuple[str, ...] = (
        "set",
        "shares",
        "base",
        "accuracy",
        "gain",
        "worst",
        "recall",
        "gain ",
        "adapted",
    )
    keys: tuple[str, ...] = (
        "set",
        "shift",
        "base",
        "accuracy",
        "gain",
        "worst",
        "recall",
        "recall_gain",
        "applied",
    )
    parts.append(table(head, [[row[key] for key in keys] for row in document["priors"]]))
    parts.append("## Baseline")
    head = ("sessions", "order", "clips", "AUC raw", "AUC deviation", "recall raw", "recall dev.")
    keys = ("sessions", "order", "clips", "auc", "auc_deviation", "recall", "recall_deviation")
    parts.append(table(head, [[row[key] for key in keys] for row in document["baselines"]]))
    parts.append("## Drift")
    parts.append(
        "``false`` counts alarms in the undisturbed part, whose length is ``hours``; the default "
        f"of ``drift_delta`` is {AdaptationSection().drift_delta:g}. ``alarms``: signal, mean "
        "before, mean now, of those behind the change (undisturbed: of all). The engine looks once "
        "a second, which was chosen on these sessions: at one value a context (3 s) the light "
        "that goes off was noticed after a minute."
    )
    rows = [
        [
            *(row[key] for key in ("session", "delta", "hours", "false", "delay_s")),
            "; ".join(f"{signal} {was:.2f} → {now:.2f}" for _, signal, was, now in row["alarms"]),
        ]
        for row in document["drifts"]
    ]
    parts.append(table(("session", "delta", "hours", "false", "delay s", "alarms"), rows))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--minutes", type=float, default=12, help="of the undisturbed session")
    parser.add_argument(
        "--calm-first", action="store_true", help="also baselines of neutral and calm clips"
    )
    parser.add_argument("--keep", type=Path, help="folder for what the engine said")
    parser.add_argument("--report", type=Path, help="write a page there")
    parser.add_argument("--out", type=Path, help="also write the JSON document there")
    arguments = parser.parse_args()
    models = Models.load(load_bundle(default_bundle_path()), open_device("cpu"))
    orders = (False, True) if arguments.calm_first else (False,)
    kept = Kept(arguments.keep, models.bundle.digest)
    document: dict[str, Any] = {
        "benchmark": "adaptation",
        **circumstances(),
        "bundle": f"{models.bundle.manifest.id} {models.bundle.digest[:12]}",
        "settings": asdict(AdaptationSection()),
        "priors": priors(models, arguments.data, kept),
        "baselines": baselines(models, arguments.data, kept, orders),
        "drifts": drifts(models, arguments.data, arguments.minutes, kept),
    }
    if arguments.report is not None:
        write_page(arguments.report, "Adaptation in service", page(document), document)
    finish(document, arguments.out)


if __name__ == "__main__":
    main()
