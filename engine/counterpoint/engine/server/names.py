"""Names of sessions, participants and connections in addresses: short, and safe everywhere."""

from __future__ import annotations

import re

from counterpoint.engine.server.answers import HttpError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONNECTION = re.compile(r"[A-Za-z0-9_-]{1,128}")


def checked_name(what: str, text: str) -> str:
    """A session's or participant's name: letters, digits, ``.``, ``_``, ``-``; up to 64.

    Raises:
        HttpError: 400, it is none.
    """
    if not _NAME.fullmatch(text):
        raise HttpError(
            400,
            "name",
            f"a {what} is named by up to 64 letters, digits, '.', '_', '-', "
            "the first of them a letter or digit",
        )
    return text


def checked_connection(text: str) -> str:
    """A connection's name as `Joined` gave it.

    Raises:
        HttpError: 404, it can be none.
    """
    if not _CONNECTION.fullmatch(text):
        raise HttpError(404, "unknown", "no such connection")
    return text
