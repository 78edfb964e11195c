"""What stands first in a capsule: under which terms the session ran, and on what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from counterpoint.engine.adapt.settings import AdaptationSection
from counterpoint.engine.bundle import Bundle
from counterpoint.engine.capsule.format import Kind, pack
from counterpoint.engine.capsule.machine import commit, fingerprint
from counterpoint.engine.config import Config, TimeSection
from counterpoint.streams.errors import SourceError
from counterpoint.streams.types import Modality


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """
    Fields:
        session: its name.
        created_ns: when it was recorded, in nanoseconds since the Unix epoch.
        media: whether pictures, sound and words are in the capsule; else features are.
        sources: the name that items of each modality carry.
        time: the ``[time]`` section that was in force.
        adaptation: the ``[adaptation]`` section; written only where it is not the default, since
            older releases refuse a header with a key that they do not know.
        bundle_id, bundle_digest: the models.
        hop_ns: the bundle's hop.
        version, commit: of counterpoint; commit None where it did not run from a source tree.
        platform: see `machine.fingerprint`.
    """

    session: str
    created_ns: int
    media: bool
    sources: Mapping[Modality, str]
    time: TimeSection
    bundle_id: str
    bundle_digest: str
    hop_ns: int
    version: str
    commit: str | None
    platform: Mapping[str, Any]
    adaptation: AdaptationSection = field(default_factory=AdaptationSection)

    def pack(self) -> bytes:
        """The record."""
        fields = {
            "session": self.session,
            "created_ns": self.created_ns,
            "media": self.media,
            "sources": {modality.value: name for modality, name in self.sources.items()},
            "time": dataclasses.asdict(self.time),
            "bundle_id": self.bundle_id,
            "bundle_digest": self.bundle_digest,
            "hop_ns": self.hop_ns,
            "version": self.version,
            "commit": self.commit,
            "platform": dict(self.platform),
        }
        if self.adaptation != AdaptationSection():
            fields["adaptation"] = dataclasses.asdict(self.adaptation)
        return pack(Kind.HEADER, fields)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Header:
        """
        Raises:
            SourceError: a field is missing or not what it should be.
        """
        try:
            time = TimeSection(**fields["time"])
            adaptation = AdaptationSection(**fields.get("adaptation", {}))
            problem = time.check()
            adaptation_problem = adaptation.check()
            header = cls(
                **{
                    **fields,
                    "sources": {Modality(m): str(name) for m, name in fields["sources"].items()},
                    "time": time,
                    "adaptation": adaptation,
                }
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SourceError(f"the capsule's header is not readable: {error}") from error
        if problem is not None:
            raise SourceError(f"the capsule's header: time: {problem}")
        if adaptation_problem is not None:
            raise SourceError(f"the capsule's header: adaptation: {adaptation_problem}")
        return header


def new_header(
    *,
    session: str,
    sources: Mapping[Modality, str],
    config: Config,
    bundle: Bundle,
    created_ns: int,
) -> Header:
    """The header of a recording that begins now, on this machine."""
    return Header(
        session=session,
        created_ns=created_ns,
        media=config.purpose.may_store_media,
        sources=sources,
        time=config.time,
        bundle_id=bundle.manifest.id,
        bundle_digest=bundle.digest,
        hop_ns=bundle.manifest.hop_ns,
        version=version("counterpoint"),
        commit=commit(),
        platform=fingerprint(drift=config.adaptation.drift),
        adaptation=config.adaptation,
    )
