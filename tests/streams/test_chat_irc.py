"""`IrcChat` against a real server (ngircd), and against played ones for what that cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import logging
import re
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from counterpoint.streams.chat_file import CUT
from counterpoint.streams.chat_irc import MALFORMED, TOO_LONG, IrcChat, IrcLimits
from counterpoint.streams.chat_outlet import EMPTY, TOO_MANY, TOO_OLD
from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.feed import LiveSource
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import NS_PER_S, Modality, Tier
from tests.support.chat_feed import KeepingFeed, check_items, running
from tests.support.irc_server import (
    IrcServer,
    PlayedServer,
    free_port,
    irc_client,
    irc_server,
    played_server,
)
from tests.support.redis import run_async

MS = NS_PER_S // 1_000
EPOCH_NS = 1_700_000_000 * NS_PER_S


@pytest.fixture(name="runtime")
def fixture_runtime() -> Iterator[SystemRuntime]:
    with SystemRuntime(seed=1) as runtime:
        yield runtime


@pytest.fixture(name="server")
def fixture_server() -> Iterator[IrcServer]:
    with irc_server() as server:
        yield server


# -- a real server ---------------------------------------------------------------------------------


@pytest.mark.irc_server
def test_lines_of_a_real_channel(server: IrcServer, runtime: SystemRuntime) -> None:
    async def main() -> None:
        chat, feed = IrcChat(f"irc://127.0.0.1:{server.port}/talk", runtime), KeepingFeed(runtime)
        assert isinstance(chat, LiveSource)
        assert chat.modalities == {Modality.CHAT}
        assert chat.name == "irc:127.0.0.1/talk"
        async with irc_client(server.port, "ann", "#talk") as ann:
            async with running(chat, feed):
                join = await ann.hear(" JOIN ")
                await ann.say(
                    "PRIVMSG #talk :hello \x02you\x02",
                    "PRIVMSG #talk :\x01ACTION waves\x01",
                    "NOTICE #talk :not said by a person",
                    "PRIVMSG #elsewhere :not here",
                    b"PRIVMSG #talk :\xff \xc3\xa4",
                    "PRIVMSG #talk :\x02\x02",
                    "PRIVMSG #talk :" + "x" * 450,
                )
                said = await feed.until_lines(4)
                await feed.until_bounds(3)
            await ann.hear(" QUIT ")
        # ngircd takes nine characters, so the long nick was refused.
        assert re.match(r":cp\d{6}!", join)
        assert [author for author, _ in said] == ["ann"] * 4
        assert [text for _, text in said[:3]] == ["hello you", "waves", "\ufffd ä"]
        assert re.fullmatch("x{300,450}", said[3][1])
        assert [(clock.tier, clock.epoch) for clock in feed.clocks] == [(Tier.ARRIVAL, 0)]
        assert chat.drops.by_reason == {EMPTY: 1}
        check_items(feed, "irc:127.0.0.1/talk")

    run_async(main)


@pytest.mark.irc_server
def test_two_readers_of_one_nick_both_get_in(server: IrcServer, runtime: SystemRuntime) -> None:
    async def main() -> None:
        url = f"irc://reader@127.0.0.1:{server.port}/talk"
        first, second = KeepingFeed(runtime), KeepingFeed(runtime)
        async with (
            irc_client(server.port, "ann", "#talk") as ann,
            running(IrcChat(url, runtime), first),
        ):
            assert (await ann.hear(" JOIN ")).startswith(":reader!")
            async with running(IrcChat(url, runtime), second):
                assert (await ann.hear(" JOIN ")).startswith(":reader_!")
                await ann.say("PRIVMSG #talk :hello both")
                await first.until_lines(1)
                await second.until_lines(1)

    run_async(main)


@pytest.mark.irc_server
def test_the_server_goes_and_comes_back(server: IrcServer, runtime: SystemRuntime) -> None:
    async def main() -> None:
        chat, feed = IrcChat(f"irc://127.0.0.1:{server.port}/talk", runtime), KeepingFeed(runtime)
        async with irc_client(server.port, "ann", "#talk") as ann, asyncio.TaskGroup() as group:
            task = group.create_task(_outcome(chat.run(feed)))
            await ann.hear(" JOIN ")
            await ann.say("PRIVMSG #talk :before")
            await feed.until_lines(1)
            server.kill()
            assert re.search("closed the connection|connection broke", await task)
        with pytest.raises(SourceError, match=r"127\.0\.0\.1:\d+ cannot be reached"):
            await chat.run(feed)
        server.start()
        async with irc_client(server.port, "ann", "#talk") as ann, running(chat, feed):
            await ann.hear(" JOIN ")
            await ann.say("PRIVMSG #talk :after")
            await feed.until_lines(2)
        assert feed.said == [("ann", "before"), ("ann", "after")]
        assert [line.sequence for line in feed.lines] == [0, 1]
        assert len(feed.clocks) == 2  # each run says its clock

    run_async(main)


@pytest.mark.irc_server
def test_a_frozen_server_is_noticed_by_its_silence(
    server: IrcServer, runtime: SystemRuntime
) -> None:
    async def main() -> None:
        limits = IrcLimits(ping_every_s=0.3, answer_s=1.0)
        url = f"irc://127.0.0.1:{server.port}/talk"
        chat, feed = IrcChat(url, runtime, limits=limits), KeepingFeed(runtime)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_outcome(chat.run(feed)))
            # Longer than it may be silent: our PINGs are answered.
            await feed.until(lambda: len(feed.bounds) > 10)
            assert not task.done()
            server.freeze()
            assert "answered no PING within 1 s" in await task

    run_async(main)


@pytest.mark.irc_server
def test_standing_still_ourselves_is_not_the_servers_silence(
    server: IrcServer, runtime: SystemRuntime
) -> None:
    async def main() -> None:
        limits = IrcLimits(ping_every_s=0.1, answer_s=0.5)
        chat = IrcChat(f"irc://127.0.0.1:{server.port}/talk", runtime, limits=limits)
        feed = KeepingFeed(runtime)
        async with running(chat, feed):
            for _ in range(3):
                await feed.until_bounds(1)
                # The whole loop stands still, as in a suspended machine.
                subprocess.run(["sleep", "1.2"], check=True)  # noqa: ASYNC221 - that is the point
            await feed.until_bounds(4)

    run_async(main)


@pytest.mark.irc_server
@pytest.mark.parametrize(
    ("channel", "words"),
    [
        ("locked", "has a key"),
        ("locked?key=wrong", "has a key"),
        ("members", "by invitation only"),
        ("%23" + "x" * 80, "irc:127.0.0.1/xxx"),
    ],
)
def test_channels_that_do_not_let_us_in(
    server: IrcServer, runtime: SystemRuntime, channel: str, words: str
) -> None:
    async def main() -> None:
        chat = IrcChat(f"irc://127.0.0.1:{server.port}/{channel}", runtime)
        feed = KeepingFeed(runtime)
        assert words in await _outcome(chat.run(feed))
        assert feed.items == []

    run_async(main)


@pytest.mark.irc_server
def test_a_key_opens_a_channel(server: IrcServer, runtime: SystemRuntime) -> None:
    async def main() -> None:
        feed = KeepingFeed(runtime)
        url = f"irc://127.0.0.1:{server.port}/locked?key=sesame"
        async with running(IrcChat(url, runtime), feed):
            await feed.until_bounds(1)

    run_async(main)


@pytest.mark.irc_server
def test_who_is_banned_or_kicked_is_told(server: IrcServer, runtime: SystemRuntime) -> None:
    async def main() -> None:
        url = f"irc://reader@127.0.0.1:{server.port}/talk"
        async with irc_client(server.port, "ann", "#talk") as ann, asyncio.TaskGroup() as group:
            task = group.create_task(_outcome(IrcChat(url, runtime).run(KeepingFeed(runtime))))
            await ann.hear(" JOIN ")
            await ann.say("KICK #talk reader :enough")
            assert "ann has kicked us from the channel (enough)" in await task
            await ann.say("MODE #talk +b *!*@*")
            await ann.hear(" MODE ")
            assert "banned" in await _outcome(IrcChat(url, runtime).run(KeepingFeed(runtime)))

    run_async(main)


@pytest.mark.irc_server
def test_a_server_with_a_password(runtime: SystemRuntime) -> None:
    async def main() -> None:
        with irc_server(password="opensesame") as server:
            feed = KeepingFeed(runtime)
            url = f"irc://ann:opensesame@127.0.0.1:{server.port}/talk"
            async with running(IrcChat(url, runtime), feed):
                await feed.until_bounds(1)
            wrong = IrcChat(f"irc://ann:shibboleth@127.0.0.1:{server.port}/talk", runtime)
            outcome = await _outcome(wrong.run(feed))
            assert "irc:127.0.0.1/talk: " in outcome
            assert "shibboleth" not in outcome

    run_async(main)


# -- TLS -------------------------------------------------------------------------------------------


def make_certificates(directory: Path, *, host: str = "127.0.0.1") -> tuple[Path, Path, Path]:
    """An authority of our own, and a server's certificate and key by it; all may be read."""
    now = dt.datetime.now(dt.UTC)

    def build(
        name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            address = x509.IPAddress(ipaddress.ip_address(host))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder

    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = build("authority", None, authority_key, ca=True).sign(
        authority_key, hashes.SHA256()
    )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = build("server", authority.subject, key, ca=False).sign(
        authority_key, hashes.SHA256()
    )
    paths = directory / "ca.pem", directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    directory.chmod(0o755)  # the server gives up root, if it has it
    for path in paths:
        path.chmod(0o644)
    return paths


@pytest.mark.irc_server
def test_tls_with_an_authority_of_our_own(
    runtime: SystemRuntime, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with _readable_directory() as directory:
        ca, certificate, key = make_certificates(directory)
        other_ca = make_certificates(tmp_path_factory.mktemp("other"))[0]

        async def main() -> None:
            with irc_server(tls=(certificate, key)) as server:
                url = f"ircs://127.0.0.1:{server.tls_port}/talk"
                feed = KeepingFeed(runtime)
                async with (
                    irc_client(server.port, "ann", "#talk") as ann,
                    running(IrcChat(url, runtime, ca_file=ca), feed),
                ):
                    await ann.hear(" JOIN ")
                    await ann.say("PRIVMSG #talk :in secret")
                    assert await feed.until_lines(1) == [("ann", "in secret")]
                async with running(IrcChat(f"{url}?ca={ca}", runtime), feed):
                    await feed.until_bounds(1)
                # Neither the system's authorities nor another one vouch for it.
                for chat in (IrcChat(url, runtime), IrcChat(url, runtime, ca_file=other_ca)):
                    outcome = await _outcome(chat.run(feed))
                    assert "a certificate that is not trusted" in outcome
                    assert "?ca=FILE" in outcome
                # A server that speaks no TLS.
                plain = IrcChat(
                    f"ircs://127.0.0.1:{server.port}/talk",
                    runtime,
                    limits=IrcLimits(connect_s=0.5),
                )
                assert "cannot be reached" in await _outcome(plain.run(feed))
                bad = IrcChat(url, runtime, ca_file=key)
                assert "give a PEM file" in await _outcome(bad.run(feed))

        run_async(main)


@pytest.mark.irc_server
def test_a_certificate_for_another_host_is_not_taken(runtime: SystemRuntime) -> None:
    with _readable_directory() as directory:
        ca, certificate, key = make_certificates(directory, host="127.0.0.2")

        async def main() -> None:
            with irc_server(tls=(certificate, key)) as server:
                url = f"ircs://127.0.0.1:{server.tls_port}/talk"
                outcome = await _outcome(
                    IrcChat(url, runtime, ca_file=ca).run(KeepingFeed(runtime))
                )
                assert "not trusted" in outcome
                assert "127.0.0.1" in outcome

        run_async(main)


def test_a_ca_file_that_is_not_there(runtime: SystemRuntime, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ca\.pem: there is no such CA file"):
        IrcChat("ircs://h/talk", runtime, ca_file=tmp_path / "ca.pem")


# -- played servers --------------------------------------------------------------------------------


async def welcome(server: PlayedServer) -> None:
    """Let a client in, up to its JOIN."""
    await server.expect("CAP END")
    await server.say(":s 001 me :Welcome")
    await server.expect("JOIN")


def stamped(ns: int) -> str:
    """IRCv3's time tag."""
    when = dt.datetime.fromtimestamp(ns // NS_PER_S, dt.UTC)
    return f"@time={when:%Y-%m-%dT%H:%M:%S}.{ns % NS_PER_S // MS:03}Z"


def test_twitch(runtime: SystemRuntime) -> None:
    """Its dialect as documented: tags on request, a stamp on lines and none on PONG."""

    async def script(server: PlayedServer) -> None:
        for capability in ("message-tags", "server-time"):
            await server.expect(f"CAP REQ {capability}")
            await server.say(f":tmi.twitch.tv CAP * NAK :{capability}")
        await server.expect("CAP REQ :twitch.tv/commands twitch.tv/tags")
        await server.say(":tmi.twitch.tv CAP * ACK :twitch.tv/commands twitch.tv/tags")
        nick = (await server.expect("NICK ")).removeprefix("NICK ")
        assert re.fullmatch(r"justinfan\d{5}", nick)
        await server.expect("USER ")
        await server.say(
            f":tmi.twitch.tv 001 {nick} :Welcome, GLHF!",
            f":tmi.twitch.tv 376 {nick} :>",
        )
        ping = (await server.expect("PING ")).removeprefix("PING ")
        await server.expect("JOIN #someone")
        user = f":{nick}!{nick}@{nick}.tmi.twitch.tv"
        await server.say(
            f":tmi.twitch.tv PONG tmi.twitch.tv :{ping}",
            f"{user} JOIN #someone",
            f":{nick}.tmi.twitch.tv 353 {nick} = #someone :{nick}",
            "@emote-only=0;room-id=1 :tmi.twitch.tv ROOMSTATE #someone",
            "@badge-info=;display-name=Ann;tmi-sent-ts=1642715756806;user-type= "
            ":ann!ann@ann.tmi.twitch.tv PRIVMSG #someone :Kappa 😀",
            "@display-name=;tmi-sent-ts=1642715756807 "
            ":bob!bob@bob.tmi.twitch.tv PRIVMSG #someone :\x01ACTION dances\x01",
            "@display-name=Long;tmi-sent-ts=1642715756808 "
            ":long!l@l PRIVMSG #someone :" + "😀" * 500,
            "PING :tmi.twitch.tv",
        )
        await server.expect("PONG tmi.twitch.tv")
        await server.say(":tmi.twitch.tv RECONNECT")
        await server.until_gone()
        assert not any(line.startswith("PASS") for line in server.heard)

    async def main() -> None:
        async with played_server(script) as port:
            chat = IrcChat(f"irc://127.0.0.1:{port}/someone", runtime, name="twitch")
            feed = KeepingFeed(runtime)
            assert "asks to connect again" in await _outcome(chat.run(feed))
        assert feed.said == [("Ann", "Kappa 😀"), ("bob", "dances"), ("Long", "😀" * 500)]
        # Without a probe its stamps are in a time of its own: what counts is the arrival.
        assert [clock.tier for clock in feed.clocks] == [Tier.ARRIVAL]
        assert all(line.t_ns <= feed.now_ns() for line in feed.lines)
        check_items(feed, "twitch")

    run_async(main)


def test_the_servers_stamps_count_where_its_pong_has_one(runtime: SystemRuntime) -> None:
    """The server's clock is hours off; PONG with a time tag tells by how much."""
    feed = KeepingFeed(runtime, origin_ns=runtime.now_ns() - 100 * NS_PER_S)

    async def script(server: PlayedServer) -> None:
        def server_now_ns() -> int:
            return EPOCH_NS + feed.now_ns()

        await server.expect("CAP END")
        await server.say(f"{stamped(server_now_ns())} :s 001 me :Welcome")
        ping = (await server.expect("PING ")).removeprefix("PING ")
        await server.expect("JOIN")
        await server.say(
            f"{stamped(server_now_ns())} :s PONG s {ping}",
            ":me!u@h JOIN #talk",
            f"{stamped(server_now_ns() - 2 * NS_PER_S)} :ann PRIVMSG #talk :two seconds ago",
            f"{stamped(server_now_ns() - 60 * NS_PER_S)} :ann PRIVMSG #talk :played back",
            f"{stamped(server_now_ns() + 60 * NS_PER_S)} :ann PRIVMSG #talk :from the future",
            ":ann PRIVMSG #talk :no stamp",
        )
        await server.until_gone()

    async def main() -> None:
        async with played_server(script) as port:
            chat = IrcChat(f"irc://127.0.0.1:{port}/talk", runtime)
            async with running(chat, feed):
                await feed.until_lines(3)
                await feed.until_bounds(1)
        assert [text for _, text in feed.said] == ["two seconds ago", "from the future", "no stamp"]
        assert chat.drops.by_reason == {TOO_OLD: 1}
        first = feed.clocks[0]
        assert first.tier is Tier.SERVER
        assert feed.clocks[-1].tier is Tier.ARRIVAL
        check_items(feed, chat.name)

    run_async(main)


def test_a_stamp_lies_where_the_probe_says(runtime: SystemRuntime) -> None:
    """Lines after the join, stamped as they are sent: session time is right within the error."""
    feed = KeepingFeed(runtime)
    sent_ns: list[int] = []

    async def script(server: PlayedServer) -> None:
        await server.expect("CAP END")
        await server.say(":s 001 me :Welcome")
        ping = (await server.expect("PING ")).removeprefix("PING ")
        await server.expect("JOIN")
        await server.say(f"{stamped(EPOCH_NS + feed.now_ns())} :s PONG s {ping}")
        await server.say(":me!u@h JOIN #talk")
        await feed.until_bounds(1)
        for _ in range(20):
            sent_ns.append(feed.now_ns())
            await server.say(f"{stamped(EPOCH_NS + sent_ns[-1])} :ann PRIVMSG #talk :x")
        await server.until_gone()

    async def main() -> None:
        async with played_server(script) as port:
            chat = IrcChat(f"irc://127.0.0.1:{port}/talk", runtime)
            async with running(chat, feed):
                await feed.until_lines(20)
        (clock,) = feed.clocks
        assert clock.tier is Tier.SERVER
        for line, true_ns in zip(feed.lines, sent_ns, strict=True):
            assert abs(line.t_ns - true_ns) <= clock.error_ns + MS
        # Bounds lie back by what a stamped line may need.
        assert all(bound <= feed.now_ns() - 100 * MS or bound == 0 for bound in feed.bounds)

    run_async(main)


def test_a_flood_is_read_at_a_limit_and_the_excess_counted(runtime: SystemRuntime) -> None:
    async def script(server: PlayedServer) -> None:
        await welcome(server)
        await server.say(":me JOIN #talk", *[f":a PRIVMSG #talk :{n}" for n in range(5_000)])
        await server.say("PING :still there?")
        await server.expect("PONG :still there?")
        await server.say("ERROR :done")
        await server.until_gone()

    async def main() -> None:
        async with played_server(script) as port:
            limits = IrcLimits(lines_per_s=1, lines_burst=100, bytes_per_s=1e6, bytes_burst=16_384)
            url = f"irc://127.0.0.1:{port}/talk"
            chat, feed = IrcChat(url, runtime, limits=limits), KeepingFeed(runtime)
            began_ns = feed.now_ns()
            assert "(done)" in await _outcome(chat.run(feed))
        # Some 130 kB at a megabyte a second, less what passes at once.
        assert feed.now_ns() - began_ns > 90 * MS
        assert len(feed.lines) >= 100
        assert len(feed.lines) + chat.drops.by_reason[TOO_MANY] == 5_000
        assert [text for _, text in feed.said[:100]] == [str(n) for n in range(100)]

    run_async(main)


def test_malformed_and_endless_lines_are_counted(runtime: SystemRuntime) -> None:
    async def script(server: PlayedServer) -> None:
        await welcome(server)
        await server.say(
            ":me JOIN #talk",
            b"",
            b"\x00\x01\x02",
            b":a PRIVMSG #talk :" + b"x" * 600,
            b":a PRIVMSG #talk :" + b"y" * 200_000,
            b"@t=1 :a PRIVMSG #talk :" + b"z" * 3_000,
            b"@t=1 PING :" + b"p" * 3_000,
            b":a PRIVMSG #talk :good",
        )
        await server.until_gone()

    async def main() -> None:
        async with played_server(script) as port:
            chat = IrcChat(f"irc://127.0.0.1:{port}/talk", runtime)
            feed = KeepingFeed(runtime)
            async with running(chat, feed):
                assert await feed.until_lines(2) == [("a", "z" * 2_000), ("a", "good")]
        assert chat.drops.by_reason == {TOO_LONG: 2, CUT: 1, MALFORMED: 2}

    run_async(main)


def _says(*lines: str) -> Callable[[PlayedServer], Awaitable[None]]:
    async def script(server: PlayedServer) -> None:
        await server.expect("CAP END")
        if lines:
            await server.say(*lines)
            await server.until_gone()

    return script


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (_says(), "closed the connection"),
        (_says("NOTICE * :*** Looking you up", "PING x"), "did not welcome us within 0.5 s (***"),
        (_says(":s 001 me :Welcome"), "did not let us into the channel within 0.5 s"),
        (_says("ERROR :too many of you"), "(too many of you)"),
        (_says(*["CAP * LS * :x"] * 10), "did not welcome us"),
    ],
)
def test_a_server_that_does_not_get_on(
    runtime: SystemRuntime, script: Callable[[PlayedServer], Awaitable[None]], words: str
) -> None:
    async def main() -> None:
        async with played_server(script) as port:
            limits = IrcLimits(register_s=0.5, join_s=0.5)
            url = f"irc://ann:secret@127.0.0.1:{port}/talk"
            feed = KeepingFeed(runtime)
            outcome = await _outcome(IrcChat(url, runtime, limits=limits).run(feed))
        assert words in outcome
        assert "secret" not in outcome
        assert feed.items == []

    run_async(main)


def test_nobody_listens_or_answers(runtime: SystemRuntime) -> None:
    async def main() -> None:
        feed = KeepingFeed(runtime)
        chat = IrcChat(f"irc://127.0.0.1:{free_port()}/talk", runtime)
        outcome = await _outcome(chat.run(feed))
        assert "cannot be reached" in outcome
        assert "check host and port" in outcome
        # TLS to somebody who says nothing: the connection is there, the handshake never ends.
        async with played_server(_silent) as port:
            limits = IrcLimits(connect_s=0.3)
            chat = IrcChat(f"ircs://127.0.0.1:{port}/talk", runtime, limits=limits)
            assert "no answer within 0.3 s" in await _outcome(chat.run(feed))

    run_async(main)


async def _silent(server: PlayedServer) -> None:
    await server.until_gone()


def test_limits_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="bytes_burst"):
        IrcLimits(bytes_burst=1_000)


def test_nothing_is_logged_of_what_is_said(
    runtime: SystemRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(server: PlayedServer) -> None:
        await welcome(server)
        await server.say(":me JOIN #talk", ":ann PRIVMSG #talk :a secret", "ERROR :bye")

    async def main() -> None:
        async with played_server(script) as port:
            chat = IrcChat(f"irc://ann:hunter2@127.0.0.1:{port}/talk", runtime)
            await _outcome(chat.run(KeepingFeed(runtime)))

    with caplog.at_level(logging.DEBUG, logger="counterpoint"):
        run_async(main)
    assert caplog.text == ""


async def _outcome(run: Awaitable[None]) -> str:
    """The error with which a run broke off."""
    with pytest.raises(SourceError) as error:
        await run
    assert "\n" not in str(error.value)
    return str(error.value)


@contextlib.contextmanager
def _readable_directory() -> Iterator[Path]:
    """Not pytest's, whose parents only we may read."""
    with tempfile.TemporaryDirectory(prefix="cp") as directory:
        yield Path(directory)
