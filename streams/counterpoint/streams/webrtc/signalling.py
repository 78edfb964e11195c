"""What clients say before media flow, as text: offers, answers and trickled candidates. Pure.

Session descriptions are RFC 8866 with what WebRTC adds (RFC 8829); fragments with candidates are
RFC 8840, as WHIP sends them (RFC 9725).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from counterpoint.streams.errors import UsageError

MAX_OFFER_CHARS: Final = 256 * 1024
MAX_FRAGMENT_CHARS: Final = 32 * 1024
MAX_SECTIONS: Final = 16
MAX_CANDIDATES: Final = 128
# Without these a browser's estimate begins at 300 kbit/s, and a busy picture falls to a quarter.
VP8_BITRATES: Final = "x-google-start-bitrate=2000;x-google-min-bitrate=800"
_KINDS: Final = ("audio", "video", "application")
_DIRECTIONS: Final = ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive")
_EOL: Final = "\r\n"


class OfferError(UsageError):
    """An offer that cannot be taken, and why."""


class CandidateError(UsageError):
    """A fragment with candidates that cannot be taken, and why."""


@dataclass(slots=True)
class _Section:
    kind: str
    lines: list[str]
    mid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A client's offer, made ready.

    Fields:
        sdp: the offer, without candidates that have to be looked up by multicast DNS.
        credentials: the pairs (ufrag, pwd) that it names.
        late_candidates: those left out, as pairs (mid, candidate).
        complete: it says that no more candidates will come.
    """

    sdp: str
    credentials: frozenset[tuple[str, str]]
    late_candidates: tuple[tuple[str | None, str], ...]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """Candidates that came after the offer.

    Fields:
        ufrag, pwd: of the ICE session they belong to, where they are named.
        candidates: pairs (mid, candidate); the mid is None where it is not named.
        complete: no more will come.
    """

    ufrag: str | None = None
    pwd: str | None = None
    candidates: tuple[tuple[str | None, str], ...] = ()
    complete: bool = False


def read_offer(text: str, unwanted: Collection[str] = ()) -> Offer:
    """An offer, as far as it can be judged without a media stack.

    Args:
        unwanted: ``audio``, ``video``: such sections are taken as inactive, so that the answer
            tells the client to send nothing.

    Raises:
        OfferError: it is no session description, or asks for what there is not.
    """
    if len(text) > MAX_OFFER_CHARS:
        raise OfferError(f"the offer has more than {MAX_OFFER_CHARS} characters")
    if not text.startswith("v=0"):
        raise OfferError("this is no session description: it does not begin with v=0")
    session, sections = _split(text)
    if not sections:
        raise OfferError("the offer has no media section (m=)")
    if len(sections) > MAX_SECTIONS:
        raise OfferError(f"the offer has more than {MAX_SECTIONS} media sections")
    mids = [section.mid for section in sections if section.mid is not None]
    if len(set(mids)) < len(mids):
        raise OfferError("two media sections of the offer have the same a=mid")
    for line in session:
        bundled = line.removeprefix("a=group:BUNDLE").split() if "a=group:BUNDLE" in line else []
        if len(set(bundled)) < len(bundled) or not set(bundled) <= set(mids):
            raise OfferError("a=group:BUNDLE of the offer does not name its media sections")
    for section in sections:
        if section.kind not in _KINDS:
            raise OfferError(f"the offer has a media section of an unknown kind: {section.kind!r}")
    if sum(section.kind == "application" for section in sections) > 1:
        raise OfferError("the offer has more than one section for data channels")
    if text.count("a=candidate:") > MAX_CANDIDATES:
        raise OfferError(f"the offer has more than {MAX_CANDIDATES} candidates")
    default = next((line for line in session if line in _DIRECTIONS), "a=sendrecv")
    for section in sections:
        if section.kind != "application" and not set(section.lines).intersection(_DIRECTIONS):
            section.lines.append(default)
        if section.kind in unwanted:
            section.lines = [line for line in section.lines if line not in _DIRECTIONS]
            section.lines.append("a=inactive")
    late = _take_late_candidates(sections)
    complete = "a=end-of-candidates" in text
    if late:
        for section in sections:
            section.lines = [line for line in section.lines if line != "a=end-of-candidates"]
    lines = session + [line for section in sections for line in section.lines]
    return Offer(
        sdp=_EOL.join(lines) + _EOL,
        credentials=_credentials(session, sections),
        late_candidates=tuple(late),
        complete=complete,
    )


