"""The ``counterpoint`` command.

Exit codes: 0 done; 1 failed while running; 2 wrong usage or configuration; 3 something asked for
is not to be had on this machine; 130 interrupted. A pipe gets one JSON document a line on stdout,
a person gets a live table; logs go to stderr.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from counterpoint.engine.cli import bundles, capsules, serve, sessions
from counterpoint.engine.cli.devices import devices as list_devices
from counterpoint.engine.cli.timeline import timeline
from counterpoint.streams.errors import CounterpointError

__all__ = ["main", "parse_arguments"]

INTERRUPTED = 130
SOURCES = {
    "video": "webcam:N, rtsp://…, http://…, file:PATH or none",
    "audio": "mic:default, mic:NAME, rtsp://…, http://…, file:PATH or none",
    "chat": "irc://HOST/CHANNEL, ircs://…, redis:KEY, file:PATH or none",
}


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

    def add(
        name: str, help_text: str, run: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common], help=help_text, description=help_text)
        command.set_defaults(command=run)
        return command

    demo = add("demo", "play the recorded demo session as if it were live", sessions.demo)
    _session_arguments(demo, default="demo")
    demo.add_argument("--speed", type=_speed, default=1.0, help="1 is real time; max is flat out")

    run = add("run", "run a session on the sources given", sessions.run)
    _session_arguments(run, default="live")
    for modality in SOURCES:
        run.add_argument(f"--{modality}", metavar="SOURCE", help=SOURCES[modality])

    record = add("record", "run a session and keep it in a capsule", capsules.record)
    _session_arguments(record, default=None)
    for modality in SOURCES:
        record.add_argument(f"--{modality}", metavar="SOURCE", help=SOURCES[modality])
    record.add_argument("--demo", action="store_true", help="record the demo session")
    record.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    record.add_argument("--speed", type=_speed, default=1.0, help="1 is real time; max is flat out")

    replay = add("replay", "play a media file, or a capsule, through the engine", capsules.replay)
    _session_arguments(replay, default=None)
    replay.add_argument("path", type=Path, help="a media file with video or audio, or a capsule")
    replay.add_argument("--chat", type=Path, metavar="FILE", help="chat as JSON lines")
    replay.add_argument("--speed", type=_speed, default=1.0, help="1 is real time; max is flat out")
    replay.add_argument(
        "--verify", action="store_true", help="compare with a capsule's recorded predictions"
    )

    picture = add("timeline", "a picture of a session's arrivals, bounds and windows", timeline)
    picture.add_argument("path", type=Path, help="a media file with video or audio, or a capsule")
    picture.add_argument("--chat", type=Path, metavar="FILE", help="chat as JSON lines")
    picture.add_argument(
        "--from", dest="from_s", type=_seconds, default=0.0, metavar="S", help="default: 0"
    )
    picture.add_argument(
        "--to", dest="to_s", type=_seconds, metavar="S", help="default: 60 s from there"
    )
    picture.add_argument("--out", type=Path, required=True, metavar="FILE.svg", help="a new file")

    subscribe = add("subscribe", "follow a session's predictions in Redis", sessions.subscribe)
    subscribe.add_argument("session", type=_followed_name, help="SESSION or SESSION/PARTICIPANT")
    subscribe.add_argument(
        "--since", default="now", metavar="start|now|ID", help="where to begin (default: now)"
    )
    subscribe.add_argument("--until-end", action="store_true", help="stop when the session ends")

    serving = add("serve", "live sessions from browsers and WHIP clients", serve.serve)
    serving.add_argument("--host", help="where to listen (default: 127.0.0.1)")
    serving.add_argument("--port", type=int, help="default: 8080; 0 takes a free one")

    token = add("token", "a token for the server, signed with its secret", serve.token)
    token.add_argument("--hours", type=float, default=12.0, help="how long it is valid (12)")
    token.add_argument(
        "--for",
        dest="for_session",
        action="append",
        default=[],
        metavar="SESSION",
        help="a session's name or pattern; default: all",
    )
    token.add_argument(
        "--right",
        action="append",
        default=[],
        choices=("publish", "chat", "read", "erase"),
        help="default: publish, chat and read",
    )
    token.add_argument("--key", type=Path, metavar="FILE", help="Ed25519 private key (PEM)")

    bundle = commands.add_parser("bundle", help="list, find, inspect and verify bundles")
    actions = bundle.add_subparsers(required=True, metavar="ACTION")
    for name, help_text, function in (
        ("list", "the bundles that are shipped", bundles.list_),
        ("path", "where the bundle is", bundles.path_),
        ("inspect", "what the bundle says of itself", bundles.inspect),
        ("verify", "check every hash and the golden outputs of every graph", bundles.verify),
    ):
        action = actions.add_parser(name, parents=[common], help=help_text, description=help_text)
        action.set_defaults(command=function)
        if name in ("inspect", "verify"):
            action.add_argument("path", nargs="?", type=Path, help="a bundle (default: affect)")

    add("devices", "the cameras and microphones of this machine", list_devices)
    add("doctor", "what this machine can do, and what to do about the rest", bundles.doctor)
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


def _seconds(text: str) -> float:
    """An instant of the session in seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"seconds from the session's start, not {text!r}")
    return seconds


def _followed_name(text: str) -> str:
    """A session, or one participant of it."""
    session, slash, participant = text.partition("/")
    _session_name(session)
    if slash:
        _session_name(participant)
    return text


def _session_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise argparse.ArgumentTypeError(
            f"a session is named by up to 64 of A-Z a-z 0-9 . _ - and begins with one of the "
            f"first three kinds, not {text!r}"
        )
    return text
