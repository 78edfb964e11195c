"""Redaction: what it finds, what it leaves, and what holds for any text."""

from __future__ import annotations

import io
import logging
import sys
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from counterpoint.engine.redact import MAX_GROWTH, RedactingFilter, redact

FOUND = [
    ("write to ann.b+x@mail.example.co.uk, please", "write to [email], please"),
    ("<Jürgen@exämple.de>", "<[email]>"),
    (f"{'x' * 300}@example.org", "[email]"),
    ("+49 170 1234567", "[phone]"),
    ("call 0049 (170) 123-4567 now", "call [phone] now"),
    ("(030) 123 456 78 or 0171/1234567", "[phone] or [phone]"),
    ("06 12 34 56 78", "[phone]"),
    ("(555) 123-4567, 555.123.4567, 1-800-555-0199", "[phone], [phone], [phone]"),
    ("it is 5552345678.", "it is [phone]."),
    ("4111 1111 1111 1111 12/26", "[card] 12/26"),
    ("5500-0000-0000-0004", "[card]"),
    ("3782 822463 10005 and 4111111111111111", "[card] and [card]"),
    ("1234 4111 1111 1111 1111 5678", "1234 [card] 5678"),
    ("DE89 3704 0044 0532 0130 00 is mine", "[iban] is mine"),
    ("GB82WEST12345698765432,NL91ABNA0417164300", "[iban],[iban]"),
    ("gb82 west 1234 5698 7654 32", "[iban]"),
    ("from 192.168.1.100:8080", "from [ip]:8080"),
    ("[2001:db8:85a3::8a2e:370:7334]:443, fe80::1", "[[ip]]:443, [ip]"),
    ("rtsp://ann:secret@cam.example/live", "rtsp://[credentials]@cam.example/live"),
    ("(https://x.example/p?session=1#top)", "(https://x.example/p?[query])"),
    ("see https://x.example/#access_token=abc, ok?", "see https://x.example/#[query], ok?"),
    ("https://a@b:c@x.example", "https://[credentials]@x.example"),
    ("550e8400-e29b-41d4-a716-446655440000", "[key]"),
    ("sk-abcdefghijklmnopqrstuv", "[key]"),
    ("deadbeef0123456789abcdef01234567", "[key]"),
    ("Authorization: Bearer abcdefgh1jklmnop", "Authorization: Bearer [key]"),
    ("PASS oauth:abcdefgh123", "PASS oauth:[key]"),
    ("password=hunter2;x=1", "password=[key];x=1"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "[key]"),
]

LEFT = [
    "I paid 1200 euros in 2024",
    "12 345 678 people, 1,234,567.89 euros, pi is 3.14159265358979",
    "on 01.02.2024 at 10:30:15, 05/06/2024 12:30, 2024-01-15T10:00:00Z",
    "window 12: 3000000000 ns, at 1700000000, 1700000000123 and 1700000000123456789",
    "v1.2.3, 1.2.3.4.5 and chapter 4.1.2",
    "std::cout << a::b << dead::beef",
    "5 @ 3 and me@home, @ann",
    "covid-19-pandemic-in-europe IMG_20240115_123456_HDR 2024-01-15-meeting-notes-v2",
    "Donaudampfschifffahrtsgesellschaftskapitän",
    "a basic understanding, a bearer instrument",
    "listening on http://127.0.0.1:8080 and http://[::1]:8080",
    "4111 1111 1111 1112 is no card, DE88370400440532013000 no account",
    "https://x.example/path/file.html#top",
    "why? because: https://x.example/really?",
    "🙂 schön, 你好, привет",
    "",
]


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_personal_data_are_replaced(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize("text", LEFT)
def test_ordinary_text_is_left(text: str) -> None:
    assert redact(text) == text


def test_handles_go_where_that_is_asked_for() -> None:
    assert redact("@ann_b, @c and x@y: hi", handles=True) == "[handle], @c and x@y: hi"
    assert redact("@ann_b") == "@ann_b"


@given(st.integers(0, 10**15 - 1))
def test_a_card_is_told_by_its_check_digit(payload: int) -> None:
    digits = f"4{payload:014}"[:15]
    # By the book, beside the implementation: double every second from the right, sum the digits.
    total = sum(
        sum(map(int, str(int(d) * (2 if place % 2 == 0 else 1))))
        for place, d in enumerate(reversed(digits))
    )
    check = -total % 10
    for last in range(10):
        number = f"{digits}{last}"
        grouped = " ".join(number[n : n + 4] for n in range(0, 16, 4))
        for text in (number, grouped, grouped.replace(" ", "-")):
            assert (redact(f"no {text}.") == "no [card].") is (last == check), text


PIECES = st.sampled_from(
    [text for text, _ in FOUND]
    + LEFT
    + ["@", "::", "://", "?", "#", "=", "+", "++49", "0049", "00", "(0", ".", "-", "_", "/", "["]
    + ["]", "(", ")", "1", "12", "1234", "123456789", "a", "ab", "f:", ":f", "\n"]
    + ["[email]", "[query]", "[ip]", "=[key]", " ", "bearer ", "token=", "eyJa.b", "x" * 25]
    + ["1.2.3.4", "4111111111111111", "+491701234567", "::1:2", "a@b.cd", "://a@b?c#d", "a1" * 10]
)
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="ab1f0:.@+-/?#=[]() _"),
    st.lists(PIECES, max_size=12).map("".join),
    st.lists(st.one_of(PIECES, st.text(alphabet="a10 .:@-+", max_size=3)), max_size=12).map(
        "".join
    ),
)


