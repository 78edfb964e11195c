"""Personal data in text, replaced by what kind of data it was.

For what is logged or published of a chat, never for what the models read. It looks for what has a
form of its own (an address, a number with a check digit, a key), and leaves ordinary prose and
numbers as they are; names of people have no form, and stay.

Every pattern costs time in proportion to the text, whatever is in it: runs of characters are read
once, from their beginning (``(?<!…)`` in front, possessive behind), everything else has a bound.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final

EMAIL: Final = "[email]"
PHONE: Final = "[phone]"
CARD: Final = "[card]"
IBAN: Final = "[iban]"
IP: Final = "[ip]"
KEY: Final = "[key]"
CREDENTIALS: Final = "[credentials]"
QUERY: Final = "[query]"
HANDLE: Final = "[handle]"

MAX_GROWTH: Final = 4
"""The text becomes at most so many times as long."""

_ROUNDS: Final = 4

_URL = re.compile(r"://\S+")
_URL_AFTER: Final = ".,;:!?)'\"»>"
# What a server may be told of itself, in a URL or a header.
_SECRET = re.compile(
    r"(?i)(?<![^\W_])(password|passwd|pwd|secret|token|api_?key|access_?key)=(?!\[)[^\s&;,\"'\[\]]+"
)
_BEARER = re.compile(
    r"(?i)(?<![^\W_])(bearer |basic |oauth:)(?=[a-z._~+/-]{0,100}[0-9=])[\w.~+/=-]{8,}+", re.ASCII
)
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]++@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,63}")
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]++\.[\w-]++(?:\.[\w-]++)?", re.ASCII)
_RUN = re.compile(r"(?<![\w-])[\w-]{20,}+={0,2}", re.ASCII)
_KEY_PREFIX = re.compile(r"(?:sk|pk|rk|gh[opsur]|glpat|xox[a-z]|AKIA|ASIA|AIza)[-_A-Z0-9]")
_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
_IPV6 = re.compile(r"(?<![\w:])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{3,39}(?![\w:])")
_IBAN = re.compile(r"(?<![^\W_])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_CARD = re.compile(
    r"(?<![\w.,])(?:[2-6][0-9]{3}(?:[ -]?[0-9]{4}){2}[ -]?[0-9]{1,4}(?:[ -]?[0-9]{1,3})?"
    r"|3[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{4,5})"
)
# Nothing that a match can end with is forbidden in front of a "+" or a "(": else a chain of numbers
# would be found one by one, each time the text is redacted.
_PHONE = re.compile(
    # +49 170 1234567, 0049 (170) 123-4567
    r"(?:(?<!\+)\+|(?<![\w.,+-])00)[1-9](?:[ ().\-/]{0,3}[0-9]){8,13}(?![0-9])"
    # 030 / 123 456 78: a trunk zero
    r"|(?:\(|(?<![\w.,+-]))0[1-9](?:[ ().\-/]{0,3}[0-9]){7,10}(?![\w]|[.,][0-9])"
    # (555) 123-4567, 1-555-123-4567, 5551234567
    r"|(?:(?:(?<![\w.,+-])1[ .-])?\([2-9][0-9]{2}\) ?[0-9]{3}[ .-]"
    r"|(?<![\w.,+-])(?:1[ .-])?[2-9][0-9]{2}(?:[ .-][0-9]{3}[ .-]|[2-9][0-9]{2}))"
    r"[0-9]{4}(?![\w]|[.,-][0-9])"
)
_DATE = re.compile(r"[0-9]{1,2}([./-])[0-9]{1,2}\1[0-9]{2,4}(?![0-9])")
_HANDLE = re.compile(r"(?<![\w@.])(?:@[^\W\d]\w{1,31})+")

# Lengths of the IBANs of the registry (ISO 13616).
_IBAN_LENGTHS: Final = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL SD FK",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}

_NO_SEPARATORS: Final = str.maketrans("", "", " -")
_DOUBLED: Final = str.maketrans("0123456789", "0246813579")  # the digits' sums of the doubled ones

_Judge = Callable[[re.Match[str]], int]
"""Where what a match begins with ends that is to be replaced; -1 if nothing is."""


def redact(text: str, *, handles: bool = False) -> str:
    """``text`` without the personal data that can be told by their form.

    E-mail addresses, telephone numbers, payment cards (Luhn), IBANs (mod 97), IP addresses, the
    credentials and queries of URLs, and long tokens and keys become `[email]`, `[phone]`, …;
    redacting again changes nothing. The result is at most `MAX_GROWTH` times as long.

    Args:
        handles: also replace ``@name``.
    """
    for _ in range(_ROUNDS):
        # What goes may bring to light what was a part of something longer before.
        before, text = text, _once(text, handles=handles)
        if text == before:
            break
    return text


def _once(text: str, *, handles: bool) -> str:
    if "://" in text:
        text = _URL.sub(lambda match: _url(match[0]), text)
    if "@" in text:
        text = _EMAIL.sub(EMAIL, text)
    text = _BEARER.sub(rf"\g<1>{KEY}", text)
    if "=" in text:
        text = _SECRET.sub(rf"\g<1>={KEY}", text)
    text = _JWT.sub(KEY, text)
    digits = any(map(str.isdigit, text))
    if digits:
        text = _IPV4.sub(_ipv4, text)
        text = _replace(_IBAN, text, IBAN, _iban_end)
        text = _replace(_CARD, text, CARD, _card_end)
    text = _RUN.sub(_run, text)
    if digits:
        text = _replace(_PHONE, text, PHONE, _phone_end)
        if ":" in text:
            text = _IPV6.sub(_ipv6, text)
    if handles and "@" in text:
        text = _HANDLE.sub(HANDLE, text)
    return text


def _replace(pattern: re.Pattern[str], text: str, label: str, judge: _Judge) -> str:
    """Replace what ``judge`` finds at each match; go on behind it, or one character further."""
    parts: list[str] = []
    kept_to = place = 0
    while (match := pattern.search(text, place)) is not None:
        end = judge(match)
        if end < 0:
            place = match.start() + 1
            continue
        parts += (text[kept_to : match.start()], label)
        kept_to = place = end
    if not parts:
        return text
    return "".join((*parts, text[kept_to:]))


def _url(rest: str) -> str:
    """What follows a scheme, without credentials and query."""
    url = rest.rstrip(_URL_AFTER)
    after = rest[len(url) :]
    head, mark, _ = url.partition("?")
    query = f"?{QUERY}" if mark else ""
    head, mark, fragment = head.partition("#")
    if "=" in fragment or (mark and query):
        query = query or f"#{QUERY}"
    elif mark:
        query = f"#{fragment}"
    authority, slash, path = head.removeprefix("://").partition("/")
    credentials, at, host = authority.rpartition("@")
    if at and credentials:
        authority = f"{CREDENTIALS}@{host}"
    return f"://{authority}{slash}{path}{query}{after}"


def _ipv4(match: re.Match[str]) -> str:
    return _ip(match[0])


def _ipv6(match: re.Match[str]) -> str:
    # "::" and words of program text have no digits.
    return _ip(match[0]) if any(map(str.isdigit, match[0])) else match[0]


def _ip(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    # These are of this machine, and of nobody.
    return text if address.is_loopback or address.is_unspecified else IP


def _run(match: re.Match[str]) -> str:
    """A run of letters and digits is a key if they alternate as no word's do."""
    run = match[0].rstrip("=")
    if _KEY_PREFIX.match(run):
        return KEY
    changes = 0
    longest_mixed = 0
    for part in re.split("[-_]", run):
        digits = sum(map(str.isdigit, part))
        if 0 < digits < len(part):
            longest_mixed = max(longest_mixed, len(part))
            changes += sum(a.isdigit() != b.isdigit() for a, b in pairwise(part))
    return KEY if changes >= 4 or (longest_mixed >= 20 and changes >= 2) else match[0]


