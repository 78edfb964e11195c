"""The ``counterpoint`` command.

Exit codes: 0 done; 1 failed while running; 2 wrong usage or configuration; 3 something asked for
is not to be had on this machine; 130 interrupted. A pipe gets one JSON document a line on stdout,
a person gets a live table; logs go to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from counterpoint.engine import doctor
from counterpoint.engine.bundle import (
    default_bundle_path,
    describe,
    load_bundle,
    shipped_bundles,
)
from counterpoint.engine.config import Config, load_config
from counterpoint.engine.device import open_device
from counterpoint.engine.engine import Engine
from counterpoint.engine.golden import check_golden
from counterpoint.engine.prediction import Prediction, to_json
from counterpoint.engine.redis_client import check_reachable, predictions_key
from counterpoint.engine.redis_server import embedded_with
from counterpoint.engine.render import LiveTable, in_words
from counterpoint.engine.sources import OpenSources, open_demo, open_replay, open_sources
from counterpoint.engine.subscribe import Followed, StateChange, StateKind, Subscriber
from counterpoint.streams.errors import CounterpointError, FailedError, UnavailableError
from counterpoint.streams.runtime import SystemRuntime

log = logging.getLogger(__name__)

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is returned, nothing is raised but by ``--debug``."""
    args = parse_arguments(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.debug else getattr(logging, args.log_level.upper()),
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        command: Callable[[argparse.Namespace], int] = args.command
        return command(args)
    except CounterpointError as error:
        if args.debug:
            raise
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; stdout must not be flushed into nothing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if args.debug:
            raise
        _complain(f"internal error: {error!r}; --debug shows where")
        return 1


def _complain(message: str) -> None:
    sys.stderr.write(f"counterpoint: {' '.join(message.split())}\n")


# -- arguments -------------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as argparse reads it; exits with 2 and a message where it cannot."""
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-c", "--config", type=Path, metavar="FILE", help="configuration (TOML)")
    common.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one setting"
    )
    common.add_argument("--bundle", metavar="PATH", help="bundle to run (default: affect)")
    common.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where models run")
    common.add_argument(
        "--redis", metavar="URL", help="embedded[:PORT] (default), redis://, rediss://, unix://"
    )
    common.add_argument(
        "--json", action="store_true", help="one JSON document a line (default in a pipe)"
    )
    common.add_argument("--debug", action="store_true", help="tracebacks and debug logs")
    common.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="warning"
    )

    parser = argparse.ArgumentParser(
        prog="counterpoint",
        description="Understands a live session (camera, microphone, chat) while it happens.",
    )
    parser.add_argument("--version", action="version", version=version("counterpoint"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, help_text: str, run: Callable[[argparse.Namespace], int]) -> Any:
        command = commands.add_parser(name, parents=[common], help=help_text, description=help_text)
        command.set_defaults(command=run)
        return command

    demo = add("demo", "play the recorded demo session as if it were live", _demo)
    _session_arguments(demo, default="demo")
    demo.add_argument("--speed", type=_speed, default=1.0, help="1 is real time; max is flat out")

    run = add("run", "run a session on the sources given", _run)
    _session_arguments(run, default="live")
    for modality in ("video", "audio", "chat"):
        run.add_argument(f"--{modality}", metavar="SOURCE", help="file:PATH or none")

    replay = add("replay", "play a media file and a chat file through the engine", _replay)
    _session_arguments(replay, default=None)
    replay.add_argument("path", type=Path, help="any media file with video or audio")
    replay.add_argument("--chat", type=Path, metavar="FILE", help="chat as JSON lines")
    replay.add_argument("--speed", type=_speed, default=1.0, help="1 is real time; max is flat out")

    subscribe = add("subscribe", "follow a session's predictions in Redis", _subscribe)
    subscribe.add_argument("session", type=_session_name)
    subscribe.add_argument(
        "--since", default="now", metavar="start|now|ID", help="where to begin (default: now)"
    )
    subscribe.add_argument("--until-end", action="store_true", help="stop when the session ends")

    bundle = commands.add_parser("bundle", help="list, find, inspect and verify bundles")
    actions = bundle.add_subparsers(required=True, metavar="ACTION")
    for name, help_text, function in (
        ("list", "the bundles that are shipped", _bundle_list),
        ("path", "where the bundle is", _bundle_path),
        ("inspect", "what the bundle says of itself", _bundle_inspect),
        ("verify", "check every hash and the golden outputs of every graph", _bundle_verify),
    ):
        action = actions.add_parser(name, parents=[common], help=help_text, description=help_text)
        action.set_defaults(command=function)
        if name in ("inspect", "verify"):
            action.add_argument("path", nargs="?", type=Path, help="a bundle (default: affect)")

    add("doctor", "what this machine can do, and what to do about the rest", _doctor)
    return parser


def _session_arguments(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    parser.add_argument(
        "--session", type=_session_name, default=default, metavar="ID", help="name of the session"
    )


def _speed(text: str) -> float | None:
    """A pace, or None for flat out."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"a positive number or max, not {text!r}")
    return speed


def _session_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise argparse.ArgumentTypeError(
            f"a session is named by up to 64 of A-Z a-z 0-9 . _ - and begins with one of the "
            f"first three kinds, not {text!r}"
        )
    return text


def _config(args: argparse.Namespace) -> Config:
    config = load_config(args.config, args.set)
    engine, redis = config.engine, config.redis
    if args.bundle is not None:
        engine = replace(engine, bundle=args.bundle)
    if args.device is not None:
        engine = replace(engine, device=args.device)
    if args.redis is not None:
        redis = replace(redis, url=args.redis)
    return replace(config, engine=engine, redis=redis)


def _wants_json(args: argparse.Namespace) -> bool:
    return bool(args.json) or not sys.stdout.isatty()


# -- sessions --------------------------------------------------------------------------------------


def _demo(args: argparse.Namespace) -> int:
    return _play(args, open_demo, args.session, args.speed)


def _run(args: argparse.Namespace) -> int:
    section = _config(args).session
    return _play(
        args,
        lambda: open_sources(
            video=args.video or section.video,
            audio=args.audio or section.audio,
            chat=args.chat or section.chat,
        ),
        args.session,
        1.0,
    )


def _replay(args: argparse.Namespace) -> int:
    name = args.session or re.sub(r"[^A-Za-z0-9._-]+", "-", args.path.stem).strip("-._") or "replay"
    return _play(args, lambda: open_replay(args.path, args.chat), name[:64], args.speed)


def _play(
    args: argparse.Namespace,
    open_: Callable[[], OpenSources],
    name: str,
    speed: float | None,
) -> int:
    return _run_loop(_play_async(args, open_, name, speed))


async def _play_async(
    args: argparse.Namespace,
    open_: Callable[[], OpenSources],
    name: str,
    speed: float | None,
) -> int:
    config = _config(args)
    sources = open_()
    try:
        async with (
            Engine.open(config) as engine,
            engine.session(name, sources, speed=speed) as session,
        ):
            log.info("publishing to %s", engine.redis_url)
            if _wants_json(args):
                # In a lane: a pipe that nobody reads must not stop the session.
                stdout = engine.runtime.lane("stdout")
                async for prediction in session.predictions():
                    await stdout.submit(partial(_print_line, to_json(prediction)))
            else:
                with LiveTable(Console(), f"Counterpoint · {name}", paced=speed == 1.0) as table:
                    table.note(f"in another terminal: {_subscribe_hint(name, config)}")
                    async for prediction in session.predictions():
                        table.show(prediction)
    finally:
        sources.source.close()
    summary = session.summary()
    for reason, count in sources.drops().items():
        log.warning("%s: %d skipped", reason, count)
    log.info("%d windows, %d skipped", summary.windows, summary.skipped)
    if summary.errors:
        said = "; ".join(f"{modality}: {error}" for modality, error in summary.errors.items())
        raise FailedError(f"session {name} went on to its end, but {said}")
    return 0


def _subscribe_hint(name: str, config: Config) -> str:
    url = config.redis.url
    where = "" if url.startswith("embedded") else f" --redis {url}"
    program = sys.argv[0] if Path(sys.argv[0]).name == "counterpoint" else "counterpoint"
    return f"{program} subscribe {name} --since start{where}"


def _subscribe(args: argparse.Namespace) -> int:
    return _run_loop(_subscribe_async(args))


async def _subscribe_async(args: argparse.Namespace) -> int:
    spec = _config(args).redis.url
    embedded = spec.partition(":")[0] == "embedded"
    if embedded:
        url = await embedded_with(predictions_key(args.session))
    else:
        await check_reachable(spec)
        url = spec
    with SystemRuntime() as runtime, _follower(args) as show:
        # An embedded Redis goes away with its engine, so there is nothing to wait for then.
        follow = Subscriber(url, runtime).follow(
            args.session, since=args.since, until_end=args.until_end or embedded
        )
        async for event in follow:
            show(event)
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
    if _wants_json(args):

        def print_(event: Followed) -> None:
            if isinstance(event, Prediction):
                _print_line(to_json(event))
            else:
                _say(in_words(event))

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


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run_loop(main_: Coroutine[Any, Any, int]) -> int:
    """Run to the end; SIGTERM stops as SIGINT does, with everything closed on the way out."""

    async def guarded() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main_

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


# -- bundles and machine ---------------------------------------------------------------------------


def _bundle_of(args: argparse.Namespace) -> Path:
    given = getattr(args, "path", None) or args.bundle
    return Path(given) if given else default_bundle_path()


def _bundle_list(args: argparse.Namespace) -> int:
    for path in shipped_bundles():
        if _wants_json(args):
            _print_line(json.dumps({"id": path.name, "path": str(path)}))
        else:
            _print_line(f"{path.name}\t{path}")
    return 0


def _bundle_path(args: argparse.Namespace) -> int:
    path = str(_bundle_of(args))
    _print_line(json.dumps({"path": path}) if args.json else path)
    return 0


def _bundle_inspect(args: argparse.Namespace) -> int:
    document = describe(load_bundle(_bundle_of(args)))
    if args.json:
        _print_line(json.dumps(document, ensure_ascii=False))
        return 0
    console = Console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key in ("id", "path", "digest", "created", "licence_notice", "missing_policy"):
        table.add_row(key, str(document[key]))
    table.add_row("size", f"{document['bytes'] / 1e6:.1f} MB")
    for head, labels in document["heads"].items():
        table.add_row(f"head {head}", ", ".join(labels))
    for role, graph in document["graphs"].items():
        table.add_row(
            f"graph {role}",
            f"{graph['precision']} {graph['bytes'] / 1e6:.2f} MB  "
            f"{', '.join(graph['inputs'])} → {', '.join(graph['outputs'])}",
        )
    for name, metric in document["metrics"].items():
        table.add_row(f"metric {name}", f"{metric['value']:.4g}  ({metric['split']})")
    console.print(table)
    return 0


def _bundle_verify(args: argparse.Namespace) -> int:
    path = _bundle_of(args)
    bundle = load_bundle(path)
    device = open_device(args.device or "auto")
    try:
        results = check_golden(bundle, device)
    finally:
        device.close()
    if args.json:
        _print_line(
            json.dumps(
                {"path": str(path), "digest": bundle.digest, "graphs": [r.role for r in results]}
            )
        )
    else:
        _print_line(
            f"{bundle.manifest.id} {bundle.digest[:12]}: "
            f"{len(bundle.manifest.files)} files unchanged, "
            f"{len(results)} graphs give their golden outputs on {device.name}"
        )
    return 0


def _doctor(args: argparse.Namespace) -> int:
    config = _config(args)
    bundle = Path(config.engine.bundle) if config.engine.bundle else None
    worst = 0
    marks = {"ok": "✓", "note": "·", "fail": "✗"}
    for check in doctor.examine(bundle, config.engine.device):
        if check.status == "fail":
            worst = 3
        if args.json:
            _print_line(json.dumps(check.to_dict(), ensure_ascii=False))
        else:
            _print_line(f"{marks[check.status]} {check.name}: {check.detail}")
            if check.remedy:
                _print_line(f"    → {check.remedy}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
