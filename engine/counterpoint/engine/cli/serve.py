"""Commands around the server: serve, token."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counterpoint.engine.cli.common import config_of, print_line, say
from counterpoint.engine.cli.sessions import run_loop
from counterpoint.engine.config import Config
from counterpoint.engine.engine import Engine
from counterpoint.engine.live.rooms import Rooms, peer_settings
from counterpoint.engine.purpose import PROFILES
from counterpoint.engine.redact import RedactingFilter
from counterpoint.engine.server.app import make_app
from counterpoint.engine.server.auth import mint
from counterpoint.engine.server.serve import serve as serve_http
from counterpoint.engine.server.settings import read_secret, resolve
from counterpoint.streams.errors import UsageError
from counterpoint.streams.runtime import SystemRuntime

SWITCH_S = 0.0002
"""How long a thread may compute in Python while another waits, a 25th of Python's default: with
many sessions each packet and picture would wait for several of these in turn."""

CONSENT = (
    "Your camera, your microphone and what you write here are sent to this engine, which estimates "
    "from them what is shown on this page and publishes it to its operator's Redis."
)


def serve(args: argparse.Namespace) -> int:
    """Live sessions over HTTP and WebRTC, until interrupted."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(RedactingFilter())
    config = config_of(args)
    sys.setswitchinterval(SWITCH_S)
    return run_loop(_serve(config), loop_factory=fast_loop())


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it runs: hundreds of packets a second of every session pass through it."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(config: Config) -> int:
    # What is wrong with the configuration is told before any model is loaded.
    settings = resolve(config.server, terms={})
    peers = peer_settings(config.live, config.purpose)
    async with Engine.open(config) as engine, Rooms.open(engine, peers=peers) as rooms:
        settings = resolve(config.server, terms=terms(config, engine))
        app = make_app(rooms, settings, engine.runtime)

        def bound(url: str) -> None:
            say(f"open {url}/?session=demo in a browser; WHIP: {url}/whip/SESSION")
            say(f"predictions: {engine.redis_url}, stream counterpoint:predictions:SESSION")

        await serve_http(app, settings, engine.runtime, on_bound=bound)
    return 0


def terms(config: Config, engine: Engine) -> dict[str, Any]:
    """What the page must know before anybody consents."""
    profile = PROFILES[config.purpose.profile]
    tasks = engine.models.bundle.manifest.tasks
    return {
        "purpose": {
            "profile": config.purpose.profile,
            "text": profile.text,
            "heads": sorted(config.purpose.allowed_heads(tasks)),
            "modalities": sorted(profile.modalities),
            # A served session is never recorded: media stay in memory under any profile.
            "media_stored": False,
        },
        "consent": CONSENT,
        "ice_servers": [
            {"urls": server.url}
            if server.username is None
            else {
                "urls": server.url,
                "username": server.username,
                "credential": server.credential,
            }
            for server in peer_settings(config.live, config.purpose).ice_servers
        ],
    }


def token(args: argparse.Namespace) -> int:
    """Print a token for the server that the configuration describes."""
    config = config_of(args)
    section = config.server
    now_ns = SystemRuntime().wall_ns()
    common: dict[str, Any] = {
        "now_ns": now_ns,
        "valid_s": round(args.hours * 3_600),
        "sessions": args.for_session,
        "rights": args.right,
        "audience": section.token_audience or None,
        "issuer": section.token_issuer or None,
    }
    if args.key is not None:
        print_line(mint(_read_key(args.key), algorithm="EdDSA", **common))
        return 0
    secret = read_secret(section, os.environ)
    if secret is None:
        raise UsageError(
            "no secret to sign with: set server.token_secret_file or server.token_secret_env, "
            "or give an Ed25519 private key with --key"
        )
    print_line(mint(secret, **common))
    return 0


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--key {path} cannot be read: {error.strerror}") from error
