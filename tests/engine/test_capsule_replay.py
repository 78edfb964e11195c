"""A recorded session replays to the bit: at any speed, overloaded, cut off, without its media."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from counterpoint.engine.capsule.header import new_header
from counterpoint.engine.capsule.reader import Capsule, open_capsule
from counterpoint.engine.capsule.session import verify_session
from counterpoint.engine.capsule.verify import Verdict, Verifier
from counterpoint.engine.capsule.writer import recording
from counterpoint.engine.config import Config
from counterpoint.engine.models import Models
from counterpoint.engine.session import Session
from counterpoint.engine.sources import OpenSources, open_replay
from counterpoint.streams.runtime import Runtime
from tests.support.bundles import tiny_bundle
from tests.support.sessions import GRID_CHAT, GRID_CLIP, RememberingSink, load_models
from tests.support.virtual import VirtualRuntime


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


async def record(
    path: Path,
    models: Models,
    runtime: Runtime,
    *,
    sources: OpenSources | None = None,
    speed: float | None = None,
    config: Config | None = None,
) -> RememberingSink:
    sources = sources or open_replay(GRID_CLIP, GRID_CHAT)
    config = config or Config()
    sink = RememberingSink()
    header = new_header(
        session="test",
        sources=sources.names,
        config=config,
        bundle=models.bundle,
        created_ns=runtime.wall_ns(),
    )
    async with recording(path, header, runtime, paced=speed is not None) as tap:
        session = Session(
            name="test",
            source=sources.source,
            sources=sources.names,
            models=models,
            runtime=runtime,
            config=config,
            sink=sink,
            speed=speed,
            duration_ns=sources.duration_ns,
            tap=tap,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(session.run())
            async for _ in session.predictions():
                pass
    return sink


def verify(
    capsule: Capsule,
    models: Models,
    *,
    speed: float | None = None,
    verifier: Verifier | None = None,
) -> Verdict:
    runtime = VirtualRuntime(start_ns=77)
    return runtime.run(
        verify_session(capsule, models, Config(), runtime, speed=speed, verifier=verifier)
    )


@pytest.fixture(scope="module")
def clip(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GRID clip, recorded as a live session would be."""
    path = tmp_path_factory.mktemp("capsule") / "clip.capsule"
    runtime = VirtualRuntime()
    runtime.run(record(path, models, runtime, speed=1.0))
    return path


@pytest.mark.parametrize("speed", [None, 0.5, 3.0])
def test_a_recorded_clip_is_reproduced_at_any_speed(
    models: Models, clip: Path, speed: float | None
) -> None:
    capsule = open_capsule(clip)
    assert capsule.complete
    verdict = verify(capsule, models, speed=speed)
    assert verdict.exact
    assert verdict.differences == []
    assert verdict.compared == capsule.predictions_total == 12
    assert verdict.exit_code == 0
