"""Configuration: frozen sections, one strict loader, errors that name file and line.

Values come from, later ones winning: the defaults here, a TOML file (``-c``), ``--set`` pairs.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterpoint.engine.adapt.settings import AdaptationSection
from counterpoint.engine.purpose import PROFILES, allowed_heads
from counterpoint.engine.server.settings import ServerSection
from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import Modality

NS_PER_MS = 1_000_000


class ConfigError(UsageError):
    """A configuration that cannot be used; the message says where and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSection:
    """What runs the models.

    Fields:
        bundle: folder of the bundle; empty for the one shipped in the package.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    bundle: str = ""
    device: str = "auto"

    def check(self) -> str | None:
        if self.device not in ("auto", "cpu", "cuda"):
            return f"device is auto, cpu or cuda, not {self.device!r}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSection:
    """When windows close. All in milliseconds.

    Fields:
        hop_ms: from one window to the next; 0 takes the bundle's hop, else a multiple of it.
        deadline_ms: a window leaves at its end plus this, complete or not.
        idle_ms: a source silent for this long is no longer waited for.
        stalled_ms: a source silent for this long is called stalled.
        chat_delay_ms: how late a chat line may arrive and still count for its instant.
        lateness_ms: how long after its deadline a window is amended by what comes late; 0 never.
        required: the modalities that a window waits for, with commas; the others are taken as
            they are when it leaves. Empty: a window waits for nothing.
    """

    hop_ms: int = 0
    deadline_ms: int = 250
    idle_ms: int = 150
    stalled_ms: int = 2_000
    chat_delay_ms: int = 100
    lateness_ms: int = 0
    required: str = "video,audio"

    def check(self) -> str | None:
        if self.hop_ms < 0:
            return f"hop_ms is 0 (the bundle's) or more, not {self.hop_ms}"
        if self.chat_delay_ms < 0:
            return f"chat_delay_ms is 0 or more, not {self.chat_delay_ms}"
        if self.lateness_ms < 0:
            return f"lateness_ms is 0 or more, not {self.lateness_ms}"
        known = [modality.value for modality in Modality]
        if unknown := [name for name in self._required_names() if name not in known]:
            return f"required is any of {', '.join(known)}, with commas, not {unknown[0]!r}"
        if not 0 < self.idle_ms < self.stalled_ms:
            return f"0 < idle_ms < stalled_ms must hold, not {self.idle_ms} and {self.stalled_ms}"
        if self.deadline_ms <= 0:
            return f"deadline_ms must be positive, not {self.deadline_ms}"
        return None

    def required_modalities(self) -> frozenset[Modality]:
        """Those named by ``required``."""
        return frozenset(Modality(name) for name in self._required_names())

    def _required_names(self) -> list[str]:
        return [name.strip() for name in self.required.split(",") if name.strip()]

    def stride(self, bundle_hop_ns: int) -> int:
        """Bundle hops from one window to the next.

        Raises:
            ConfigError: hop_ms is no multiple of the bundle's hop.
        """
        if self.hop_ms == 0:
            return 1
        stride, rest = divmod(self.hop_ms * NS_PER_MS, bundle_hop_ns)
        if rest:
            raise ConfigError(
                f"time.hop_ms={self.hop_ms}: must be a multiple of the bundle's hop of "
                f"{bundle_hop_ns // NS_PER_MS} ms"
            )
        return stride


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSection:
    """Where predictions go.

    Fields:
        url: ``embedded``, ``embedded:PORT``, ``redis://``, ``rediss://`` or ``unix://``.
        stream_maxlen: predictions a session's stream keeps, approximately.
        queue_size: predictions that wait for a slow Redis before the oldest is dropped.
    """

    url: str = "embedded"
    stream_maxlen: int = 10_000
    queue_size: int = 1_024

    def check(self) -> str | None:
        if self.stream_maxlen <= 0:
            return f"stream_maxlen must be positive, not {self.stream_maxlen}"
        if self.queue_size < 2:
            return f"queue_size must be at least 2, not {self.queue_size}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSection:
    """Bounds of what waits between a source and the models, per session.

    Fields:
        video_frames, audio_chunks, chat_lines: room in the mailbox; the oldest gives way.
    """

    video_frames: int = 64
    audio_chunks: int = 256
    chat_lines: int = 256

    def check(self) -> str | None:
        for name in ("video_frames", "audio_chunks", "chat_lines"):
            if getattr(self, name) <= 0:
                return f"{name} must be positive, not {getattr(self, name)}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSection:
    """What a session takes in when the command line does not say.

    Fields:
        video: ``webcam:N``, ``rtsp://…``, ``http://…``, ``file:PATH`` or ``none``.
        audio: ``mic:NAME``, ``rtsp://…``, ``http://…``, ``file:PATH`` or ``none``.
        chat: ``irc://HOST/CHANNEL``, ``ircs://…``, ``redis:KEY``, ``file:PATH`` or ``none``.
    """

    video: str = "none"
    audio: str = "none"
    chat: str = "none"

    def check(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PurposeSection:
    """What sessions may be used for. Takes away from what the profile allows, never adds to it.

    Fields:
        profile: ``general``, ``private`` or ``workplace``; see `purpose.PROFILES`.
        heads: heads and numbers that are published, with commas; empty for all that the profile
            allows.
        media: whether pictures, sound and words may be stored; if not, a recording keeps only
            what the encoders made of them.
    """

    profile: str = "general"
    heads: str = ""
    media: bool = True

    def check(self) -> str | None:
        if self.profile not in PROFILES:
            return f"profile is any of {', '.join(PROFILES)}, not {self.profile!r}"
        locked = PROFILES[self.profile].heads
        if locked is not None and (more := [h for h in self.wanted_heads() if h not in locked]):
            return f"heads: the profile {self.profile} locks {more[0]!r}"
        return None

    def wanted_heads(self) -> list[str]:
        """Those named by ``heads``."""
        return [name.strip() for name in self.heads.split(",") if name.strip()]

    @property
    def may_store_media(self) -> bool:
        """Whether both the profile and ``media`` allow it."""
        return self.media and PROFILES[self.profile].media

    @property
    def modalities(self) -> frozenset[Modality]:
        """What may be taken in."""
        return PROFILES[self.profile].modalities

    def allowed_heads(self, known: Iterable[str]) -> frozenset[str]:
        """The heads that are published, of those that the bundle has.

        Raises:
            ConfigError: one that the bundle lacks, or none is left.
        """
        allowed, problem = allowed_heads(PROFILES[self.profile], self.wanted_heads(), known)
        if problem is not None:
            raise ConfigError(f"purpose: {problem}")
        return allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSection:
    """Live sessions: how many, and how patient.

    Fields:
        max_sessions: sessions at once, whatever the machine could do.
        max_participants: in one session.
        max_minutes: how long a session may last; 0 for as long as it likes.
        capacity: share of the machine's cores up to which sessions are taken in, as measured.
        media_idle_ms: a peer that sends nothing for this long is gone.
        linger_ms: a participant without a connection is waited for this long: time to reconnect.
        connect_ms: a peer that is not connected after this is given up.
        ice_servers: STUN and TURN servers (``stun:host:port``, ``turn:user:password@host:port``),
            with commas; none by default.
        chat_redis: whether lines are also read from ``counterpoint:chat:SESSION`` in Redis.
        chat_lines_per_s: lines a second of one author.
    """

    max_sessions: int = 32
    max_participants: int = 8
    max_minutes: int = 0
    capacity: float = 0.85
    media_idle_ms: int = 2_000
    linger_ms: int = 2_500
    connect_ms: int = 10_000
    ice_servers: str = ""
    chat_redis: bool = False
    chat_lines_per_s: float = 5.0

    def check(self) -> str | None:
        for name in ("max_sessions", "max_participants", "media_idle_ms", "connect_ms"):
            if getattr(self, name) <= 0:
                return f"{name} must be positive, not {getattr(self, name)}"
        if self.linger_ms < 0 or self.max_minutes < 0:
            return "linger_ms and max_minutes are 0 or more"
        if not 0 < self.capacity <= 1:
            return f"capacity is a share, above 0 and at most 1, not {self.capacity:g}"
        if self.chat_lines_per_s <= 0:
            return f"chat_lines_per_s must be positive, not {self.chat_lines_per_s:g}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All sections, resolved once and never changed while running."""

    engine: EngineSection = field(default_factory=EngineSection)
    time: TimeSection = field(default_factory=TimeSection)
    redis: RedisSection = field(default_factory=RedisSection)
    queues: QueueSection = field(default_factory=QueueSection)
    session: SessionSection = field(default_factory=SessionSection)
    purpose: PurposeSection = field(default_factory=PurposeSection)
    adaptation: AdaptationSection = field(default_factory=AdaptationSection)
    live: LiveSection = field(default_factory=LiveSection)
    server: ServerSection = field(default_factory=ServerSection)


