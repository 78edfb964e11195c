"""A live server with a tiny bundle and a Redis of its own, for clients that are not ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.engine.config import Config, EngineSection, LiveSection, RedisSection
from counterpoint.engine.prediction import Prediction
from counterpoint.streams.types import Modality
from tests.support.http_tap import HttpTap, http_tap
from tests.support.live_server import LiveServer, live_server
from tests.support.redis import RedisServer, redis_server, run_async

WAIT_S = 45.0
SCENE_S = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What runs.

    Fields:
        server: the engine, its rooms, and where it listens.
        tap: a relay before its HTTP, through which clients go whose requests are looked at.
        redis: where it publishes.
    """

    server: LiveServer
    tap: HttpTap
    redis: RedisServer

    def participant(self, session: str, name: str) -> dict[str, Any]:
        """What `describe` says of a participant."""
        described = self.server.rooms.describe(session)["participants"]
        return next(each for each in described if each["name"] == name)

    def connection(self, session: str, name: str) -> dict[str, Any]:
        """What `describe` says of a participant's only connection."""
        (connection,) = self.participant(session, name)["connections"]
        return dict(connection)

    async def until(self, session: str, holds: Callable[[Prediction], bool]) -> Prediction:
        """The next prediction of a session, or of one of its participants, that is like that."""
        async with asyncio.timeout(WAIT_S):
            async for prediction in self.server.rooms.follow(session):
                if holds(prediction):
                    return prediction
        raise AssertionError(f"session {session} ended before that")

    async def until_over(self, session: str) -> None:
        """Return once the session does not run, and all of it is in Redis."""
        async with asyncio.timeout(WAIT_S):
            while session in self.server.rooms.names():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
        await self.server.engine.publisher.drain(5.0)


def heard(prediction: Prediction, *modalities: Modality, least: float = 0.5) -> bool:
    """Whether so much of the context of each was heard: by default of video and audio.

    Of sound in real time some is lost where a machine is busy with other things.
    """
    wanted = modalities or (Modality.VIDEO, Modality.AUDIO)
    return all(prediction.modalities[modality].coverage >= least for modality in wanted)


def play(
    bundle: Path,
    scene: Callable[[House], Awaitable[None]],
    live: LiveSection | None = None,
    **settings: Any,
) -> None:
    """Run a scene with a server that lasts as long as it.

    Args:
        live: the configuration's section.
        settings: of the server.
    """

    @asynccontextmanager
    async def house(redis: RedisServer) -> AsyncIterator[House]:
        config = Config(
            engine=EngineSection(bundle=str(bundle)),
            redis=RedisSection(url=redis.url),
            live=live or LiveSection(),
        )
        async with live_server(config, **settings) as server, http_tap(server.url) as tap:
            yield House(server=server, tap=tap, redis=redis)

    async def main(redis: RedisServer) -> None:
        async with house(redis) as opened:
            await scene(opened)

    with redis_server() as redis:
        run_async(lambda: main(redis), timeout_s=SCENE_S)
