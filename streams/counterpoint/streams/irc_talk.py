"""What a reader of one channel says to an IRC server, and what it makes of the answers. No I/O.

RFC 1459 and RFC 2812, capabilities as in IRCv3; Twitch's dialect where it differs
(dev.twitch.tv/docs/irc).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from counterpoint.streams.chat_outlet import tidy
from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.irc import IrcFormatError, Message, encode, fold, plain_text, server_ns

PORT: Final = 6_667
TLS_PORT: Final = 6_697
# Each asked for by itself: a request is granted as a whole or not at all. Twitch's tags come only
# with its commands.
CAPABILITIES: Final = ("message-tags", "server-time", "twitch.tv/commands twitch.tv/tags")
_NICKS: Final = 5
_NICK_REFUSED: Final = ("432", "433", "436", "437")
_REFUSED: Final = ("431", "451", "462", "463", "464", "465", "466")
_JOIN_HELP: Final = {
    "403": "there is no such channel",
    "405": "this server lets us into no more channels",
    "437": "the channel is not to be had now",
    "471": "the channel is full",
    "473": "the channel is by invitation only",
    "474": "we are banned from the channel",
    "475": "the channel has a key: put ?key=KEY behind the channel",
    "476": "this is not a name of a channel",
    "477": "the channel is for registered nicks only: give nick:password@",
}
_TWITCH_GONE: Final = ("msg_banned", "msg_channel_suspended", "msg_channel_blocked", "tos_ban")


@dataclass(frozen=True, slots=True, kw_only=True)
class IrcAddress:
    """Where a channel is, and who reads it.

    Fields:
        host, port: of the server.
        tls: whether to speak TLS from the first byte.
        channel: with its ``#`` (or ``&``, ``+``, ``!``).
        key: the channel's key; empty for none.
        nick: empty for an anonymous reader.
        password: the server's or (Twitch's ``oauth:…``) the user's; empty for none. Not in `repr`.
    """

    host: str
    port: int
    tls: bool
    channel: str
    key: str = ""
    nick: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"IrcAddress({self.host}:{self.port}, tls={self.tls}, {self.channel!r})"

    @property
    def label(self) -> str:
        """Server and channel for messages; no secrets."""
        return f"irc:{self.host}/{self.channel.removeprefix('#')}"


def parse_url(url: str) -> tuple[IrcAddress, str | None]:
    """``irc[s]://[nick[:password]@]host[:port]/channel[?key=KEY][&ca=FILE]`` and its CA file.

    A channel without one of ``#&+!`` in front is ``#channel``.

    Raises:
        UsageError: not such an address. The message has no secrets in it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError as error:
        raise _not_an_address("host, port or options are malformed") from error
    if parts.scheme not in ("irc", "ircs"):
        raise _not_an_address("it begins with irc:// or ircs://")
    if not host:
        raise _not_an_address("it has no host")
    if unknown := sorted(options.keys() - {"key", "ca"}):
        raise _not_an_address(f"no such option: {', '.join(unknown)}; there are key and ca")
    tls = parts.scheme == "ircs"
    if "ca" in options and not tls:
        raise _not_an_address("a ca file is for ircs:// only")
    channel = unquote(parts.path.removeprefix("/"))
    if parts.fragment:
        channel += f"#{unquote(parts.fragment)}"
    if not channel.strip("#&+!"):
        raise _not_an_address("it has no channel")
    if channel[0] not in "#&+!":
        channel = f"#{channel}"
    if host.endswith(".twitch.tv"):
        channel = channel.lower()  # Twitch finds no other
    address = IrcAddress(
        host=host,
        port=port or (TLS_PORT if tls else PORT),
        tls=tls,
        channel=channel,
        key=options.get("key", ""),
        nick=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )
    words = (address.channel, address.key or "-", address.nick or "-")
    if any(" " in word or "," in word or word.startswith(":") for word in words):
        raise _not_an_address("a space, comma or colon in channel, key or nick")
    try:
        for word in (*words, address.password):
            encode(Message(command="JOIN", params=(word,)))
    except IrcFormatError as error:
        raise _not_an_address(
            "channel, key, nick or password cannot be said on one line"
        ) from error
    return address, options.get("ca")


def _not_an_address(why: str) -> UsageError:
    return UsageError(
        f"IRC address: {why}; write irc://HOST/CHANNEL or ircs://NICK:PASSWORD@HOST:PORT/CHANNEL"
    )


class Stage(enum.Enum):
    """How far we are, with what we wait for."""

    REGISTERING = "welcome us"
    JOINING = "let us into the channel"
    JOINED = "say more"


class Said(NamedTuple):
    """A line of the channel. ``server_ns``: the server's stamp since the Unix epoch, if any."""

    author: str
    text: str
    server_ns: int | None


