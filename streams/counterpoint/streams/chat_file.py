"""A recorded chat as a source: JSON lines with ``seconds``, ``author`` and ``text``."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.merge import MAX_ITEMS_PER_STEP
from counterpoint.streams.types import (
    NS_PER_S,
    Bound,
    ChatLine,
    DropCounter,
    Item,
    Modality,
    SourceEnded,
    Step,
)

log = logging.getLogger(__name__)

HEARTBEAT_NS: Final = 250_000_000
"""How often the source says that it is up to date, as a live chat does."""
MAX_FILE_BYTES: Final = 50_000_000
MAX_LINE_BYTES: Final = 65_536
MAX_SECONDS: Final = 7 * 24 * 3600
MAX_TEXT_CHARACTERS: Final = 2_000
MAX_AUTHOR_CHARACTERS: Final = 200

CORRUPT: Final = "corrupt chat line"
CUT: Final = "long chat text cut"

_MAX_WARNINGS = 10  # a wholly corrupt file must not flood the log


class _CorruptLineError(Exception):
    """Why a line is skipped; does not leave this module."""


class ChatFileSource:
    """Lines of a chat file, each released at its own instant, and a heartbeat in between.

    The file has one JSON object a line, in any order: ``{"seconds": 1.5, "author": "ann",
    "text": "…"}``, seconds since the start of the session. Lines of the same instant keep the
    order of the file. A corrupt line (bad UTF-8 or JSON, a field that is missing or of the wrong
    kind, seconds that are negative, not finite or more than a week) is counted and skipped; a
    text of more than 2,000 characters is cut and counted.

    Args:
        path: the file, at most 50 MB; a line has at most 64 KiB.
        until_ns: the chat is known to be silent after its last line up to here (the length of
            the recording it belongs to); by default it ends with its last line.
        name: name of the source within its session; by default the name of the file.

    Raises:
        UsageError: there is no such file.
        SourceError: the file cannot be read or is too large.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        until_ns: int | None = None,
        name: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = self.path.name if name is None else name
        self.drops = DropCounter()
        lines = sorted(self._read(), key=lambda line: line[0])
        self._lines = [
            ChatLine(source=self.name, t_ns=t_ns, author=author, text=text, sequence=sequence)
            for sequence, (t_ns, author, text) in enumerate(lines)
        ]
        self._end_ns = max(self._lines[-1].t_ns if self._lines else 0, until_ns or 0)
        self._items = self._all_items()
        self._head = next(self._items, None)

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset({Modality.CHAT})

    @property
    def line_count(self) -> int:
        """How many lines of the file are good."""
        return len(self._lines)

    def step(self, now_ns: int) -> Step:
        """What is released up to ``now_ns``, at most `MAX_ITEMS_PER_STEP` items."""
        items: list[tuple[int, Item]] = []
        while (
            self._head is not None and self._head.t_ns <= now_ns and len(items) < MAX_ITEMS_PER_STEP
        ):
            items.append((self._head.t_ns, self._head))
            self._head = next(self._items, None)
        return Step(
            items=tuple(items), next_wake_ns=None if self._head is None else self._head.t_ns
        )

    def close(self) -> None:
        """Give nothing more."""
        self._items.close()
        self._head = None

    def _all_items(self) -> Generator[Item, None, None]:
        beat_ns = HEARTBEAT_NS
        for line in self._lines:
            while beat_ns <= line.t_ns:
                yield Bound(source=self.name, modality=Modality.CHAT, t_ns=beat_ns)
                beat_ns += HEARTBEAT_NS
            yield line
        while beat_ns <= self._end_ns:
            yield Bound(source=self.name, modality=Modality.CHAT, t_ns=beat_ns)
            beat_ns += HEARTBEAT_NS
        yield SourceEnded(source=self.name, modality=Modality.CHAT, t_ns=self._end_ns)

    def _read(self) -> Iterator[tuple[int, str, str]]:
        try:
            if not self.path.is_file() and self.path.exists():
                raise SourceError(f"{self.path}: this is not a file; give a file of JSON lines")
            size = self.path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise SourceError(
                    f"{self.path}: {size / 1e6:.0f} MB of chat, at most "
                    f"{MAX_FILE_BYTES / 1e6:.0f} MB are read; split the file"
                )
            with self.path.open("rb") as file:
                for number, raw in enumerate(_bounded_lines(file), start=1):
                    if raw is not None and not raw.strip():
                        continue
                    try:
                        yield self._parse(raw)
                    except _CorruptLineError as error:
                        self._skip(number, str(error))
        except FileNotFoundError as error:
            raise UsageError(f"{self.path}: there is no such file; check the path") from error
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error.strerror})") from error
        if (skipped := self.drops.by_reason.get(CORRUPT, 0)) > _MAX_WARNINGS:
            log.warning("%s: %d corrupt lines skipped in all", self.path, skipped)

    def _skip(self, number: int, why: str) -> None:
        self.drops.add(CORRUPT)
        if self.drops.by_reason[CORRUPT] <= _MAX_WARNINGS:
            log.warning("%s line %d: skipped, %s", self.path, number, why)

    def _parse(self, raw: bytes | None) -> tuple[int, str, str]:
        if raw is None:
            raise _CorruptLineError(f"longer than {MAX_LINE_BYTES} bytes")
        try:
            fields = json.loads(raw.decode("utf-8-sig"))
        except ValueError as error:  # also what is not UTF-8
            raise _CorruptLineError(f"not JSON ({error})") from error
        except RecursionError as error:
            raise _CorruptLineError("nested too deeply") from error
        if not isinstance(fields, dict):
            raise _CorruptLineError("not a JSON object")
        seconds, author, text = (fields.get(key) for key in ("seconds", "author", "text"))
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise _CorruptLineError("seconds is not a number")
        if not 0 <= seconds <= MAX_SECONDS:
            raise _CorruptLineError(f"seconds is not between 0 and {MAX_SECONDS}")
        if not isinstance(author, str) or not isinstance(text, str):
            raise _CorruptLineError("author and text are not both strings")
        if len(text) > MAX_TEXT_CHARACTERS:
            self.drops.add(CUT)
        return (
            round(seconds * NS_PER_S),
            _encodable(author[:MAX_AUTHOR_CHARACTERS]),
            _encodable(text[:MAX_TEXT_CHARACTERS]),
        )


def _bounded_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of ``file``; None for one of more than `MAX_LINE_BYTES`, of which none is kept."""
    while raw := file.readline(MAX_LINE_BYTES + 1):
        if len(raw) <= MAX_LINE_BYTES or raw.endswith(b"\n"):
            yield raw
            continue
        while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


def _encodable(text: str) -> str:
    """``text`` without the lone surrogates that JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