def load_config(path: Path | None = None, sets: Iterable[str] = ()) -> Config:
    """Read a TOML file and ``section.key=value`` pairs over the defaults.

    Raises:
        ConfigError: unknown section or key, wrong type, value out of range, unreadable file.
    """
    values: dict[str, dict[str, Any]] = {}
    where: dict[tuple[str, str], str] = {}
    if path is not None:
        text = _read(path)
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
        for section, entries in document.items():
            line = f"{path}:{_line_of(text, section, None)}"
            _check_section(section, line)
            if not isinstance(entries, dict):
                raise ConfigError(f"{line}: {section!r} must be a table: [{section}]")
            for key, value in entries.items():
                at = f"{path}:{_line_of(text, section, key)}"
                values.setdefault(section, {})[key] = _typed(section, key, value, at)
                where[section, key] = at
    for pair in sets:
        at = f"--set {pair}"
        match = re.fullmatch(r"([^.=\s]+)\.([^.=\s]+)=(.*)", pair, flags=re.DOTALL)
        if match is None:
            raise ConfigError(f"{at}: write it as section.key=value")
        section, key, raw = match.groups()
        _check_section(section, at)
        values.setdefault(section, {})[key] = _typed(section, key, _parse(raw), at)
        where[section, key] = at
    return _build(values, where)


