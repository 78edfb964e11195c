"""The whole live engine for tests: models, rooms and HTTP in this process, on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from counterpoint.engine import Engine
from counterpoint.engine.cli.serve import terms
from counterpoint.engine.config import Config
from counterpoint.engine.live.rooms import Rooms, peer_settings
from counterpoint.engine.server.app import make_app
from counterpoint.engine.server.serve import serving
from counterpoint.engine.server.settings import resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveServer:
    """What runs.

    Fields:
        url: where it listens, without a slash at the end.
    """

    url: str
    engine: Engine
    rooms: Rooms


@asynccontextmanager
async def live_server(config: Config, **settings: Any) -> AsyncIterator[LiveServer]:
    """Serve while the block lasts, on a free port of loopback.

    Args:
        config: its Redis and bundle are used as they are.
        settings: fields of `ServerSettings` to be other than the configuration says.
    """
    async with Engine.open(config) as engine:
        # Loopback may be all that a test machine has.
        peers = replace(peer_settings(config.live, config.purpose), loopback=True)
        async with Rooms.open(engine, peers=peers) as rooms:
            resolved = resolve(replace(config.server, port=0), terms=terms(config, engine))
            resolved = replace(resolved, **settings)
            app = make_app(rooms, resolved, engine.runtime)
            async with serving(app, resolved, engine.runtime) as url:
                yield LiveServer(url=url, engine=engine, rooms=rooms)
