"""What a session may be used for: a profile locks heads and modalities, and keeps media in memory.

A configuration may take away from what its profile allows, and never add to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from counterpoint.streams.types import Modality


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a purpose allows.

    Fields:
        text: what people are told, in a sentence or two.
        heads: what may be inferred; None for all that the bundle can.
        modalities: what may be taken in.
        media: whether pictures, sound and words may be stored.
    """

    text: str
    heads: frozenset[str] | None = None
    modalities: frozenset[Modality] = frozenset(Modality)
    media: bool = False


PROFILES: Final[Mapping[str, Profile]] = {
    "general": Profile(
        text="Mood of the conversation, for the people who hold it.",
        media=True,
    ),
    "private": Profile(
        text="Mood of the conversation. Pictures, sound and words never leave the engine's memory.",
    ),
    # Regulation (EU) 2024/1689 (AI Act), Article 5(1)(f), prohibits inferring emotions of people
    # at work and in education from biometric data: face and voice. Words are not biometric data.
    "workplace": Profile(
        text=(
            "Sentiment of what is written, at work or in education. Faces and voices are not "
            "looked at, and emotions are not inferred (AI Act, Art. 5(1)(f))."
        ),
        heads=frozenset({"sentiment"}),
        modalities=frozenset({Modality.CHAT}),
    ),
}
"""By name."""


def allowed_heads(
    profile: Profile, wanted: Iterable[str], known: Iterable[str]
) -> tuple[frozenset[str], str | None]:
    """The heads that may be published, and what is wrong with those that were asked for.

    Args:
        wanted: by the configuration; empty for all that the profile allows.
        known: what the bundle can infer.
    """
    there = list(known)
    allowed = frozenset(there) if profile.heads is None else profile.heads & frozenset(there)
    asked = frozenset(wanted)
    if unknown := sorted(asked - frozenset(there)):
        return allowed, f"the bundle has no head {unknown[0]!r}, only {', '.join(there)}"
    if locked := sorted(asked - allowed):
        return allowed, f"the profile locks the head {locked[0]!r}"
    if not allowed:
        return allowed, f"the profile allows none of the bundle's heads ({', '.join(there)})"
    return asked or allowed, None
