"""Commands around capsules: record, and replay of what was recorded."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from counterpoint.engine.bundle import default_bundle_path, load_bundle
from counterpoint.engine.capsule.format import is_capsule
from counterpoint.engine.capsule.header import new_header
from counterpoint.engine.capsule.reader import Capsule, open_capsule
from counterpoint.engine.capsule.session import replay_config, replay_ports, verify_session
from counterpoint.engine.capsule.verify import Verdict
from counterpoint.engine.capsule.writer import recording
from counterpoint.engine.cli.common import config_of, print_line, say, wants_json
from counterpoint.engine.cli.sessions import Opening, conclude, opening, run_loop, show
from counterpoint.engine.cli.sessions import replay as replay_media
from counterpoint.engine.config import Config
from counterpoint.engine.device import open_device
from counterpoint.engine.engine import Engine
from counterpoint.engine.models import Models
from counterpoint.engine.sources import open_demo
from counterpoint.streams.errors import UsageError
from counterpoint.streams.runtime import SystemRuntime

MAX_SHOWN = 40
"""Differences that a person is shown; ``--json`` has more."""


def record(args: argparse.Namespace) -> int:
    """Run a session on the sources given, or on the demo, and keep it in a file."""
    config = config_of(args)
    given = (args.video, args.audio, args.chat)
    if args.demo and any(given):
        raise UsageError("give --demo or sources of your own, not both")
    if args.out.exists():
        raise UsageError(f"{args.out}: exists already; a capsule is never overwritten")
    name = args.session or ("demo" if args.demo else "live")
    with Opening(open_demo()) if args.demo else opening(args, config, name) as sources:
        return run_loop(_record(args, config, sources, name))


async def _record(args: argparse.Namespace, config: Config, opening: Opening, name: str) -> int:
    async with Engine.open(config) as engine:
        sources = opening.hand_over(engine)
        header = new_header(
            session=name,
            sources=sources.names,
            config=engine.config,
            bundle=engine.models.bundle,
            created_ns=engine.runtime.wall_ns(),
        )
        paced = args.speed is not None
        async with (
            recording(args.out, header, engine.runtime, paced=paced) as tap,
            engine.session(name, sources, speed=args.speed, tap=tap) as session,
        ):
            await show(engine, session, wants_json(args), paced=args.speed == 1.0)
    kept = "media" if header.media else "features only, as [purpose] asks"
    say(f"{args.out}: {args.out.stat().st_size} bytes, {kept}")
    conclude(session, sources)
    return 0


def replay(args: argparse.Namespace) -> int:
    """Play a media file, or a capsule; ``--verify`` says what differs from what was recorded."""
    if not is_capsule(args.path):
        if args.verify:
            raise UsageError(f"{args.path} is no capsule; --verify is for what record has made")
        return replay_media(args)
    if args.chat is not None:
        raise UsageError(f"{args.path} is a capsule and has its own chat; leave --chat out")
    if args.session is not None:
        raise UsageError(f"{args.path} is a capsule and has its own session; leave --session out")
    capsule = open_capsule(args.path)
    config = replay_config(capsule, config_of(args))
    if capsule.reason is not None:
        say(f"{args.path}: incomplete: {capsule.reason}")
    if args.verify:
        return run_loop(_verify(args, capsule, config))
    return run_loop(_replay(args, capsule, config))


async def _replay(args: argparse.Namespace, capsule: Capsule, config: Config) -> int:
    async with Engine.open(config) as engine:
        ports = replay_ports(capsule, engine.models, config, engine.runtime)
        async with engine.session(
            capsule.header.session,
            ports.sources,
            speed=args.speed,
            exact=True,
            encoder=ports.encoder,
            work=ports.work,
        ) as session:
            await show(engine, session, wants_json(args), paced=args.speed == 1.0)
    return 0


async def _verify(args: argparse.Namespace, capsule: Capsule, config: Config) -> int:
    path = Path(config.engine.bundle) if config.engine.bundle else default_bundle_path()
    device = open_device(config.engine.device)
    try:
        with SystemRuntime() as runtime:
            models = Models.load(load_bundle(path), device)
            verdict = await verify_session(capsule, models, config, runtime, speed=args.speed)
    finally:
        device.close()
    if wants_json(args):
        print_line(json.dumps(verdict.document(), separators=(",", ":"), ensure_ascii=False))
    else:
        for line in in_words(verdict):
            print_line(line)
    return verdict.exit_code


def in_words(verdict: Verdict) -> list[str]:
    """The verdict as lines for a person."""
    terms = (
        "to the bit"
        if verdict.exact
        else f"within the tolerance (recorded on another {', '.join(verdict.because)})"
    )
    lines = [str(difference) for difference in verdict.differences[:MAX_SHOWN]]
    if verdict.differing > len(lines):
        lines.append(f"and {verdict.differing - len(lines)} more; --json has them")
    if verdict.beyond:
        lines.append(f"{verdict.beyond} predictions after the recording broke off: not compared")
    outcome = "the same" if verdict.same else f"{verdict.differing} fields differ"
    lines.append(f"{verdict.compared} predictions compared {terms}: {outcome}")
    return lines