def _iban_end(match: re.Match[str]) -> int:
    text, start = match.string, match.start()
    length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
    if length is None:
        return -1
    place, number = start, ""
    while len(number) < length and place < match.end():
        if text[place] not in " -":
            number += text[place].upper()
        place += 1
    if len(number) < length or (place < len(text) and text[place].isalnum()):
        return -1
    # ISO 7064: the first four to the end, letters as numbers from 10, remainder 1.
    digits = "".join(str(int(c, 36)) for c in number[4:] + number[:4])
    return place if int(digits) % 97 == 1 else -1


def _card_end(match: re.Match[str]) -> int:
    text = match.string
    number = match[0].translate(_NO_SEPARATORS)
    end = match.end()
    for count in range(len(number), 12, -1):
        if not text[end : end + 1].isalnum() and _issued(number, count) and _luhn(number[:count]):
            return end
        end -= 1
        while text[end - 1] in " -":
            end -= 1
    return -1


def _luhn(number: str) -> bool:
    """Whether the check digit is right (ISO/IEC 7812-1, annex B)."""
    plain = number[::-2] + number[-2::-2].translate(_DOUBLED)
    return sum(map(int, plain)) % 10 == 0


def _issued(number: str, count: int) -> bool:
    """Whether some issuer's cards begin like this and are so long (ISO/IEC 7812).

    Instants of this century, in any unit, begin with 1.
    """
    if number[0] == "3":
        return count == 15 if number[1] in "47" else count in (14, 16) and number[1] in "0568"
    if number[0] == "4":
        return count in (13, 16, 19)
    if number[0] in "25":
        return count == 16
    return count >= 16


def _phone_end(match: re.Match[str]) -> int:
    return -1 if _DATE.match(match[0]) else match.end()


class RedactingFilter(logging.Filter):
    """Redacts the message of each log record, and the text of its exception.

    Put it on handlers: a logger's filters do not see the records of the loggers below it.

    Args:
        handles: also replace ``@name``.
    """

    def __init__(self, *, handles: bool = False) -> None:
        super().__init__()
        self._handles = handles
        self._formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record in place; lets all pass."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError, IndexError):
            # Wrong arguments: `logging` would print them as they are.
            message = f"{record.msg!r} with {record.args!r}"
        record.msg, record.args = redact(message, handles=self._handles), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text, handles=self._handles)
        if record.stack_info:
            record.stack_info = redact(record.stack_info, handles=self._handles)
        return True