@given(TEXTS, st.booleans())
@example("1.2.3.4+491701234567+491701234567+491701234567", False)
@example("://h/030 1234567?secret=1", False)
@example("://a@?b " * 10, False)
def test_redacting_again_changes_nothing_and_the_length_is_bounded(
    text: str, handles: bool
) -> None:
    once = redact(text, handles=handles)
    assert redact(once, handles=handles) == once
    assert len(once) <= MAX_GROWTH * len(text)


WORDS = st.text(alphabet=st.characters(categories=["Lu", "Ll", "Lo"]), min_size=1, max_size=30)
NUMBERS = st.integers(-999_999, 999_999).map(str) | st.floats(-1e6, 1e6).map(lambda x: f"{x:.3f}")


@given(st.lists(WORDS | NUMBERS | st.sampled_from([",", ".", "!", "–", ":)"]), max_size=20))
def test_words_and_numbers_are_left(parts: list[str]) -> None:
    text = "; ".join(parts)
    assert redact(text, handles=True) == text


HOSTILE = [
    *(
        "a",
        "4",
        "-",
        "@",
        ":",
        " ",
        "1 ",
        "4 ",
        "1.",
        "a.",
        "a@",
        "a@b.",
        "a-b@",
        "://",
        "://?",
        "0(",
    ),
    *(
        "+1",
        "+1(",
        "DE12 ",
        "DE89 3704 ",
        "4444 ",
        "4111 1111 1111 1112 ",
        "f:",
        "f::",
        "eyJ.",
        "a1-",
    ),
    *("0171 ", "555 ", "token=", "bearer ", "bearer a", "1.1.1.1+49170123456", "[", "@a", "://a@"),
    *("1.2.3.4.", "(030) ", "eyJa.b.", "password=a", "💥", "a_1"),
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_costs_no_more_than_other_text(piece: str) -> None:
    """Patterns that backtrack take minutes for 100 kB; these take a third of a second at most."""
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    redact(text, handles=True)
    assert time.process_time() - started < 10


def logged(*args: object, exception: bool = False) -> str:
    """What a handler with the filter writes of a record."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactingFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    exc_info = None
    if exception:
        try:
            int("rtsp://ann:pw@cam.example/live")
        except ValueError:
            exc_info = sys.exc_info()
    message, *rest = args
    handler.handle(
        logging.LogRecord("a.b", logging.INFO, __file__, 1, message, tuple(rest), exc_info)
    )
    return stream.getvalue()


def test_the_filter_redacts_the_formatted_message() -> None:
    assert logged("%s wrote from %s", "a@b.example", "10.1.2.3") == "INFO [email] wrote from [ip]\n"
    # Only the whole message shows it: neither the text nor the argument is an address.
    assert logged("by %s@example.org", "ann") == "INFO by [email]\n"


def test_the_filter_redacts_exceptions() -> None:
    text = logged("broke", exception=True)
    assert text.startswith("INFO broke\nTraceback")
    assert "rtsp://[credentials]@cam.example/live" in text
    assert "pw" not in text


def test_the_filter_survives_wrong_arguments() -> None:
    assert logged("%d lines", "a@b.example") == "INFO '%d lines' with ('[email]',)\n"
