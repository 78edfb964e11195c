"""A channel of an IRC server as a chat: joined, read, never written to."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from counterpoint.streams.chat_outlet import ChatOutlet, tidy
from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.feed import Feed
from counterpoint.streams.irc import IrcFormatError, Lines, Message, encode, parse, server_ns
from counterpoint.streams.irc_talk import IrcAddress, Stage, Talk, parse_url
from counterpoint.streams.rate import TokenBucket
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import NS_PER_S, DropCounter, Modality

READ_BYTES: Final = 16_384
STAMP_GRAIN_NS: Final = 1_000_000  # stamps are in milliseconds
PING_WORD: Final = "counterpoint"
GRACE_S: Final = 1.0

MALFORMED: Final = "malformed IRC message"
TOO_LONG: Final = "IRC message too long"


@dataclass(frozen=True, slots=True, kw_only=True)
class IrcLimits:
    """How long an `IrcChat` waits, and how much it takes.

    Fields:
        connect_s, register_s, join_s: longest wait for the connection, TLS included; for the
            server's welcome (servers look up names first); for the channel.
        ping_every_s: how often the server is asked for a sign of life.
        answer_s: longest wait for that, or for anything else to come or to be taken.
        lines_per_s, lines_burst: lines of chat; what is beyond is counted and left out.
        bytes_per_s, bytes_burst: what is read at all; what is beyond waits in the network.
    """

    connect_s: float = 10.0
    register_s: float = 30.0
    join_s: float = 15.0
    ping_every_s: float = 10.0
    answer_s: float = 20.0
    lines_per_s: float = 100.0
    lines_burst: int = 400
    bytes_per_s: float = 1_000_000.0
    bytes_burst: int = 1_000_000

    def __post_init__(self) -> None:
        if self.bytes_burst < READ_BYTES:
            raise ValueError(f"bytes_burst must be at least {READ_BYTES}")


class IrcChat:
    """A `LiveSource` of the lines of one channel.

    Time: the server's stamps (IRCv3 ``server-time``, Twitch's ``tmi-sent-ts``) where its answer to
    a PING is stamped too, so that the offset of its clock is known; else the arrival.

    Args:
        url: ``irc[s]://[nick[:password]@]host[:port]/channel[?key=KEY][&ca=FILE]``; without a nick
            an anonymous one is drawn (``justinfan…``, as Twitch allows).
        runtime: clock, chance and a lane to read certificates in.
        name: of the source; by default server and channel.
        ca_file: PEM file of the authorities to trust instead of the system's, also ``ca`` in the
            URL. There is no way to go without verification.
        limits: see there.

    Raises:
        UsageError: not such an address, or no such file.
    """

    def __init__(
        self,
        url: str,
        runtime: Runtime,
        *,
        name: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        limits: IrcLimits | None = None,
    ) -> None:
        self._address, in_url = parse_url(url)
        ca_file = in_url if ca_file is None else ca_file
        self._ca_file = None if ca_file is None else Path(ca_file)
        if self._ca_file is not None and not self._ca_file.is_file():
            raise UsageError(f"{self._ca_file}: there is no such CA file; check the path")
        self._name = self._address.label if name is None else name
        self._runtime = runtime
        self._limits = limits or IrcLimits()
        self._drops = DropCounter()
        self._numbers = itertools.count()
        self._rng = runtime.rng(f"irc/{self._name}")

    @property
    def name(self) -> str:
        return self._name

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset({Modality.CHAT})

    @property
    def drops(self) -> DropCounter:
        """Lines left out or cut, by reason."""
        return self._drops

    async def run(self, feed: Feed) -> None:
        """Connect, join and give the channel's lines until cancelled.

        Raises:
            SourceError: no connection, no admission, or the connection broke; says which and why.
        """
        rate = TokenBucket(per_s=self._limits.lines_per_s, burst=self._limits.lines_burst)
        outlet = ChatOutlet(self._name, feed, self._drops, self._numbers, rate)
        talk = Talk(self._address, lambda count: f"{self._rng.randrange(10**count):0{count}}")
        async with _connection(self._address, await self._tls(), self._limits.connect_s) as streams:
            reader, writer = streams
            await _Reading(
                self._address.label,
                reader,
                writer,
                talk=talk,
                feed=feed,
                outlet=outlet,
                runtime=self._runtime,
                limits=self._limits,
                drops=self._drops,
            ).run()

    async def _tls(self) -> ssl.SSLContext | None:
        if not self._address.tls:
            return None
        # Reads files, those of the system's authorities too.
        lane = self._runtime.lane("irc-certificates")
        try:
            return await lane.submit(lambda: ssl.create_default_context(cafile=self._ca_file))
        except (OSError, ValueError) as error:
            raise SourceError(
                f"{self._ca_file or self._address.label}: the certificates of the authorities "
                f"cannot be read ({error}); give a PEM file"
            ) from error


class _Reading:
    """One connection, from the first word to the last."""

    def __init__(
        self,
        label: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        talk: Talk,
        feed: Feed,
        outlet: ChatOutlet,
        runtime: Runtime,
        limits: IrcLimits,
        drops: DropCounter,
    ) -> None:
        self._label = label
        self._reader = reader
        self._writer = writer
        self._talk = talk
        self._feed = feed
        self._outlet = outlet
        self._runtime = runtime
        self._limits = limits
        self._drops = drops
        self._byte_rate = TokenBucket(per_s=limits.bytes_per_s, burst=limits.bytes_burst)
        self._lines = Lines()
        self._heard_ns = self._stage_ns = feed.now_ns()
        self._asked_ns = 0
        self._ping: int | None = None  # when the one without an answer yet was sent
        self._pings = 0
        self._waiting_ns: int | None = None  # since the first PING after which nothing came
        self._read_once_more = False

    async def run(self) -> None:
        self._write(self._talk.hello())
        while True:
            self._tell_time()
            await self._flush()
            data = await self._read()
            if data is None:
                continue
            self._heard_ns = self._feed.now_ns()
            self._waiting_ns = None
            for line in self._lines.feed(data):
                self._hear(line)
            if self._lines.too_long:
                self._drops.add(TOO_LONG, self._lines.too_long)
                self._lines.too_long = 0

    def _hear(self, line: bytes) -> None:
        try:
            message = parse(line)
        except IrcFormatError:
            self._drops.add(MALFORMED)
            return
        if message.command == "PONG":
            self._hear_pong(message)
            return
        before = self._talk.stage
        answers = self._talk.hear(message)
        if self._talk.stage is not before:
            self._stage_ns = self._heard_ns
            if self._talk.stage is Stage.JOINING:
                self._ask()  # before we join, so that the first line is on a known clock
            else:
                self._outlet.start()
        try:
            self._write(answers)
        except IrcFormatError:  # a PING so long that no line can answer it
            self._drops.add(MALFORMED)
        said = self._talk.said(message) if self._talk.stage is Stage.JOINED else None
        if said is not None:
            author, text, sent_ns = said
            self._outlet.line(author, text, arrived_ns=self._heard_ns, server_ns=sent_ns)

    def _hear_pong(self, message: Message) -> None:
        asked_ns, self._ping = self._ping, None
        answered = message.params[-1:] == (f"{PING_WORD}{self._pings}",)
        stamp_ns = server_ns(message.tags)
        if asked_ns is not None and answered and stamp_ns is not None:
            self._outlet.probe(asked_ns, stamp_ns, self._heard_ns, grain_ns=STAMP_GRAIN_NS)

    def _ask(self) -> None:
        self._pings += 1
        self._asked_ns = self._ping = self._feed.now_ns()
        if self._waiting_ns is None:
            self._waiting_ns = self._asked_ns
        self._write([Message(command="PING", params=(f"{PING_WORD}{self._pings}",))])

    def _tell_time(self) -> None:
        """Do what is due by now.

        Raises:
            SourceError: something was due from the server.
        """
        now_ns = self._feed.now_ns()
        complaint = self._complaint(now_ns)
        if complaint and self._read_once_more:
            raise SourceError(f"{self._label}: {complaint}")
        # If it was us who stood still, what is due waits to be read.
        self._read_once_more = bool(complaint)
        if self._talk.stage is Stage.JOINED:
            self._outlet.beat()
            if now_ns - self._asked_ns >= self._limits.ping_every_s * NS_PER_S:
                self._ask()

    def _complaint(self, now_ns: int) -> str:
        """What is overdue; empty if nothing is."""
        stage, answer_s = self._talk.stage, self._limits.answer_s
        patience_s = self._patience_s(stage)
        if now_ns - self._stage_ns >= patience_s * NS_PER_S:
            last_words = self._last_words()
            return f"the server did not {stage.value} within {patience_s:g} s{last_words}"
        if self._waiting_ns is not None and now_ns - self._waiting_ns >= answer_s * NS_PER_S:
            return f"the server answered no PING within {answer_s:g} s; check the network"
        return ""

    def _patience_s(self, stage: Stage) -> float:
        match stage:
            case Stage.REGISTERING:
                return self._limits.register_s
            case Stage.JOINING:
                return self._limits.join_s
            case Stage.JOINED:
                return float("inf")

    def _wait_s(self) -> float:
        """Until `_tell_time` has something to do."""
        if self._read_once_more:
            return GRACE_S
        now_ns = self._feed.now_ns()
        stage = self._talk.stage
        waits = [self._patience_s(stage) - (now_ns - self._stage_ns) / NS_PER_S]
        if self._waiting_ns is not None:
            waits.append(self._limits.answer_s - (now_ns - self._waiting_ns) / NS_PER_S)
        if stage is Stage.JOINED:
            asked_s = (now_ns - self._asked_ns) / NS_PER_S
            waits += [self._outlet.beat_in_s, self._limits.ping_every_s - asked_s]
        return max(0.0, min(waits))

    async def _read(self) -> bytes | None:
        """What came, or None when it is time for something else."""
        try:
            async with asyncio.timeout(self._wait_s()) as limit:
                data = await self._reader.read(READ_BYTES)
        except OSError as error:
            if limit.expired():
                return None
            raise self._lost(error) from error
        if not data:
            raise SourceError(
                f"{self._label}: the server closed the connection" + self._last_words()
            )
        # A server that floods is left waiting, by TCP.
        if wait_ns := self._byte_rate.wait_ns(self._runtime.now_ns(), len(data)):
            await self._runtime.sleep_until(self._runtime.now_ns() + wait_ns)
        self._byte_rate.take(self._runtime.now_ns(), len(data))
        return data

    def _write(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._writer.write(encode(message))

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(self._limits.answer_s) as limit:
                await self._writer.drain()
        except OSError as error:
            if limit.expired():
                raise SourceError(
                    f"{self._label}: the server did not read for {self._limits.answer_s:g} s"
                ) from error
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> SourceError:
        return SourceError(f"{self._label}: the connection broke ({_why(error)})")

    def _last_words(self) -> str:
        return f" ({self._talk.last_words})" if self._talk.last_words else ""


@asynccontextmanager
async def _connection(
    address: IrcAddress, tls: ssl.SSLContext | None, timeout_s: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    where = f"{address.label}: {address.host}:{address.port}"
    try:
        async with asyncio.timeout(timeout_s) as limit:
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=tls, limit=READ_BYTES
            )
    except ssl.SSLCertVerificationError as error:
        raise SourceError(
            f"{where} has a certificate that is not trusted ({error.verify_message}); "
            "give the file of its authority with ?ca=FILE"
        ) from error
    except OSError as error:
        why = f"no answer within {timeout_s:g} s" if limit.expired() else _why(error)
        raise SourceError(f"{where} cannot be reached ({why}); check host and port") from error
    try:
        yield reader, writer
    finally:
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.write(encode(Message(command="QUIT")))
    writer.close()
    try:
        async with asyncio.timeout(GRACE_S):
            await writer.wait_closed()
    except OSError:  # the time limit too
        writer.transport.abort()


def _why(error: OSError) -> str:
    return tidy(error.strerror or str(error)) or type(error).__name__
