"""The ``timeline`` command: a picture of a session's arrivals, bounds, windows and states."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from counterpoint.engine.bundle import default_bundle_path, load_bundle
from counterpoint.engine.capsule.format import is_capsule
from counterpoint.engine.capsule.reader import open_capsule
from counterpoint.engine.capsule.session import replay_config
from counterpoint.engine.cli.common import config_of, say
from counterpoint.engine.session import align_spec
from counterpoint.engine.sources import open_replay
from counterpoint.engine.timeline import Trace, released, trace
from counterpoint.engine.timeline_svg import draw
from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import NS_PER_S, Item

SHOWN_S = 60.0
"""How much of a longer session is drawn unless more is asked for."""


def timeline(args: argparse.Namespace) -> int:
    """Draw a media file as if it had come live without delay, or a capsule as it really came."""
    if args.out.exists():
        raise UsageError(f"{args.out}: exists already; give another --out")
    from_ns = round(args.from_s * NS_PER_S)
    to_ns = (
        from_ns + round(SHOWN_S * NS_PER_S) if args.to_s is None else round(args.to_s * NS_PER_S)
    )
    traced = _trace(args, to_ns)
    until_ns = min(
        to_ns, max(traced.end_ns, max((w.emitted_ns for w in traced.windows), default=0))
    )
    if args.to_s is None and traced.end_ns >= to_ns:
        say(f"{args.path}: drawn up to {to_ns / 1e9:g} s; --to S draws more")
    try:
        picture = draw(traced, title=args.path.name, from_ns=from_ns, to_ns=until_ns)
    except ValueError as error:
        raise UsageError(f"{args.path}: {error}") from error
    _write(args.out, picture)
    say(f"{args.out}: {len(traced.windows)} outputs of windows, up to {until_ns / 1e9:g} s")
    return 0


def _trace(args: argparse.Namespace, until_ns: int) -> Trace:
    config = config_of(args)
    bundle = config.engine.bundle
    manifest = load_bundle(Path(bundle) if bundle else default_bundle_path()).manifest
    arrivals: Iterator[tuple[int, Item]]
    if is_capsule(args.path):
        if args.chat is not None:
            raise UsageError(f"{args.path} is a capsule and has its own chat; leave --chat out")
        capsule = open_capsule(args.path)
        config = replay_config(capsule, config)
        names, arrivals, end_ns = capsule.header.sources, capsule.arrivals(), capsule.end_ns
    else:
        sources = open_replay(args.path, args.chat)
        names, arrivals, end_ns = sources.names, released(sources.recording), sources.duration_ns
    spec = align_spec(config, manifest)
    length_ns = end_ns or 0
    if length_ns > until_ns:
        return trace(arrivals, spec, names, until_ns=until_ns)
    return trace(arrivals, spec, names, end_ns=length_ns)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
