"""Commands that run or follow sessions: demo, run, replay, subscribe."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from counterpoint.engine.cli.common import config_of, print_line, say, wants_json
from counterpoint.engine.config import Config
from counterpoint.engine.engine import Engine
from counterpoint.engine.live_sources import any_live, open_live
from counterpoint.engine.prediction import Prediction, to_json
from counterpoint.engine.redis_client import check_reachable, predictions_key
from counterpoint.engine.redis_server import embedded_with
from counterpoint.engine.render import LiveTable, in_words
from counterpoint.engine.session import Session
from counterpoint.engine.sources import OpenSources, open_demo, open_replay, open_sources
from counterpoint.engine.subscribe import Followed, StateChange, StateKind, Subscriber
from counterpoint.streams.errors import FailedError, UnavailableError
from counterpoint.streams.runtime import SystemRuntime

log = logging.getLogger(__name__)


class Opening:
    """Sources of a session to be: recordings are open before there is an engine, so that a file
    that is not there is told at once; live sources need the engine.

    A context manager: what no session has come to own by its end is closed.
    """

    def __init__(
        self,
        recorded: OpenSources | None,
        live: Callable[[Engine], OpenSources] | None = None,
    ) -> None:
        self._recorded = recorded
        self._live = live
        self._unowned = contextlib.ExitStack()
        if recorded is not None:
            self._unowned.callback(recorded.recording.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._unowned.close()

    def hand_over(self, engine: Engine) -> OpenSources:
        """The sources, for a session that closes them."""
        if self._recorded is not None:
            self._unowned.pop_all()
            return self._recorded
        assert self._live is not None
        return self._live(engine)


def demo(args: argparse.Namespace) -> int:
    return _play(args, config_of(args), Opening(open_demo()), args.session, args.speed)


def run(args: argparse.Namespace) -> int:
    config = config_of(args)
    return _play(args, config, opening(args, config, args.session), args.session, 1.0)


def opening(args: argparse.Namespace, config: Config, session: str) -> Opening:
    """The sources of the command line, else of the configuration.

    Raises:
        UsageError: sources that cannot be asked for.
        SourceError: a recording that cannot be opened: at once, before any model is loaded.
    """
    section = config.session
    given = {
        "video": args.video or section.video,
        "audio": args.audio or section.audio,
        "chat": args.chat or section.chat,
    }
    if not any_live(**given):
        return Opening(open_sources(**given))
    return Opening(
        None,
        lambda engine: open_live(
            session,
            **given,
            runtime=engine.runtime,
            redis_url=engine.redis_url,
            profile=config.purpose.profile,
        ),
    )


def replay(args: argparse.Namespace) -> int:
    name = args.session or re.sub(r"[^A-Za-z0-9._-]+", "-", args.path.stem).strip("-._") or "replay"
    sources = Opening(open_replay(args.path, args.chat))
    return _play(args, config_of(args), sources, name[:64], args.speed)


def _play(
    args: argparse.Namespace, config: Config, opening: Opening, name: str, speed: float | None
) -> int:
    with opening:
        return run_loop(_play_async(wants_json(args), config, opening, name, speed))


async def _play_async(
    as_json: bool, config: Config, opening: Opening, name: str, speed: float | None
) -> int:
    async with Engine.open(config) as engine:
        sources = opening.hand_over(engine)
        async with engine.session(name, sources, speed=speed) as session:
            log.info("publishing to %s", engine.redis_url)
            await show(engine, session, as_json, paced=speed == 1.0)
    conclude(session, sources)
    return 0


def conclude(session: Session, sources: OpenSources) -> None:
    """Say what became of a session.

    Raises:
        FailedError: a source broke off.
    """
    summary = session.summary()
    for reason, count in sources.drops().items():
        log.warning("%s: %d skipped", reason, count)
    log.info("%d windows, %d skipped", summary.windows, summary.skipped)
    if summary.errors:
        said = "; ".join(f"{modality}: {error}" for modality, error in summary.errors.items())
        raise FailedError(f"session {session.name} went on to its end, but {said}")


async def show(engine: Engine, session: Session, as_json: bool, *, paced: bool) -> None:
    """Every prediction of a session: lines for a pipe, a table for a person."""
    if as_json:
        # In a lane: a pipe that nobody reads must not stop the session.
        stdout = engine.runtime.lane("stdout")
        async for prediction in session.predictions():
            await stdout.submit(partial(print_line, to_json(prediction)))
        return
    with LiveTable(Console(), f"Counterpoint · {session.name}", paced=paced) as table:
        table.note(f"in another terminal: {_subscribe_hint(session.name, engine.config)}")
        async for prediction in session.predictions():
            table.show(prediction)


def _subscribe_hint(name: str, config: Config) -> str:
    url = config.redis.url
    where = "" if url.startswith("embedded") else f" --redis {url}"
    program = sys.argv[0] if Path(sys.argv[0]).name == "counterpoint" else "counterpoint"
    return f"{program} subscribe {name} --since start{where}"


def subscribe(args: argparse.Namespace) -> int:
    return run_loop(_subscribe_async(args))


async def _subscribe_async(args: argparse.Namespace) -> int:
    spec = config_of(args).redis.url
    embedded = spec.partition(":")[0] == "embedded"
    if embedded:
        url = await embedded_with(predictions_key(args.session))
    else:
        await check_reachable(spec)
        url = spec
    with SystemRuntime() as runtime, _follower(args) as show_:
        # An embedded Redis goes away with its engine, so there is nothing to wait for then.
        follow = Subscriber(url, runtime).follow(
            args.session, since=args.since, until_end=args.until_end or embedded
        )
        async for event in follow:
            show_(event)
            if (
                embedded
                and isinstance(event, StateChange)
                and event.kind is StateKind.DISCONNECTED
                and await _gone(url)
            ):
                break
    return 0


@contextlib.contextmanager
def _follower(args: argparse.Namespace) -> Iterator[Callable[[Followed], None]]:
    """What to do with each thing that a subscriber is told."""
    if wants_json(args):

        def print_(event: Followed) -> None:
            if isinstance(event, Prediction):
                print_line(to_json(event))
            else:
                say(in_words(event))

        yield print_
        return
    with LiveTable(Console(), f"Counterpoint · {args.session}", paced=True) as table:

        def show(event: Followed) -> None:
            if isinstance(event, Prediction):
                table.show(event)
            else:
                table.note(in_words(event))

        yield show


async def _gone(url: str) -> bool:
    try:
        await check_reachable(url)
    except UnavailableError:
        return True
    return False


def run_loop(
    main_: Coroutine[Any, Any, int],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run to the end; SIGTERM stops as SIGINT does, with everything closed on the way out.

    Args:
        loop_factory: makes another loop than asyncio's.
    """

    async def guarded() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main_

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(guarded())
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
