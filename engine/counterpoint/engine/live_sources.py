"""From what a person writes (``webcam:0``, ``mic:default``, ``irc://…``) to live sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from counterpoint.engine.chat_redis import RedisChat, chat_key
from counterpoint.engine.purpose import PROFILES
from counterpoint.engine.sources import CountingSource, OpenSources
from counterpoint.streams.camera import Camera
from counterpoint.streams.chat_file import ChatFileSource
from counterpoint.streams.chat_irc import IrcChat
from counterpoint.streams.errors import UsageError
from counterpoint.streams.feed import LiveSource
from counterpoint.streams.lineup import Lineup
from counterpoint.streams.microphone import Microphone
from counterpoint.streams.network_media import NetworkMedia
from counterpoint.streams.pump import PacedSource
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import Modality

SLOTS: Final = {Modality.VIDEO: "camera", Modality.AUDIO: "microphone", Modality.CHAT: "chat"}
"""What a live session's items are from, whatever feeds them at the moment."""

_NETWORK: Final = ("rtsp", "rtsps", "http", "https")
_LIVE: Final[Mapping[Modality, tuple[str, ...]]] = {
    Modality.VIDEO: ("webcam", *_NETWORK),
    Modality.AUDIO: ("mic", *_NETWORK),
    Modality.CHAT: ("irc", "ircs", "redis"),
}
_FORMS: Final = {
    Modality.VIDEO: "webcam:N, rtsp://…, http://…, file:PATH or none",
    Modality.AUDIO: "mic:default, mic:NAME, rtsp://…, http://…, file:PATH or none",
    Modality.CHAT: "irc://HOST/CHANNEL, ircs://…, redis:KEY, redis:, file:PATH or none",
}


def kind_of(modality: Modality, text: str) -> str:
    """``none``, ``file``, or the kind of a live source.

    Raises:
        UsageError: no such kind for this modality.
    """
    if text in ("", "none"):
        return "none"
    kind, colon, rest = text.partition(":")
    if colon and kind in _LIVE[modality]:
        return kind
    if colon and kind == "file" and rest:
        return kind
    path = "" if colon else f"; for a recording write --{modality} file:{text}"
    raise UsageError(f"--{modality} {text}: takes {_FORMS[modality]}{path}")


def any_live(*, video: str, audio: str, chat: str) -> bool:
    """Whether any of them comes by itself; else all are recordings.

    Raises:
        UsageError: as `kind_of`.
    """
    given = {Modality.VIDEO: video, Modality.AUDIO: audio, Modality.CHAT: chat}
    return any(kind_of(m, text) not in ("none", "file") for m, text in given.items())


def open_live(
    session: str,
    *,
    video: str,
    audio: str,
    chat: str,
    runtime: Runtime,
    redis_url: str,
    profile: str,
) -> OpenSources:
    """The sources as one lineup; recordings among them play from the session's start.

    Args:
        session: its name; ``redis:`` alone is the chat stream of that name.
        redis_url: the engine's Redis.
        profile: name of the purpose profile.

    Raises:
        UsageError: another kind of source, one that the profile forbids, a file that is not there.
        SourceError: a file that cannot be opened.
    """
    given = {Modality.VIDEO: video, Modality.AUDIO: audio, Modality.CHAT: chat}
    wanted = {m: text for m, text in given.items() if kind_of(m, text) != "none"}
    for modality in wanted:
        if modality not in PROFILES[profile].modalities:
            raise UsageError(f"--{modality}: the purpose profile {profile} takes in no {modality}")
    slots = {modality: SLOTS[modality] for modality in wanted}
    lineup = Lineup(session, slots, runtime, lasting=False)
    parts: list[CountingSource] = []

    def add(source: LiveSource, *, retry: bool = True) -> None:
        parts.append(source)
        lineup.add(source, retry=retry)

    if video == audio and Modality.VIDEO in wanted:
        both = frozenset({Modality.VIDEO, Modality.AUDIO})
        if kind_of(Modality.VIDEO, video) == "file":
            add(_recording(video, both, runtime, session), retry=False)
        else:
            add(NetworkMedia(video, runtime, modalities=both))
        wanted = {m: text for m, text in wanted.items() if m is Modality.CHAT}
    for modality, text in wanted.items():
        kind = kind_of(modality, text)
        if kind == "file":
            add(_recording(text, frozenset({modality}), runtime, session), retry=False)
        else:
            add(_live(modality, kind, text, session, runtime, redis_url))
    return OpenSources(source=lineup, names=slots, duration_ns=None, parts=parts)


def _live(
    modality: Modality, kind: str, text: str, session: str, runtime: Runtime, redis_url: str
) -> LiveSource:
    rest = text.partition(":")[2]
    match kind:
        case "webcam":
            if not rest.isdecimal():
                raise UsageError(f"--video {text}: a camera has a number, as in webcam:0")
            return Camera(int(rest), runtime)
        case "mic":
            return Microphone(rest or "default", runtime)
        case "irc" | "ircs":
            return IrcChat(text, runtime)
        case "redis":
            return RedisChat(redis_url, rest or chat_key(session), runtime)
    return NetworkMedia(text, runtime, modalities=frozenset({modality}))


def _recording(
    text: str, modalities: frozenset[Modality], runtime: Runtime, session: str
) -> PacedSource:
    path = Path(text.partition(":")[2])
    if modalities == {Modality.CHAT}:
        lines = ChatFileSource(path)
        return PacedSource(lines.name, lines, runtime, lane=f"replay-{session}-chat")
    media = MediaFileSource(
        path,
        video=Modality.VIDEO in modalities,
        audio=Modality.AUDIO in modalities,
        require=modalities,
    )
    return PacedSource(media.name, media, runtime, lane=f"replay-{session}-{min(modalities)}")