def _build(values: Mapping[str, Mapping[str, Any]], where: Mapping[tuple[str, str], str]) -> Config:
    sections = {}
    for spec in dataclasses.fields(Config):
        section_type = _section_types()[spec.name]
        section = section_type(**values.get(spec.name, {}))
        if (problem := section.check()) is not None:
            named = [
                at for (name, key), at in where.items() if name == spec.name and key in problem
            ]
            raise ConfigError(f"{named[0] if named else spec.name}: {problem}")
        sections[spec.name] = section
    return Config(**sections)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _section_types() -> dict[str, Any]:
    return typing.get_type_hints(Config)


def _check_section(section: str, at: str) -> None:
    known = [spec.name for spec in dataclasses.fields(Config)]
    if section not in known:
        raise ConfigError(f"{at}: unknown section {section!r}; known: {', '.join(known)}")


def _typed(section: str, key: str, value: Any, at: str) -> Any:
    hints = typing.get_type_hints(_section_types()[section])
    if key not in hints:
        raise ConfigError(
            f"{at}: unknown key {key!r} in [{section}]; known: {', '.join(sorted(hints))}"
        )
    wanted = hints[key]
    allowed = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) not in allowed or (isinstance(value, float) and not math.isfinite(value)):
        names = " or ".join(t.__name__ for t in allowed)
        raise ConfigError(f"{at}: {section}.{key} must be {names}, not {value!r}")
    return value


def _parse(raw: str) -> Any:
    """A ``--set`` value as TOML would read it, else as plain text."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _line_of(text: str, section: str, key: str | None) -> int:
    """Line (from 1) where a section or one of its keys stands; tomllib does not say."""
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*\"?([^\]\".]+?)\"?\s*[\].]", line):
            current = header.group(1)
            if key is None and current == section:
                return number
        elif key is None and re.match(rf"\s*\"?{re.escape(section)}\"?\s*[.=]", line):
            return number
        elif key is not None:
            inside = current == section and re.match(rf"\s*\"?{re.escape(key)}\"?\s*[.=]", line)
            dotted = not current and re.match(
                rf"\s*{re.escape(section)}\s*\.\s*{re.escape(key)}\s*[.=]", line
            )
            inline = not current and re.match(
                rf"\s*{re.escape(section)}\s*=.*\b{re.escape(key)}\b", line
            )
            if inside or dotted or inline:
                return number
    return 1
