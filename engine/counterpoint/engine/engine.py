"""The engine: one process's models and Redis connection, and the sessions that share them.

async with Engine.open(config) as engine:
    async with engine.session("demo", open_demo()) as session:
        async for prediction in session.predictions():
            ...
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from counterpoint.engine.adapt.drift import load_detector
from counterpoint.engine.background import background
from counterpoint.engine.bundle import default_bundle_path, load_bundle
from counterpoint.engine.config import Config, load_config
from counterpoint.engine.device import open_device
from counterpoint.engine.encode import Encoder
from counterpoint.engine.models import Models
from counterpoint.engine.publish import Publisher
from counterpoint.engine.redis_client import connector
from counterpoint.engine.redis_server import resolve_redis
from counterpoint.engine.session import INFERENCE_LANE, Session, Summary
from counterpoint.engine.sources import OpenSources
from counterpoint.engine.tap import Tap
from counterpoint.engine.work import Work
from counterpoint.streams.errors import CounterpointError
from counterpoint.streams.runtime import Runtime, SystemRuntime

DRAIN_TIMEOUT_S = 5.0
"""How long a closing engine waits for Redis to take what is left."""


class Engine:
    """Models, publisher and runtime of one process. Made by `Engine.open`."""

    def __init__(
        self,
        *,
        config: Config,
        models: Models,
        publisher: Publisher,
        runtime: Runtime,
        redis_url: str,
    ) -> None:
        self.config = config
        self.models = models
        self.publisher = publisher
        self.redis_url = redis_url
        self.runtime = runtime
        # Sessions come and go, threads stay: as many workers as there are cores, taken in turn.
        self._workers = itertools.cycle(range(os.cpu_count() or 1))

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: Config | Path | str | None = None, *, runtime: Runtime | None = None
    ) -> AsyncIterator[Engine]:
        """Load the bundle, start or reach Redis, and publish until the block ends.

        Args:
            config: a resolved configuration, or the path of a TOML file; None for the defaults.
            runtime: clock, waiting and threads; the system's by default.

        Raises:
            UsageError: a configuration or bundle that cannot be used.
            UnavailableError: the device, Redis or what drift needs is not to be had.
        """
        if not isinstance(config, Config):
            config = load_config(None if config is None else Path(config))
        if runtime is None:
            with SystemRuntime(giving_way=(INFERENCE_LANE,)) as system:
                async with cls._opened(config, system) as engine:
                    yield engine
        else:
            async with cls._opened(config, runtime) as engine:
                yield engine

    @classmethod
    @asynccontextmanager
    async def _opened(cls, config: Config, runtime: Runtime) -> AsyncIterator[Engine]:
        path = Path(config.engine.bundle) if config.engine.bundle else default_bundle_path()
        device = open_device(config.engine.device)
        try:
            # Hashing and compiling a bundle takes a second: not on the loop.
            models = await runtime.lane("load").submit(
                lambda: Models.load(load_bundle(path), device)
            )
            if config.adaptation.drift:
                await runtime.lane("load").submit(load_detector)
            async with resolve_redis(config.redis.url, runtime) as redis_url:
                publisher = Publisher(
                    connector(redis_url),
                    runtime,
                    stream_maxlen=config.redis.stream_maxlen,
                    queue_size=config.redis.queue_size,
                )
                engine = cls(
                    config=config,
                    models=models,
                    publisher=publisher,
                    runtime=runtime,
                    redis_url=redis_url,
                )
                async with background(runtime, "publish", publisher.run()):
                    try:
                        yield engine
                    finally:
                        await publisher.drain(DRAIN_TIMEOUT_S)
        finally:
            device.close()

    @asynccontextmanager
    async def session(
        self,
        name: str,
        sources: OpenSources,
        *,
        speed: float | None = 1.0,
        origin_ns: int | None = None,
        exact: bool = False,
        encoder: Encoder | None = None,
        work: Work | None = None,
        tap: Tap | None = None,
    ) -> AsyncIterator[Session]:
        """Run a session while the block lasts; leaving the block ends it.

        A session that fails ends with its reason published; its error is raised where the block
        is left, after its last prediction was read.

        Args:
            name: what subscribers call it.
            sources: as `sources.open_sources` gives them; closed when the session ends.
            speed: 1.0 is real time; None is flat out, losing nothing.
            origin_ns, exact, encoder, work, tap: as `Session` takes them.

        Raises:
            CounterpointError: the session failed while it ran.
        """
        session = Session(
            name=name,
            source=sources.source,
            sources=sources.names,
            models=self.models,
            runtime=self.runtime,
            config=self.config,
            sink=self.publisher,
            speed=speed,
            duration_ns=sources.duration_ns,
            origin_ns=origin_ns,
            worker=next(self._workers),
            exact=exact,
            encoder=encoder,
            work=work,
            tap=tap,
        )
        self.publisher.session_started(name)
        running: asyncio.Task[Summary] | None = None
        try:
            async with background(self.runtime, f"session/{name}", session.run()) as running:
                yield session
                if session.finished:
                    await running
        finally:
            self.publisher.session_ended(name, _why_ended(running))


def _why_ended(running: asyncio.Task[Summary] | None) -> str:
    """What subscribers are told: ``done``, ``stopped`` (it was left early), or what failed."""
    if running is None or not running.done() or running.cancelled():
        return "stopped"
    match running.exception():
        case None:
            return "done"
        case CounterpointError() as error:
            return str(error)
        case error:
            return f"internal error: {error!r}"
