"""The protocol of IRC: messages of RFC 1459 (section 2.3) with the tags of IRCv3. Bytes in and out.

Of a line, the part behind the tags has at most 512 bytes with its end (RFC 1459), the tags at most
8,191 (IRCv3 message-tags). A line with tags is taken up to the sum of both, whichever part is the
long one: Twitch's lines have up to 500 characters, which are more bytes than 512.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

MAX_BYTES: Final = 512
MAX_TAGS_BYTES: Final = 8_191
MAX_PARAMS: Final = 15

_NS_PER_MS: Final = 1_000_000
_COMMAND = re.compile(r"[A-Za-z]+|[0-9]{3}")
_TAG_KEY = re.compile(r"[^\x00\r\n ;=]+")
_TAG_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_TAG_ESCAPES: Final = {":": ";", "s": " ", "\\": "\\", "r": "\r", "n": "\n"}
_TAG_ESCAPED: Final = str.maketrans({c: f"\\{name}" for name, c in _TAG_ESCAPES.items()})
_NOT_IN_A_LINE = re.compile(r"[\x00\r\n]")
# Colours (by number and by RGB), and the codes that stand alone (modern.ircdocs.horse/formatting).
_FORMATTING = re.compile(
    r"\x03(?:[0-9]{1,2}(?:,[0-9]{1,2})?)?|\x04(?:[0-9A-Fa-f]{6}(?:,[0-9A-Fa-f]{6})?)?|[\x00-\x1f\x7f]"
)
_ACTION = re.compile(r"\x01ACTION(?: ([^\x01]*))?\x01?", re.DOTALL)
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9})[0-9]*)?Z"
)
_MILLISECONDS = re.compile(r"[0-9]{1,15}")
# The letters {}|^ are the lower case of []\~ (RFC 1459, section 2.2).
_FOLD: Final = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ[]\\~", "abcdefghijklmnopqrstuvwxyz{}|^")


class IrcFormatError(ValueError):
    """Not a message of the protocol, or one that a line cannot say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One line.

    Fields:
        command: upper-case letters or three digits.
        params: at most 15; only the last may be empty, hold spaces or begin with a colon.
        prefix: who says it, ``nick!user@host`` or the name of a server; empty if not said.
        tags: unescaped; a tag without a value has an empty one.
    """

    command: str
    params: tuple[str, ...] = ()
    prefix: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def nick(self) -> str:
        """Who says it, without user and host."""
        return re.split("[!@]", self.prefix, maxsplit=1)[0]


def parse(line: bytes) -> Message:
    """A line, with or without its end. What is not UTF-8 becomes U+FFFD.

    Raises:
        IrcFormatError: not a message, or a line that is too long.
    """
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if _too_long(line):
        raise IrcFormatError(f"a line of {len(line)} bytes is too long")
    said = b""
    if tagged := line.startswith(b"@"):
        said, _, line = line[1:].partition(b" ")
        if len(said) > MAX_TAGS_BYTES - 2:
            raise IrcFormatError("the tags are too long")
    tags = _parse_tags(_decoded(said))
    text = _decoded(line.lstrip(b" ") if tagged else line)
    prefix = ""
    if text.startswith(":"):
        prefix, _, text = text[1:].partition(" ")
        text = text.lstrip(" ")
    command, _, text = text.partition(" ")
    if not _COMMAND.fullmatch(command):
        raise IrcFormatError("no command")
    return Message(
        command=command.upper(), params=tuple(_parse_params(text)), prefix=prefix, tags=tags
    )


def _too_long(line: bytes) -> bool:
    """Whether a line is too long, its end not counted."""
    return len(line.removesuffix(b"\r")) > MAX_BYTES - 2 + (
        MAX_TAGS_BYTES if line.startswith(b"@") else 0
    )


def _decoded(data: bytes) -> str:
    if _NOT_IN_A_LINE.search(text := data.decode("utf-8", "replace")):
        raise IrcFormatError("NUL, CR or LF within a line")
    return text


def _parse_params(text: str) -> Iterator[str]:
    for _ in range(MAX_PARAMS - 1):
        text = text.lstrip(" ")
        if not text or text.startswith(":"):
            break
        param, _, text = text.partition(" ")
        yield param
    text = text.lstrip(" ")
    if text:
        yield text.removeprefix(":")


def _parse_tags(text: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for tag in text.split(";"):
        key, _, value = tag.partition("=")
        if key:  # the last of several with one name counts
            tags[key] = _TAG_ESCAPE.sub(lambda m: _TAG_ESCAPES.get(m[1], m[1]), value)
    return tags


def encode(message: Message) -> bytes:
    """The line that says ``message``, with its end. `parse` gives the message back.

    Raises:
        IrcFormatError: a line cannot say it.
    """
    if not _COMMAND.fullmatch(message.command) or message.command != message.command.upper():
        raise IrcFormatError(f"not a command: {message.command!r}")
    if len(message.params) > MAX_PARAMS:
        raise IrcFormatError(f"{len(message.params)} parameters, at most {MAX_PARAMS} can be said")
    words = []
    if message.prefix:
        if " " in message.prefix:
            raise IrcFormatError(f"a space in the prefix {message.prefix!r}")
        words.append(f":{message.prefix}")
    words.append(message.command)
    for param in message.params[:-1]:
        if not param or " " in param or param.startswith(":"):
            raise IrcFormatError(f"only the last parameter can be {param!r}")
        words.append(param)
    for param in message.params[-1:]:
        needs_colon = not param or " " in param or param.startswith(":")
        words.append(f":{param}" if needs_colon else param)
    body = _encoded(" ".join(words))
    if len(body) > MAX_BYTES - 2:
        raise IrcFormatError(f"a line of {len(body)} bytes is too long")
    return _encode_tags(message.tags) + body + b"\r\n"


def _encode_tags(tags: Mapping[str, str]) -> bytes:
    if not tags:
        return b""
    for key in tags:
        if not _TAG_KEY.fullmatch(key):
            raise IrcFormatError(f"not the name of a tag: {key!r}")
    said = ";".join(
        f"{key}={value.translate(_TAG_ESCAPED)}" if value else key for key, value in tags.items()
    )
    encoded = _encoded(f"@{said} ")
    if len(encoded) > MAX_TAGS_BYTES:
        raise IrcFormatError(f"tags of {len(encoded)} bytes are too long")
    return encoded


def _encoded(text: str) -> bytes:
    if _NOT_IN_A_LINE.search(text):
        raise IrcFormatError("NUL, CR or LF within a line")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise IrcFormatError("a lone surrogate, which UTF-8 cannot say") from error


def fold(name: str) -> str:
    """A nick or a channel's name such that equal ones are equal."""
    return name.translate(_FOLD)


