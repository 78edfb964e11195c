"""From what a person writes (``file:PATH``, ``none``) to one merged source.

Everything that opens a source by name is here; a session only sees the `Source` protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from counterpoint.streams.chat_file import ChatFileSource
from counterpoint.streams.errors import UsageError
from counterpoint.streams.feed import LiveSource
from counterpoint.streams.merge import MergedSource
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.types import DropCounter, Modality, Source

DEMO_FOLDER = Path(__file__).parent / "demo"


class CountingSource(Protocol):
    """A source, live or not, that says what it had to drop."""

    @property
    def name(self) -> str: ...
    @property
    def drops(self) -> DropCounter: ...


class _Counting(CountingSource, Source, Protocol):
    """A recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSources:
    """Open sources of one session.

    Fields:
        source: all of them as one.
        names: for each modality, the name its items carry.
        duration_ns: how long the media say they last; None if they do not.
        parts: the sources themselves, for what they had to drop.
    """

    source: Source | LiveSource
    names: Mapping[Modality, str]
    duration_ns: int | None
    parts: Sequence[CountingSource]

    @property
    def recording(self) -> Source:
        """The source, for what steps it itself.

        Raises:
            TypeError: it is live.
        """
        if isinstance(self.source, LiveSource):
            raise TypeError(f"{self.source.name} is live")
        return self.source

    def drops(self) -> dict[str, int]:
        """What the sources could not read, by "source: reason"."""
        return {
            f"{part.name}: {reason}": count
            for part in self.parts
            for reason, count in part.drops.by_reason.items()
        }


def open_sources(*, video: str, audio: str, chat: str) -> OpenSources:
    """Open ``file:PATH`` or ``none`` for each modality.

    Raises:
        UsageError: another kind of source, a file that is not there, or nothing at all.
        SourceError: a file that cannot be opened or lacks what is asked of it.
    """
    paths = {
        modality: _path(modality, text)
        for modality, text in (
            (Modality.VIDEO, video),
            (Modality.AUDIO, audio),
            (Modality.CHAT, chat),
        )
    }
    media: list[tuple[Path, frozenset[Modality]]] = []
    picture, sound = paths[Modality.VIDEO], paths[Modality.AUDIO]
    if picture is not None and picture == sound:
        media.append((picture, frozenset({Modality.VIDEO, Modality.AUDIO})))
    else:
        if picture is not None:
            media.append((picture, frozenset({Modality.VIDEO})))
        if sound is not None:
            media.append((sound, frozenset({Modality.AUDIO})))
    if not media and paths[Modality.CHAT] is None:
        raise UsageError(
            "nothing to run on: give --video, --audio or --chat (each file:PATH), "
            "or set them under [session] in the configuration"
        )
    return _open(media, paths[Modality.CHAT], require=True)


def open_replay(path: Path, chat: Path | None = None) -> OpenSources:
    """Open a media file with whatever of video and audio it has, and a chat file beside it.

    Raises:
        UsageError: a file that is not there.
        SourceError: a file that cannot be opened or has neither video nor audio.
    """
    both = frozenset({Modality.VIDEO, Modality.AUDIO})
    return _open([(path, both)], chat, require=False)


def open_demo() -> OpenSources:
    """The recorded session that ships with the package."""
    return open_replay(DEMO_FOLDER / "session.mp4", DEMO_FOLDER / "chat.jsonl")


def _open(
    media: Sequence[tuple[Path, frozenset[Modality]]], chat: Path | None, *, require: bool
) -> OpenSources:
    parts: list[_Counting] = []
    names: dict[Modality, str] = {}
    durations: list[int] = []
    try:
        for path, wanted in media:
            source = MediaFileSource(
                path,
                video=Modality.VIDEO in wanted,
                audio=Modality.AUDIO in wanted,
                require=wanted if require else frozenset(),
            )
            parts.append(source)
            names.update(dict.fromkeys(source.modalities, source.name))
            if source.duration_ns is not None:
                durations.append(source.duration_ns)
        if chat is not None:
            lines = ChatFileSource(chat, until_ns=max(durations, default=None))
            parts.append(lines)
            names[Modality.CHAT] = lines.name
    except BaseException:
        for part in parts:
            part.close()
        raise
    return OpenSources(
        source=MergedSource(parts),
        names=names,
        duration_ns=max(durations, default=None),
        parts=parts,
    )


def _path(modality: Modality, text: str) -> Path | None:
    if text in ("", "none"):
        return None
    kind, colon, rest = text.partition(":")
    if kind != "file" or not colon or not rest:
        raise UsageError(
            f"--{modality} {text}: this version takes file:PATH or none; "
            f"for a recording write --{modality} file:{text if not colon else 'PATH'}"
        )
    return Path(rest)