class Talk:
    """One connection's conversation.

    Args:
        digits: gives that many random digits, for nicks.
    """

    def __init__(self, address: IrcAddress, digits: Callable[[int], str]) -> None:
        self._address = address
        self._channel = fold(address.channel)
        self._nicks = self._all_nicks(digits)
        self._nick = next(self._nicks)
        self.stage = Stage.REGISTERING
        self.last_words = ""
        """What the server said last that may explain why it hangs up."""

    def hello(self) -> list[Message]:
        """What to say first. Nothing waits for a capability: granted ones show in what follows."""
        password = self._address.password
        return [
            *((Message(command="PASS", params=(password,)),) if password else ()),
            *(Message(command="CAP", params=("REQ", wanted)) for wanted in CAPABILITIES),
            self._nick_message(),
            Message(command="USER", params=(self._nick, "0", "*", "counterpoint")),
            Message(command="CAP", params=("END",)),
        ]

    def hear(self, message: Message) -> list[Message]:
        """Take what the server says; gives what to answer.

        Raises:
            SourceError: the server will not let us read the channel, or not any longer.
        """
        match message.command:
            case "PING":
                return [Message(command="PONG", params=message.params[-1:])]
            case "001" if self.stage is Stage.REGISTERING:
                # The server may have cut the nick.
                self._nick = message.params[0] if message.params else self._nick
                self.stage = Stage.JOINING
                key = (self._address.key,) if self._address.key else ()
                return [Message(command="JOIN", params=(self._address.channel, *key))]
            case "JOIN" if self._by_us(message) and self._of_channel(message):
                self.stage = Stage.JOINED
            case "NICK" if self._by_us(message) and message.params:
                self._nick = message.params[0]
            case "KICK" | "PART":
                self._hear_departure(message)
            case "NOTICE":
                self._hear_notice(message)
            case "ERROR":
                raise self._error("the server ends the connection", message)
            case "RECONNECT":
                raise self._error("the server asks to connect again", message)
            case command if command.isdecimal():
                return self._hear_number(message)
        return []

    def said(self, message: Message) -> Said | None:
        """The line of the channel that this message is, if it is one."""
        if message.command != "PRIVMSG" or len(message.params) < 2:
            return None
        text = plain_text(message.params[1])
        if text is None or not self._of_channel(message) or self._by_us(message):
            return None
        author = message.tags.get("display-name") or message.nick
        return Said(author, text, server_ns(message.tags))

    def _all_nicks(self, digits: Callable[[int], str]) -> Iterator[str]:
        # RFC 1459 allows nine characters only, and justinfan is nine.
        nick = self._address.nick
        yield nick or f"justinfan{digits(5)}"
        if nick:
            yield f"{nick}_"
        for _ in range(_NICKS - (2 if nick else 1)):
            yield f"{nick[:6]}{digits(3)}" if nick else f"cp{digits(6)}"

    def _nick_message(self) -> Message:
        return Message(command="NICK", params=(self._nick,))

    def _hear_number(self, message: Message) -> list[Message]:
        number = message.command
        if self.stage is Stage.REGISTERING:
            if number in _NICK_REFUSED:
                nick = next(self._nicks, None)
                if nick is None:
                    raise self._error("the server takes none of our nicks; give another", message)
                self._nick = nick
                return [self._nick_message()]
            if number in _REFUSED:
                raise self._error("the server refuses us; check nick and password", message)
        elif self.stage is Stage.JOINING and self._refuses_channel(message):
            help_ = _JOIN_HELP.get(number, "the server does not let us into the channel")
            raise self._error(help_, message)
        return []

    def _refuses_channel(self, message: Message) -> bool:
        named = any(fold(param) == self._channel for param in message.params[1:])
        return named and "400" <= message.command < "600"

    def _hear_departure(self, message: Message) -> None:
        if not self._of_channel(message):
            return
        if message.command == "PART":
            if self._by_us(message):
                raise self._error("we were put out of the channel", message)
        elif message.params[1:] and fold(message.params[1]) == fold(self._nick):
            raise self._error(f"{tidy(message.nick)} has kicked us from the channel", message)

    def _hear_notice(self, message: Message) -> None:
        words = message.params[-1] if message.params else ""
        if self.stage is Stage.REGISTERING and words.startswith(("Login", "Improperly")):
            raise self._error("the server refuses us; check nick and password", message)
        if self._of_channel(message) and message.tags.get("msg-id") in _TWITCH_GONE:
            raise self._error("the server does not let us into the channel", message)
        if self.stage is not Stage.JOINED:
            self.last_words = tidy(words)[:200]

    def _error(self, what: str, message: Message) -> SourceError:
        words = tidy(message.params[-1] if message.params else "")[:200]
        return SourceError(f"{self._address.label}: {what}" + (f" ({words})" if words else ""))

    def _by_us(self, message: Message) -> bool:
        return fold(message.nick) == fold(self._nick)

    def _of_channel(self, message: Message) -> bool:
        return bool(message.params) and fold(message.params[0]) == self._channel
