"""One engine, several sessions: shared models and Redis, separate fates."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counterpoint.engine import Engine
from counterpoint.engine.config import Config, EngineSection, RedisSection
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.redis_client import EVENTS_KEY
from counterpoint.engine.sources import OpenSources, open_replay
from counterpoint.streams.types import Modality, Step
from tests.support.bundles import tiny_bundle
from tests.support.redis import RedisServer, redis_server, run_async
from tests.support.sessions import GRID_CHAT, GRID_CLIP


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").root


def config_for(bundle: Path, server: RedisServer) -> Config:
    return Config(engine=EngineSection(bundle=str(bundle)), redis=RedisSection(url=server.url))


class Broken:
    """A source with a bug that shows after its first step."""

    modalities = frozenset({Modality.VIDEO})

    def step(self, now_ns: int) -> Step:
        if now_ns > 0:
            raise RuntimeError("planted")
        return Step(items=(), next_wake_ns=10_000_000)

    def close(self) -> None:
        return


async def read(engine: Engine, name: str, sources: OpenSources) -> list[Prediction]:
    async with engine.session(name, sources, speed=None) as session:
        return [prediction async for prediction in session.predictions()]


async def windows(engine: Engine, name: str) -> list[Prediction]:
    return await read(engine, name, open_replay(GRID_CLIP, GRID_CHAT))


def test_sessions_of_one_engine_run_side_by_side_and_give_what_each_gives_alone(
    bundle: Path,
) -> None:
    async def main(server: RedisServer) -> tuple[list[Prediction], list[list[Prediction]]]:
        async with Engine.open(config_for(bundle, server)) as engine:
            alone = await windows(engine, "alone")
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(windows(engine, f"s{n}")) for n in range(3)]
            return alone, [task.result() for task in tasks]

    with redis_server() as server:
        alone, together = run_async(lambda: main(server), timeout_s=60)
        assert [server.windows(f"s{n}") for n in range(3)] == [list(range(1, 13))] * 3
    assert len(alone) == 12
    for predictions in together:
        assert [p.heads for p in predictions] == [p.heads for p in alone]


def test_a_session_that_fails_ends_alone_and_its_reason_is_published(bundle: Path) -> None:
    async def main(server: RedisServer) -> int:
        async with Engine.open(config_for(bundle, server)) as engine:
            sources = replace(open_replay(GRID_CLIP), source=Broken())
            with pytest.raises(RuntimeError, match="planted"):
                await read(engine, "broken", sources)
            return len(await windows(engine, "whole"))

    with redis_server() as server:
        assert run_async(lambda: main(server), timeout_s=60) == 12
        with server.client() as client:
            entries: Any = client.xrange(EVENTS_KEY)
    events = [json.loads(fields["data"]) for _, fields in entries]
    assert [(e["event"], e["session"]) for e in events] == [
        ("started", "broken"),
        ("ended", "broken"),
        ("started", "whole"),
        ("ended", "whole"),
    ]
    assert "planted" in events[1]["reason"]
    assert events[3]["reason"] == "done"


def test_a_session_that_is_left_early_is_stopped(bundle: Path) -> None:
    async def main(server: RedisServer) -> int:
        async with (
            Engine.open(config_for(bundle, server)) as engine,
            engine.session("left", open_replay(GRID_CLIP), speed=1.0) as session,
        ):
            async for prediction in session.predictions():
                return prediction.window
        raise AssertionError("no window")

    with redis_server() as server:
        assert run_async(lambda: main(server)) == 1
        with server.client() as client:
            entries: Any = client.xrange(EVENTS_KEY)
    assert json.loads(entries[-1][1]["data"])["reason"] == "stopped"
