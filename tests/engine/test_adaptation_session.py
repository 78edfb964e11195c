"""Adaptation in whole sessions: off nothing is changed, on a capsule gives the same to the bit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterpoint.engine.adapt.settings import AdaptationSection
from counterpoint.engine.capsule.format import Kind, check, pack, records
from counterpoint.engine.capsule.header import new_header
from counterpoint.engine.capsule.reader import open_capsule
from counterpoint.engine.capsule.session import verify_session
from counterpoint.engine.capsule.writer import recording
from counterpoint.engine.config import Config, PurposeSection, TimeSection
from counterpoint.engine.live.mixer import mix
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import Prediction, from_json, stable_json, to_document, to_json
from counterpoint.engine.session import Session
from counterpoint.engine.sources import OpenSources, open_replay
from counterpoint.streams.errors import SourceError
from counterpoint.streams.types import AudioChunk, Item, Modality, SourceEnded
from tests.support.bundles import tiny_bundle
from tests.support.sessions import GRID_CHAT, GRID_CLIP, RememberingSink, load_models, play
from tests.support.sources import ScriptedSource
from tests.support.virtual import VirtualRuntime

S = 1_000_000_000
LENGTH_S = 120
LOUD_UNTIL_S = 84
ALL_ON = AdaptationSection(
    prior=True, prior_bound=10.0, prior_strength=1, baseline_windows=10, drift=True, drift_delta=0.2
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


def microphone(length_s: int = LENGTH_S) -> OpenSources:
    """Noise, too soft for a voice from `LOUD_UNTIL_S` on."""
    random = np.random.default_rng(0)
    script: list[tuple[int, Item]] = []
    for second in range(length_s):
        loud = 0.5 if second < LOUD_UNTIL_S else 1e-4
        samples = (loud * random.uniform(-1, 1, 16_000)).astype(np.float32)
        chunk = AudioChunk(
            source="mic", t_ns=second * S, samples=samples, rate_hz=16_000, sequence=second
        )
        script.append((chunk.end_ns, chunk))
    end_ns = length_s * S
    script.append((end_ns, SourceEnded(source="mic", modality=Modality.AUDIO, t_ns=end_ns)))
    return OpenSources(
        source=ScriptedSource(script),
        names={Modality.AUDIO: "mic"},
        duration_ns=end_ns,
        parts=(),
    )


def record(
    path: Path, models: Models, config: Config, length_s: int = LENGTH_S
) -> list[Prediction]:
    runtime = VirtualRuntime()

    async def run() -> list[Prediction]:
        sources = microphone(length_s)
        header = new_header(
            session="test",
            sources=sources.names,
            config=config,
            bundle=models.bundle,
            created_ns=runtime.wall_ns(),
        )
        async with recording(path, header, runtime, paced=False) as tap:
            session = Session(
                name="test",
                source=sources.source,
                sources=sources.names,
                models=models,
                runtime=runtime,
                config=config,
                sink=RememberingSink(),
                speed=None,
                duration_ns=sources.duration_ns,
                tap=tap,
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(session.run())
                return [prediction async for prediction in session.predictions()]

    return runtime.run(run())


def test_off_there_is_no_word_of_it_and_on_only_priors_change_probabilities(
    models: Models,
) -> None:
    off = play(models, open_replay(GRID_CLIP, GRID_CHAT)).offered
    told = Config(adaptation=AdaptationSection(baseline_windows=2, drift=True))
    on = play(models, open_replay(GRID_CLIP, GRID_CHAT), config=told).offered
    assert all("adaptation" not in to_document(prediction) for prediction in off)
    assert all(prediction.adaptation is not None for prediction in on)
    assert [stable_json(replace(p, adaptation=None)) for p in on] == [stable_json(p) for p in off]


@pytest.mark.parametrize("media", [True, False])
def test_a_capsule_with_all_of_it_on_is_reproduced_to_the_bit(
    models: Models, tmp_path: Path, media: bool
) -> None:
    path = tmp_path / "on.capsule"
    config = Config(adaptation=ALL_ON, purpose=PurposeSection(media=media))
    said = record(path, models, config)
    last = said[-1].adaptation
    assert last is not None
    assert last.baseline is not None
    assert last.drift is not None
    # It did something, or this would show nothing.
    assert any(used.applied for p in said if p.adaptation for used in p.adaptation.prior.values())
    assert last.baseline.windows in (0, 10)
    assert any(
        p.adaptation.baseline.deviations
        for p in said
        if p.adaptation is not None and p.adaptation.baseline is not None
    )
    assert last.drift.total >= 1
    assert from_json(to_json(said[-1])).adaptation is not None
    # A new session under a configuration in which it is off: the capsule knows better, and nothing
    # is left of the session before.
    runtime = VirtualRuntime(start_ns=77)
    capsule = open_capsule(path)
    verdict = runtime.run(verify_session(capsule, models, Config(), runtime))
    assert (verdict.exact, verdict.differing, verdict.compared) == (True, 0, len(said))


def test_the_header_speaks_of_it_only_where_it_is_on(models: Models, tmp_path: Path) -> None:
    off, on = (
        new_header(
            session="test",
            sources={Modality.AUDIO: "mic"},
            config=config,
            bundle=models.bundle,
            created_ns=0,
        )
        for config in (Config(), Config(adaptation=ALL_ON))
    )
    assert b'"adaptation"' not in off.pack()
    assert b'"river"' not in off.pack()
    assert b'"adaptation"' in on.pack()
    assert b'"river"' in on.pack()
    path = tmp_path / "a.capsule"
    record(path, models, Config(adaptation=replace(ALL_ON, drift=False, prior=False)), length_s=3)
    header = next(iter(records(path, check(path), (Kind.HEADER,))))
    assert open_capsule(path).header.adaptation.baseline_windows == 10
    fields = {**header.fields, "adaptation": {"prior_bound": 0.5}}
    data = path.read_bytes()
    behind = next(r.offset for r in records(path, check(path), tuple(Kind)) if r.offset > 12)
    wrong = tmp_path / "wrong.capsule"
    wrong.write_bytes(data[: header.offset] + pack(Kind.HEADER, fields) + data[behind:])
    with pytest.raises(SourceError, match="adaptation: prior_bound is above 1"):
        open_capsule(wrong)


def test_a_revised_window_teaches_nothing(models: Models) -> None:
    # Each second comes as one piece: windows that end within it are given again when it is there.
    config = Config(
        time=TimeSection(lateness_ms=1_000), adaptation=AdaptationSection(baseline_windows=10_000)
    )
    learned = revised = 0
    for said in play(models, microphone(20), config=config).offered:
        assert said.adaptation is not None
        assert said.adaptation.baseline is not None
        windows = said.adaptation.baseline.windows
        if said.revision and windows:
            revised += 1
            assert windows == learned
        elif windows:
            assert windows == learned + 1
            learned = windows
    assert learned > 20
    assert revised > 20


def test_what_several_people_say_together_has_none(models: Models) -> None:
    config = Config(adaptation=AdaptationSection(baseline_windows=2))
    said = play(models, open_replay(GRID_CLIP, GRID_CHAT), config=config).offered[-1]
    assert said.adaptation is not None
    assert mix("s", {"ann": said, "bob": said}, revision=0, wall_ns=0).adaptation is None
