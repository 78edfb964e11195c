"""Sessions for tests: a tiny bundle, real files, and a sink that only remembers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from counterpoint.engine.bundle import Bundle
from counterpoint.engine.config import Config
from counterpoint.engine.device import open_device
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.session import Session, Summary
from counterpoint.engine.sources import OpenSources
from counterpoint.streams.runtime import Runtime, SystemRuntime

TIMEOUT_S = 60.0


@dataclass(slots=True)
class RememberingSink:
    """Keeps what it is offered."""

    taken: list[Prediction] = field(default_factory=list)

    def offer(self, prediction: Prediction) -> None:
        self.taken.append(prediction)

    async def wait_room(self) -> None:
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a session."""

    predictions: list[Prediction]
    offered: list[Prediction]
    summary: Summary


def load_models(bundle: Bundle) -> Models:
    return Models.load(bundle, open_device("cpu"))


def new_session(
    models: Models,
    sources: OpenSources,
    runtime: Runtime,
    *,
    sink: RememberingSink | None = None,
    speed: float | None = None,
    config: Config | None = None,
) -> Session:
    return Session(
        name="test",
        source=sources.source,
        sources=sources.names,
        models=models,
        runtime=runtime,
        config=config or Config(),
        sink=sink or RememberingSink(),
        speed=speed,
        duration_ns=sources.duration_ns,
    )


async def play_async(
    models: Models,
    sources: OpenSources,
    runtime: Runtime,
    *,
    speed: float | None = None,
    config: Config | None = None,
) -> Played:
    """Run a session to its end, reading its predictions as they come."""
    sink = RememberingSink()
    session = new_session(models, sources, runtime, sink=sink, speed=speed, config=config)
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        running = group.create_task(session.run())
        predictions = [prediction async for prediction in session.predictions()]
    return Played(predictions=predictions, offered=sink.taken, summary=running.result())


def play(models: Models, sources: OpenSources, *, config: Config | None = None) -> Played:
    """Flat out, on the real runtime with its threads."""
    with SystemRuntime() as runtime:
        return asyncio.run(play_async(models, sources, runtime, config=config))


DATA = Path(__file__).parents[1] / "data"
GRID_CLIP = DATA / "grid_clip.mp4"
GRID_CHAT = DATA / "grid_clip.chat.jsonl"
