"""How to get at what is private to aiortc and aioice."""

from __future__ import annotations

from typing import Any

from counterpoint.streams.errors import UnavailableError


def private(owner: object, name: str) -> Any:
    """What is private to aiortc.

    Raises:
        UnavailableError: this aiortc does not have it.
    """
    found = getattr(owner, name, None)
    if found is None:
        kind = owner.__name__ if isinstance(owner, type) else type(owner).__name__
        raise UnavailableError(
            f"{kind} has no {name}: this version of aiortc is not one that "
            f"counterpoint.streams.webrtc.adapter was written for"
        )
    return found