def write_answer(text: str) -> str:
    """The media stack's answer, with the bit rates that a sender of VP8 is to begin and stay with.

    Chromium reads them from the answer's format parameters; others pass over them.
    """
    found = re.findall(r"^a=rtpmap:(\d+) VP8/90000\r?$", text, re.MULTILINE | re.IGNORECASE)
    for payload_type in found:
        text = re.sub(
            rf"^(a=rtpmap:{payload_type} .*?)\r?$",
            rf"\1\r\na=fmtp:{payload_type} {VP8_BITRATES}\r",
            text,
            flags=re.MULTILINE,
        )
    return text


def read_fragment(text: str) -> Fragment:
    """A trickled fragment (RFC 8840, section 9).

    Raises:
        CandidateError: it cannot be read.
    """
    if len(text) > MAX_FRAGMENT_CHARS:
        raise CandidateError(f"the fragment has more than {MAX_FRAGMENT_CHARS} characters")
    ufrag = pwd = mid = None
    candidates: list[tuple[str | None, str]] = []
    complete = False
    for line in text.splitlines():
        name, _, value = line.strip().partition(":")
        match name:
            case "a=ice-ufrag":
                ufrag = value
            case "a=ice-pwd":
                pwd = value
            case "a=mid":
                mid = value
            case "a=candidate":
                candidates.append((mid, value))
            case "a=end-of-candidates":
                complete = True
            case _ if name and not re.match(r"^[a-z]=", name):
                raise CandidateError(f"the fragment has a line that is not of one: {line[:40]!r}")
    if not candidates and not complete and ufrag is None:
        raise CandidateError("the fragment has no candidate")
    if len(candidates) > MAX_CANDIDATES:
        raise CandidateError(f"the fragment has more than {MAX_CANDIDATES} candidates")
    return Fragment(ufrag=ufrag, pwd=pwd, candidates=tuple(candidates), complete=complete)


def credentials_of(text: str) -> frozenset[tuple[str, str]]:
    """The pairs (ufrag, pwd) that a description names."""
    return _credentials(*_split(text))


def _split(text: str) -> tuple[list[str], list[_Section]]:
    session: list[str] = []
    sections: list[_Section] = []
    for line in text.splitlines():
        if line.startswith("m="):
            sections.append(_Section(kind=line[2:].partition(" ")[0], lines=[line]))
        elif not sections:
            session.append(line)
        else:
            sections[-1].lines.append(line)
            if line.startswith("a=mid:"):
                sections[-1].mid = line.removeprefix("a=mid:").strip()
    return session, sections


def _take_late_candidates(sections: list[_Section]) -> list[tuple[str | None, str]]:
    """Take out candidates that are names (``.local``): looking them up may take a second."""
    late: list[tuple[str | None, str]] = []
    for section in sections:
        kept: list[str] = []
        for line in section.lines:
            words = line.split()
            if line.startswith("a=candidate:") and len(words) > 4 and words[4].endswith(".local"):
                late.append((section.mid, line.removeprefix("a=candidate:")))
            else:
                kept.append(line)
        section.lines = kept
    return late


def _credentials(session: list[str], sections: list[_Section]) -> frozenset[tuple[str, str]]:
    groups = [session, *(section.lines for section in sections)]
    found: set[tuple[str, str]] = set()
    for lines in groups:
        named = dict(
            line.split(":", 1) for line in lines if line.startswith("a=ice-") and ":" in line
        )
        if "a=ice-ufrag" in named and "a=ice-pwd" in named:
            found.add((named["a=ice-ufrag"].strip(), named["a=ice-pwd"].strip()))
    return frozenset(found)
