"""What all commands share: configuration from the arguments, lines on stdout, text on stderr."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from counterpoint.engine.config import Config, load_config


def config_of(args: argparse.Namespace) -> Config:
    """The configuration file, with what the command line says in its place."""
    config = load_config(args.config, args.set)
    engine, redis = config.engine, config.redis
    if args.bundle is not None:
        engine = replace(engine, bundle=args.bundle)
    if args.device is not None:
        engine = replace(engine, device=args.device)
    if args.redis is not None:
        redis = replace(redis, url=args.redis)
    server = config.server
    if getattr(args, "host", None) is not None:
        server = replace(server, host=args.host)
    if getattr(args, "port", None) is not None:
        server = replace(server, port=args.port)
    return replace(config, engine=engine, redis=redis, server=server)


def wants_json(args: argparse.Namespace) -> bool:
    """Asked for, or nobody is looking at a terminal."""
    return bool(args.json) or not sys.stdout.isatty()


def say(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def print_line(line: str) -> None:
    """A line of output, on stdout, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
