"""A capsule as a session again: its source, its schedule, its features and its terms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from counterpoint.engine.background import background
from counterpoint.engine.capsule.features import RecordedFeatures
from counterpoint.engine.capsule.reader import Capsule
from counterpoint.engine.capsule.schedule import RecordedWork
from counterpoint.engine.capsule.source import CapsuleSource
from counterpoint.engine.capsule.verify import Verdict, Verifier
from counterpoint.engine.config import Config
from counterpoint.engine.encode import Encoder
from counterpoint.engine.models import Models
from counterpoint.engine.session import Session, align_spec, unsettled_windows
from counterpoint.engine.sources import OpenSources
from counterpoint.engine.work import Work
from counterpoint.streams.errors import UsageError
from counterpoint.streams.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a session takes in place of the live parts."""

    sources: OpenSources
    work: Work
    encoder: Encoder | None


def replay_config(capsule: Capsule, config: Config) -> Config:
    """The configuration under which the session ran, as far as it decides what is predicted."""
    return replace(config, time=capsule.header.time, adaptation=capsule.header.adaptation)


def replay_ports(capsule: Capsule, models: Models, config: Config, runtime: Runtime) -> Ports:
    """
    Args:
        config: as `replay_config` gives it.

    Raises:
        UsageError: the models are not those of the recording.
    """
    header = capsule.header
    if models.bundle.digest != header.bundle_digest:
        raise UsageError(
            f"{capsule.path}: recorded with bundle {header.bundle_id} "
            f"({header.bundle_digest[:12]}), not {models.bundle.manifest.id} "
            f"({models.bundle.digest[:12]}); give that one with --bundle"
        )
    encoder = None
    if not header.media:
        unsettled = unsettled_windows(align_spec(config, models.bundle.manifest))
        encoder = RecordedFeatures(models, capsule.features(), runtime.now_ns, unsettled=unsettled)
    sources = OpenSources(
        source=CapsuleSource(capsule),
        names=header.sources,
        duration_ns=capsule.end_ns,
        parts=(),
    )
    return Ports(sources=sources, work=RecordedWork(capsule.batches()), encoder=encoder)


async def verify_session(
    capsule: Capsule,
    models: Models,
    config: Config,
    runtime: Runtime,
    *,
    speed: float | None = None,
    verifier: Verifier | None = None,
) -> Verdict:
    """Play a capsule and compare every prediction with the recorded one.

    Args:
        config: of this machine; the recorded terms replace its own.
        speed: None is flat out. The verdict is the same at any.
        verifier: by default one for this machine.

    Raises:
        UsageError: the models are not those of the recording.
        SourceError: the capsule cannot be read.
    """
    config = replay_config(capsule, config)
    ports = replay_ports(capsule, models, config, runtime)
    verifier = verifier or Verifier(capsule)
    session = Session(
        name=capsule.header.session,
        source=ports.sources.source,
        sources=ports.sources.names,
        models=models,
        runtime=runtime,
        config=config,
        sink=verifier,
        speed=speed,
        duration_ns=ports.sources.duration_ns,
        exact=True,
        encoder=ports.encoder,
        work=ports.work,
    )
    async with background(runtime, "verify", session.run()) as running:
        async for _ in session.predictions():
            pass
        await running
    return verifier.finish()
