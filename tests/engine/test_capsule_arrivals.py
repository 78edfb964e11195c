"""Random sessions (late, reordered, stalled, ended early, overloaded, cut) replay to the bit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from counterpoint.engine.capsule.format import Kind, check, records
from counterpoint.engine.capsule.header import new_header
from counterpoint.engine.capsule.reader import open_capsule
from counterpoint.engine.capsule.session import verify_session
from counterpoint.engine.capsule.writer import recording
from counterpoint.engine.config import Config, PurposeSection, QueueSection, TimeSection
from counterpoint.engine.models import Models
from counterpoint.engine.session import Session
from counterpoint.streams.runtime import Lane
from counterpoint.streams.types import (
    AudioChunk,
    Bound,
    ChatLine,
    Item,
    Modality,
    SourceEnded,
    VideoFrame,
)
from tests.support.bundles import tiny_bundle
from tests.support.sessions import RememberingSink, load_models
from tests.support.sources import ScriptedSource
from tests.support.virtual import VirtualRuntime

MS = 1_000_000
T = TypeVar("T")
NAMES = {Modality.VIDEO: "cam", Modality.AUDIO: "mic", Modality.CHAT: "room"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


class _Jittery(VirtualRuntime):
    """Models that take between nothing and 0.7 s."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.draw = random.Random(f"{seed}/lane")

    def lane(self, name: str) -> Lane:
        inline = super().lane(name)
        return _JitteryLane(self, inline) if name.startswith("inference") else inline


class _JitteryLane:
    def __init__(self, runtime: _Jittery, inline: Lane) -> None:
        self._runtime, self._inline = runtime, inline

    async def submit(self, fn: Callable[[], T]) -> T:
        result = await self._inline.submit(fn)
        took_ns = self._runtime.draw.choice((0, 0, 5, 40, 700)) * MS
        await self._runtime.sleep_until(self._runtime.now_ns() + took_ns)
        return result


def script(seed: int) -> list[tuple[int, Item]]:
    """Arrivals on a grid of 5 ms, so that many share an instant with each other and a deadline."""
    draw = random.Random(f"{seed}/script")
    noise = np.random.default_rng(seed)
    arrivals: list[tuple[int, Item]] = []

    def arrive(item: Item, slowest_ms: int) -> None:
        delay_ms = draw.choice((0, 0, 0, 5, 20, draw.randrange(0, slowest_ms + 1, 5)))
        arrivals.append((item.t_ns + delay_ms * MS, item))

    stalls = {m: draw.randrange(0, 3_000, 5) for m in Modality}
    ends = {m: draw.choice((2_000, 3_500, 3_500)) for m in Modality}

    def instants(modality: Modality, step_ms: int) -> Iterator[int]:
        for t_ms in range(0, ends[modality], step_ms):
            if not stalls[modality] <= t_ms < stalls[modality] + 700 and draw.random() < 0.95:
                yield t_ms * MS

    for n, t_ns in enumerate(instants(Modality.VIDEO, 40)):
        luma = noise.integers(0, 256, (8, 6), dtype=np.uint8)
        arrive(VideoFrame(source="cam", t_ns=t_ns, y=luma, sequence=n), 900)
    for n, t_ns in enumerate(instants(Modality.AUDIO, 20)):
        loud = noise.standard_normal(320).astype(np.float32) * np.float32(0.3)
        arrive(AudioChunk(source="mic", t_ns=t_ns, samples=loud, rate_hz=16_000, sequence=n), 600)
    for n, t_ns in enumerate(instants(Modality.CHAT, 310)):
        text = draw.choice(("good", "very bad !", "wow"))
        arrive(ChatLine(source="room", t_ns=t_ns, author="a", text=text, sequence=n), 900)
        if draw.random() < 0.5:
            arrive(Bound(source="room", modality=Modality.CHAT, t_ns=t_ns), 0)
    for modality, name in NAMES.items():
        error = draw.choice((None, None, "cable pulled"))
        t_ns = ends[modality] * MS
        ended = SourceEnded(source=name, modality=modality, t_ns=t_ns, error=error)
        arrivals.append((max([t_ns, *(at for at, i in arrivals if i.source == name)]), ended))
    return sorted(arrivals, key=lambda pair: pair[0])


def terms(seed: int) -> Config:
    draw = random.Random(f"{seed}/terms")
    return Config(
        time=TimeSection(
            deadline_ms=draw.choice((50, 250)),
            lateness_ms=draw.choice((0, 0, 500)),
            required=draw.choice(("video,audio", "audio", "video,audio,chat")),
            hop_ms=draw.choice((0, 500)),
        ),
        queues=QueueSection(video_frames=2, audio_chunks=2, chat_lines=2),
        purpose=PurposeSection(media=draw.random() < 0.7),
    )


async def record(path: Path, models: Models, runtime: VirtualRuntime, seed: int) -> RememberingSink:
    config, sink = terms(seed), RememberingSink()
    header = new_header(
        session="random", sources=NAMES, config=config, bundle=models.bundle, created_ns=1
    )
    async with recording(path, header, runtime, paced=True) as tap:
        session = Session(
            name="random",
            # One item a step: those of one instant then come one by one, closings in between.
            source=ScriptedSource(script(seed), max_items=1 + seed % 2 * 100),
            sources=NAMES,
            models=models,
            runtime=runtime,
            config=config,
            sink=sink,
            speed=random.Random(f"{seed}/speed").choice((0.6, 1.0, 2.0)),
            duration_ns=4_000 * MS,
            tap=tap,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(session.run())
            async for _ in session.predictions():
                pass
    return sink


SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_session_is_reproduced_whole_and_cut(
    models: Models, tmp_path: Path, seed: int
) -> None:
    path = tmp_path / "random.capsule"
    runtime = _Jittery(seed)
    sink = runtime.run(record(path, models, runtime, seed))
    capsule = open_capsule(path)
    assert capsule.complete
    for speed in (None, 1.5):
        fast = VirtualRuntime()
        verdict = fast.run(verify_session(capsule, models, Config(), fast, speed=speed))
        assert verdict.differences == []
        assert verdict.compared == len(sink.taken)
    data = path.read_bytes()
    offsets = [record.offset for record in records(path, check(path), tuple(Kind))]
    for offset in random.Random(seed).sample(offsets[1:], 4):
        path.write_bytes(data[:offset])
        fast = VirtualRuntime()
        cut = open_capsule(path)
        verdict = fast.run(verify_session(cut, models, Config(), fast))
        assert verdict.differences == []
        assert verdict.compared == cut.predictions_total


def test_the_random_sessions_hold_what_they_are_meant_to(models: Models, tmp_path: Path) -> None:
    reasons: set[str] = set()
    states: set[str] = set()
    statuses: set[str] = set()
    skipped = beyond_their_time = 0
    for seed in SEEDS:
        path = tmp_path / f"{seed}.capsule"
        runtime = _Jittery(seed)
        runtime.run(record(path, models, runtime, seed))
        capsule = open_capsule(path)
        for document in capsule.predictions():
            reasons |= set(document["dropped"])
            states |= {report["state"] for report in document["modalities"].values()}
            statuses.add(document["status"])
            skipped += document["skipped_windows"]
        last_ns = max(at_ns for at_ns, _ in capsule.arrivals())
        beyond_their_time += capsule.reached_ns > last_ns
    assert {"video: late", "audio: late"} <= reasons
    assert {"present", "partial", "idle", "missing"} <= states
    assert statuses == {"provisional", "final", "amended"}
    assert skipped > 10
    assert beyond_their_time > 0
