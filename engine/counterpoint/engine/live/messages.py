"""What page and engine say to each other over the data channel: JSON texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from counterpoint.engine.prediction import Prediction, to_json
from counterpoint.streams.errors import UsageError

MAX_DEPTH_CHARACTERS = 8_192
"""A longer message is refused unread; the data channel refuses it before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A peer wrote a line of chat."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A peer asks for the engine's time; ``number`` tells the answer from others."""

    number: int


def read(text: str) -> Said | Asked:
    """What a peer says.

    Raises:
        UsageError: it cannot be understood; the message says why.
    """
    if len(text) > MAX_DEPTH_CHARACTERS:
        raise UsageError("the message is too long")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("the message is not JSON") from error
    if not isinstance(document, dict):
        raise UsageError("the message is not a JSON object")
    match document:
        case {"type": "chat", "text": str(line)}:
            return Said(text=line)
        case {"type": "ping", "id": int(number)} if not isinstance(number, bool):
            return Asked(number=number)
    raise UsageError("the message is neither a chat line nor a ping")


def hello(
    session: str,
    participant: str,
    heads: Mapping[str, Iterable[str]],
    participants: Iterable[str],
    *,
    numbers: Mapping[str, tuple[float, float]],
) -> str:
    """What a participant is told first.

    Args:
        heads: name -> labels.
        numbers: name -> range of the labels learned from.
    """
    return _write(
        {
            "type": "hello",
            "session": session,
            "participant": participant,
            "heads": {name: list(labels) for name, labels in heads.items()},
            "numbers": {name: list(between) for name, between in numbers.items()},
            "participants": list(participants),
        }
    )


def prediction(participant: str | None, said: Prediction) -> str:
    """A participant's prediction; None for the session's."""
    name = json.dumps(participant)
    return f'{{"type":"prediction","participant":{name},"document":{to_json(said)}}}'


def chat(author: str, text: str) -> str:
    return _write({"type": "chat", "author": author, "text": text})


def participants(names: Iterable[str]) -> str:
    return _write({"type": "participants", "names": list(names)})


def notice(level: str, text: str) -> str:
    """Something a person should read; ``level`` is ``info``, ``warning`` or ``error``."""
    return _write({"type": "notice", "level": level, "text": text})


def over(reason: str) -> str:
    """The session is over for good: who hears this does not come back by itself."""
    return _write({"type": "over", "reason": reason})


def pong(number: int, wall_ns: int) -> str:
    return _write({"type": "pong", "id": number, "engine_wall_ms": wall_ns / 1e6})


def _write(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