def plain_text(text: str) -> str | None:
    """What a person reads: no formatting, an action (``/me``) as its words.

    None for what is not meant to be read: any other CTCP request.
    """
    if text.startswith("\x01"):
        action = _ACTION.fullmatch(text)
        if action is None:
            return None
        text = action[1] or ""
    return _FORMATTING.sub("", text)


def server_ns(tags: Mapping[str, str]) -> int | None:
    """The server's stamp of a message: IRCv3's ``time``, else Twitch's ``tmi-sent-ts``.

    Nanoseconds since the Unix epoch; None where there is none that makes sense.
    """
    if (time := _TIME.fullmatch(tags.get("time", ""))) is not None:
        *numbers, fraction = time.groups(default="")
        year, month, day, hour, minute, second = map(int, numbers)
        try:
            # Second 60 is allowed, and Python's 59 is the last.
            whole = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
        except ValueError:
            return None
        seconds = int(whole.timestamp()) + (second == 60)
        return seconds * 1_000 * _NS_PER_MS + int(fraction.ljust(9, "0"))
    if _MILLISECONDS.fullmatch(sent := tags.get("tmi-sent-ts", "")):
        return int(sent) * _NS_PER_MS
    return None


class Lines:
    """Cuts what is read into lines, and holds no more than one of the longest.

    Attributes:
        too_long: lines left out so far since they were longer than any message may be.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self.too_long = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends; empty ones are left out."""
        *whole, rest = (self._rest + data).split(b"\n")
        lines: list[bytes] = []
        for line in whole:
            if self._skipping:
                self._skipping = False  # the end of what was too long
            elif _too_long(line):
                self.too_long += 1
            elif line := line.removesuffix(b"\r"):
                lines.append(line)
        if self._skipping or _too_long(rest):
            self.too_long += not self._skipping
            self._skipping, rest = True, b""
        self._rest = rest
        return lines
