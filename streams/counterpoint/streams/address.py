"""Addresses as they may be shown: without what gives access."""

from __future__ import annotations

from urllib.parse import urlsplit


def shown(address: str) -> str:
    """Scheme, host and port of ``address``: what is safe in a log, a name or a message.

    User and password go, and so do path and query, in which many cameras want their password.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "an address that cannot be read"
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")
