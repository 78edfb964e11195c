"""The protocol of IRC: messages, lines, and the conversation of a reader, without a network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.irc import (
    MAX_BYTES,
    MAX_TAGS_BYTES,
    IrcFormatError,
    Lines,
    Message,
    encode,
    fold,
    parse,
    plain_text,
    server_ns,
)
from counterpoint.streams.irc_talk import IrcAddress, Said, Stage, Talk, parse_url

# -- messages --------------------------------------------------------------------------------------

EXAMPLES = [
    (b"PING", Message(command="PING")),
    (b"ping :a b\r\n", Message(command="PING", params=("a b",))),
    (
        b":ann!~a@host PRIVMSG #talk :hello: there\r\n",
        Message(command="PRIVMSG", params=("#talk", "hello: there"), prefix="ann!~a@host"),
    ),
    (
        b":irc.test  001   cp  :Welcome\n",
        Message(command="001", params=("cp", "Welcome"), prefix="irc.test"),
    ),
    (b"MODE #c +o  ann", Message(command="MODE", params=("#c", "+o", "ann"))),
    (b"TOPIC #c :", Message(command="TOPIC", params=("#c", ""))),
    (
        # Behind the q a backslash without anything to escape: it goes.
        rb"@a=1;b;+x.org/c=\:\s\\\r\n\q\ :s PRIVMSG c d",
        Message(
            command="PRIVMSG",
            params=("c", "d"),
            prefix="s",
            tags={"a": "1", "b": "", "+x.org/c": "; \\\r\nq"},
        ),
    ),
    (b"@a=1;a=2;=3;; X", Message(command="X", tags={"a": "2"})),
    (b"@a=b\\ X", Message(command="X", tags={"a": "b"})),
    (b"PRIVMSG #c :\xff\xfeh\xc3\xa4", Message(command="PRIVMSG", params=("#c", "\ufffd\ufffdhä"))),
    (
        b"X 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17",
        Message(command="X", params=(*map(str, range(1, 15)), "15 16 17")),
    ),
]


@pytest.mark.parametrize(("line", "message"), EXAMPLES)
def test_lines_are_understood(line: bytes, message: Message) -> None:
    assert parse(line) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\r\n",
        b" PING",
        b":only.prefix",
        b"@only=tags",
        b"1 x",
        b"12345 x",
        b"PRIV-MSG x",
        b"PING a\x00b",
        b"PING a\rb",
        b"PING a\nb",
        b"X " + b"y" * 510,
        b"@a=" + b"b" * MAX_TAGS_BYTES + b" X",
        b"@a " + b"X" * (MAX_TAGS_BYTES + MAX_BYTES),
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(IrcFormatError):
        parse(line)


def test_the_longest_lines_are_taken() -> None:
    assert parse(b"X " + b"y" * 508 + b"\r\n").params == ("y" * 508,)
    # Twitch's lines with tags are longer than 512 bytes behind them.
    message = parse(b"@a PRIVMSG #c :" + "😀".encode() * 500)
    assert message.params[1] == "😀" * 500
    tags = b"@a=" + b"b" * (MAX_TAGS_BYTES - 4) + b" "
    assert len(tags) == MAX_TAGS_BYTES
    assert len(parse(tags + b"X").tags["a"]) == MAX_TAGS_BYTES - 4


@given(st.binary(max_size=600) | st.binary(max_size=40).map(lambda b: b"@" + b))
def test_any_bytes_are_a_message_or_refused(line: bytes) -> None:
    try:
        message = parse(line)
    except IrcFormatError:
        return
    assert message.command == message.command.upper()
    assert len(message.params) <= 15
    for param in message.params[:-1]:
        assert param
        assert " " not in param


LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r\n")
WORDS = st.text(LETTERS.filter(lambda c: c != " "), min_size=1, max_size=8).filter(
    lambda word: not word.startswith(":")
)
TAGS = st.dictionaries(
    st.from_regex(r"\+?(?:[a-z]{1,4}\.org/)?[a-z0-9-]{1,8}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8),
    max_size=4,
)
MESSAGES = st.builds(
    lambda command, middle, last, prefix, tags: Message(
        command=command,
        params=(*middle, *last),
        prefix=prefix,
        tags=tags,
    ),
    command=st.from_regex(r"[A-Z]{1,8}|[0-9]{3}", fullmatch=True),
    middle=st.lists(WORDS, max_size=14),
    last=st.lists(st.text(LETTERS, max_size=20), max_size=1),
    prefix=st.just("") | st.text(LETTERS.filter(lambda c: c != " "), max_size=10),
    tags=TAGS,
).filter(lambda message: len("".join(message.params).encode()) < 400)


@given(MESSAGES)
def test_what_is_said_is_understood_as_it_was_meant(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\r\n")
    assert line.count(b"\n") == 1
    assert parse(line) == message


@given(st.binary(max_size=100))
def test_what_was_understood_can_be_said_again(line: bytes) -> None:
    try:
        message = parse(line)
        again = encode(message)
    except IrcFormatError:
        return  # no message, or a tag whose name no line of ours would have
    assert parse(again) == message


@pytest.mark.parametrize(
    "message",
    [
        Message(command="PING", params=("a\r\nQUIT",)),
        Message(command="PING", params=("a\x00",)),
        Message(command="NICK", params=("a b", "c")),
        Message(command="NICK", params=("", "c")),
        Message(command="NICK", params=(":a", "c")),
        Message(command="nick"),
        Message(command=""),
        Message(command="X", prefix="a b"),
        Message(command="X", params=("a",) * 16),
        Message(command="X", params=("a" * 510,)),
        Message(command="X", params=("\ud800",)),
        Message(command="X", tags={"a b": ""}),
        Message(command="X", tags={"": "1"}),
        Message(command="X", tags={"a": "b" * MAX_TAGS_BYTES}),
    ],
)
def test_what_no_line_can_say_is_refused(message: Message) -> None:
    with pytest.raises(IrcFormatError):
        encode(message)


def test_nicks_and_names() -> None:
    assert parse(b":ann!~a@host X").nick == "ann"
    assert parse(b":ann@host X").nick == "ann"
    assert parse(b":irc.test X").nick == "irc.test"
    assert parse(b"X").nick == ""
    assert fold("#Foo[A]\\~") == fold("#fOO{a}|^")
    assert fold("#foo") != fold("#fop")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("hello", "hello"),
        ("\x02bold\x02 \x1ditalic\x0f \x1f_\x1f \x16r \x11m \x1es", "bold italic _ r m s"),
        ("\x034red\x03 \x0304,12both\x03,1 \x0312345", "red both,1 345"),
        ("\x04ff0000red\x04 \x04ff0000,00ff00x", "red x"),
        ("\x01ACTION waves\x01", "waves"),
        ("\x01ACTION \x02waves", "waves"),
        ("\x01ACTION\x01", ""),
        ("a\x07b\x1bc\x7f\t", "abc"),
        ("\x01VERSION\x01", None),
        ("\x01DCC SEND x 1 2 3\x01", None),
        ("\x01ACTIONwaves\x01", None),
    ],
)
def test_formatting_is_stripped(text: str, plain: str | None) -> None:
    assert plain_text(text) == plain


@given(st.text())
def test_plain_text_has_no_control_codes(text: str) -> None:
    plain = plain_text(text)
    assert plain is None or not any(c < " " or c == "\x7f" for c in plain)


@pytest.mark.parametrize(
    ("tags", "expected_ns"),
    [
        ({"time": "2011-10-19T16:40:51.620Z"}, 1_319_042_451_620_000_000),
        ({"time": "2011-10-19T16:40:51Z"}, 1_319_042_451_000_000_000),
        ({"time": "2012-06-30T23:59:60.419Z"}, 1_341_100_800_419_000_000),
        ({"tmi-sent-ts": "1642715756806"}, 1_642_715_756_806_000_000),
        ({"time": "1970-01-01T00:00:01.000Z", "tmi-sent-ts": "5"}, 1_000_000_000),
        ({"time": "2011-13-19T16:40:51.620Z"}, None),
        ({"time": "2011-10-19T25:40:51.620Z"}, None),
        ({"time": "yesterday"}, None),
        ({"tmi-sent-ts": "-1"}, None),
        ({"tmi-sent-ts": "9" * 16}, None),
        ({}, None),
    ],
)
def test_server_stamps(tags: dict[str, str], expected_ns: int | None) -> None:
    assert server_ns(tags) == expected_ns


# -- lines -----------------------------------------------------------------------------------------


@given(
    lines=st.lists(
        st.binary(min_size=1, max_size=40).filter(lambda b: not set(b) & set(b"\r\n")), max_size=20
    ),
    ends=st.lists(st.sampled_from([b"\r\n", b"\n", b"\r\n\r\n"]), min_size=20, max_size=20),
    cuts=st.lists(st.integers(1, 30), max_size=60),
)
def test_lines_come_whole_however_they_are_cut(
    lines: list[bytes], ends: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    splitter, got = Lines(), []
    for cut in (*cuts, len(data)):
        got += splitter.feed(data[:cut])
        data = data[cut:]
    assert got == lines
    assert splitter.too_long == 0


@pytest.mark.parametrize("piece", [7, 512, 16_384, 10**6])
def test_a_line_that_is_too_long_is_left_out_and_costs_no_memory(piece: int) -> None:
    data = b"PING a\r\n" + b"x" * 100_000 + b"\r\nPING b\r\n" + b"y" * 511 + b"\r\n@t PING c\n"
    splitter, got = Lines(), []
    for start in range(0, len(data), piece):
        got += splitter.feed(data[start : start + piece])
        assert len(splitter._rest) <= MAX_BYTES + MAX_TAGS_BYTES
    assert got == [b"PING a", b"PING b", b"@t PING c"]
    assert splitter.too_long == 2


# -- addresses -------------------------------------------------------------------------------------


def test_addresses() -> None:
    address, ca = parse_url("irc://irc.example/talk")
    assert address == IrcAddress(host="irc.example", port=6667, tls=False, channel="#talk")
    assert ca is None
    address, ca = parse_url("ircs://ann:p%40ss@[::1]:7000/%23talk?key=sesame&ca=/x/ca.pem")
    assert address == IrcAddress(
        host="::1",
        port=7000,
        tls=True,
        channel="#talk",
        key="sesame",
        nick="ann",
        password="p@ss",
    )
    assert ca == "/x/ca.pem"
    assert "p@ss" not in repr(address)
    assert "sesame" not in repr(address)
    assert parse_url("ircs://h/#talk")[0].channel == "#talk"
    assert parse_url("ircs://h/##talk")[0].channel == "##talk"
    assert parse_url("ircs://h/&local")[0].channel == "&local"
    assert parse_url("ircs://h/t")[0].port == 6697
    assert parse_url("irc://irc.chat.twitch.tv/Some_One")[0].channel == "#some_one"


@pytest.mark.parametrize(
    "url",
    [
        "http://h/c",
        "irc:///c",
        "irc://h",
        "irc://h/",
        "irc://h/%23",
        "irc://h:x/c",
        "irc://h:99999/c",
        "irc://[::1/c",
        "irc://h/a%20b",
        "irc://h/a,b",
        "irc://h/a%0d%0aQUIT",
        "irc://a%20b@h/c",
        "irc://a:hunter2%0a@h/c",
        "irc://h/c?insecure=1",
        "irc://h/c?ca=x",
        "ircs://h/c?verify",
        "irc://h/c?key=a%20b",
        f"irc://{'h' * 70}.example/c",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="IRC address: ") as error:
        parse_url(url)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


# -- the conversation ------------------------------------------------------------------------------


def talk_of(url: str = "irc://irc.example/talk") -> Talk:
    return Talk(parse_url(url)[0], lambda count: "1234567890"[:count])


def stage_of(talk: Talk) -> Stage:
    return talk.stage  # which a type checker would think unchanged


def said_by(messages: list[Message]) -> list[str]:
    return [encode(message).decode().rstrip("\r\n") for message in messages]


def joined(url: str = "irc://irc.example/talk") -> Talk:
    talk = talk_of(url)
    talk.hello()
    talk.hear(parse(b":s 001 me :Welcome"))
    talk.hear(parse(b":me!u@h JOIN #talk"))
    assert stage_of(talk) is Stage.JOINED
    return talk


def test_an_anonymous_reader_registers_and_joins() -> None:
    talk = talk_of()
    assert said_by(talk.hello()) == [
        "CAP REQ message-tags",
        "CAP REQ server-time",
        "CAP REQ :twitch.tv/commands twitch.tv/tags",
        "NICK justinfan12345",
        "USER justinfan12345 0 * counterpoint",
        "CAP END",
    ]
    assert talk.hear(parse(b":s CAP * ACK :server-time")) == []
    assert talk.hear(parse(b":s 421 * CAP :Unknown command")) == []
    assert stage_of(talk) is Stage.REGISTERING
    assert said_by(talk.hear(parse(b":s 001 justinf :Welcome"))) == ["JOIN #talk"]
    assert stage_of(talk) is Stage.JOINING
    assert talk.hear(parse(b":other!u@h JOIN #talk")) == []
    assert stage_of(talk) is Stage.JOINING
    assert talk.hear(parse(b":justinf!u@h JOIN :#TALK")) == []
    assert stage_of(talk) is Stage.JOINED


def test_nick_password_and_key() -> None:
    talk = talk_of("irc://ann:secret@irc.example/talk?key=sesame")
    hello = said_by(talk.hello())
    assert hello[0] == "PASS secret"
    assert "NICK ann" in hello
    assert said_by(talk.hear(parse(b":s 001 ann :Welcome"))) == ["JOIN #talk sesame"]


@pytest.mark.parametrize(
    ("url", "nicks"),
    [
        ("irc://h/talk", ["cp123456"] * 4),
        ("irc://longnick@h/talk", ["longnick_", "longni123", "longni123", "longni123"]),
    ],
)
def test_a_nick_that_is_refused_gives_way_to_others(url: str, nicks: list[str]) -> None:
    talk = talk_of(url)
    talk.hello()
    for nick in nicks:
        assert said_by(talk.hear(parse(b":s 433 * x :Nickname is already in use"))) == [
            f"NICK {nick}"
        ]
    with pytest.raises(SourceError, match=r"none of our nicks.*already in use"):
        talk.hear(parse(b":s 433 * x :Nickname is already in use"))


def test_pings_are_answered_at_any_time() -> None:
    talk = talk_of()
    assert said_by(talk.hear(parse(b"PING :a b"))) == ["PONG :a b"]
    assert said_by(joined().hear(parse(b"PING"))) == ["PONG"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b":s 464 * :Bad password", "nick and password (Bad password)"),
        (b":s 465 * :You are banned", "refuses us"),
        (b":tmi.twitch.tv NOTICE * :Login authentication failed", "nick and password"),
        (b"ERROR :Closing link", "ends the connection (Closing link)"),
    ],
)
def test_a_server_that_refuses_us(line: bytes, words: str) -> None:
    talk = talk_of("irc://ann:secret@irc.example/talk")
    talk.hello()
    with pytest.raises(SourceError) as error:
        talk.hear(parse(line))
    assert words in str(error.value)
    assert str(error.value).startswith("irc:irc.example/talk: ")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b":s 403 me #talk :No such channel", "no such channel (No such channel)"),
        (b":s 405 me #talk :x", "no more channels"),
        (b":s 471 me #talk :x", "full"),
        (b":s 473 me #talk :x", "invitation"),
        (b":s 474 me #TALK :x", "banned"),
        (b":s 475 me #talk :x", "?key=KEY"),
        (b":s 477 me #talk :x", "registered nicks"),
        (b":s 489 me #talk :x", "does not let us into the channel"),
        (b"@msg-id=msg_channel_suspended :s NOTICE #talk :Gone", "into the channel (Gone)"),
    ],
)
def test_a_channel_that_does_not_let_us_in(line: bytes, words: str) -> None:
    talk = talk_of()
    talk.hello()
    talk.hear(parse(b":s 001 me :Welcome"))
    talk.hear(parse(b":s 442 me #other :not ours"))
    with pytest.raises(SourceError) as error:
        talk.hear(parse(line))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b":op!u@h KICK #talk me :Enough", "op has kicked us from the channel (Enough)"),
        (b":me!u@h PART #talk", "put out of the channel"),
        (b":tmi.twitch.tv RECONNECT", "asks to connect again"),
        (b"ERROR :\x02Killed\x02 " + b"x" * 400, "ends the connection (Killed x"),
    ],
)
def test_what_ends_the_reading(line: bytes, words: str) -> None:
    talk = joined()
    with pytest.raises(SourceError) as error:
        talk.hear(parse(line))
    assert words in str(error.value)
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


def test_what_does_not_end_the_reading() -> None:
    talk = joined()
    for line in (
        b":op!u@h KICK #talk other :Enough",
        b":op!u@h KICK #other me :Enough",
        b":op!u@h KICK #talk",
        b":other!u@h PART #talk",
        b":me!u@h PART #other",
        b":me!u@h NICK",
        b"PART",
        b"NOTICE",
        b":s 474 me #talk :too late",
        b":s NOTICE #talk :slow mode",
    ):
        assert talk.hear(parse(line)) == []
    assert stage_of(talk) is Stage.JOINED


def test_we_follow_our_own_nick() -> None:
    talk = joined()
    talk.hear(parse(b":other!u@h NICK someone"))
    talk.hear(parse(b":me!u@h NICK :guest1"))
    assert talk.said(parse(b":guest1!u@h PRIVMSG #talk :x")) is None
    assert talk.said(parse(b":me!u@h PRIVMSG #talk :x")) == Said("me", "x", None)
    with pytest.raises(SourceError, match="kicked"):
        talk.hear(parse(b":op KICK #talk guest1"))


def test_lines_of_the_channel() -> None:
    talk = joined()
    assert talk.said(parse(b":ann!u@h PRIVMSG #Talk :\x02hi\x02 there")) == Said(
        "ann", "hi there", None
    )
    twitch = (
        b"@badge-info=;display-name=Ann\\sB;tmi-sent-ts=1642715756806;user-type= "
        b":ann!ann@ann.tmi.twitch.tv PRIVMSG #talk :Kappa"
    )
    assert talk.said(parse(twitch)) == Said("Ann B", "Kappa", 1_642_715_756_806_000_000)
    for line in (
        b":ann!u@h PRIVMSG me :in private",
        b":ann!u@h PRIVMSG #other :elsewhere",
        b":me!u@h PRIVMSG #talk :ours",
        b":ann!u@h NOTICE #talk :a program's",
        b":ann!u@h PRIVMSG #talk :\x01VERSION\x01",
        b":ann!u@h PRIVMSG #talk",
        b":ann!u@h TOPIC #talk :x",
    ):
        assert talk.said(parse(line)) is None


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_no_server_makes_it_fail_but_with_its_own_errors(lines: list[bytes]) -> None:
    talk = talk_of()
    talk.hello()
    for line in (b":s 001 me :x", *lines, b":me JOIN #talk", *lines):
        try:
            message = parse(line)
            talk.hear(message)
            talk.said(message)
        except (IrcFormatError, SourceError):
            continue
