"""A session whose sources come, go and break off while it runs, under a virtual clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from counterpoint.engine.align import State
from counterpoint.engine.config import Config
from counterpoint.engine.live_sources import SLOTS
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.session import Session
from counterpoint.streams.errors import SourceError
from counterpoint.streams.feed import Feed
from counterpoint.streams.lineup import Lineup
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    ClockUpdate,
    DropCounter,
    Modality,
    Tier,
)
from tests.support.bundles import tiny_bundle
from tests.support.sessions import RememberingSink, load_models
from tests.support.virtual import VirtualRuntime

CHUNK_NS = 20_000_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


class Noise:
    """A microphone that hears noise, and breaks off after ``lasts_ns`` of it."""

    modalities = frozenset({Modality.AUDIO})

    def __init__(self, name: str, runtime: VirtualRuntime, *, lasts_ns: int | None = None) -> None:
        self.name = name
        self.drops = DropCounter()
        self.runs = 0
        self._runtime = runtime
        self._lasts_ns = lasts_ns

    async def run(self, feed: Feed) -> None:
        self.runs += 1
        start_ns = feed.now_ns()
        clock = ClockUpdate(
            source=self.name,
            modality=Modality.AUDIO,
            t_ns=start_ns,
            tier=Tier.DEVICE,
            error_ns=1_000_000,
        )
        feed.put(clock)
        rng = np.random.default_rng(7)
        number = 0
        while self._lasts_ns is None or number * CHUNK_NS < self._lasts_ns:
            number += 1
            await self._runtime.sleep_until(
                self._runtime.now_ns() - feed.now_ns() + start_ns + number * CHUNK_NS
            )
            feed.put(
                AudioChunk(
                    source=self.name,
                    t_ns=start_ns + (number - 1) * CHUNK_NS,
                    samples=rng.normal(0, 0.1, 960).astype(np.float32),
                    rate_hz=48_000,
                    sequence=number - 1,
                )
            )
        raise SourceError(f"{self.name}: unplugged")


def live_session(
    models: Models, runtime: VirtualRuntime, lineup: Lineup
) -> tuple[Session, RememberingSink]:
    sink = RememberingSink()
    session = Session(
        name="s",
        source=lineup,
        sources=SLOTS,
        models=models,
        runtime=runtime,
        config=Config(),
        sink=sink,
    )
    return session, sink


def audio_states(predictions: list[Prediction]) -> list[State]:
    """States of the sound, each change once; silent and partial count as present."""
    states: list[State] = []
    for prediction in predictions:
        state = prediction.modalities[Modality.AUDIO].state
        if state in (State.SILENT, State.PARTIAL, State.IDLE):
            state = State.PRESENT
        if not states or states[-1] is not state:
            states.append(state)
    return states


def test_a_source_is_added_and_removed_while_the_session_runs(models: Models) -> None:
    runtime = VirtualRuntime()

    async def main() -> list[Prediction]:
        lineup = Lineup("s", SLOTS, runtime, lasting=True)
        session, sink = live_session(models, runtime, lineup)
        start_ns = runtime.now_ns()
        async with asyncio.TaskGroup() as group:
            group.create_task(session.run())
            await runtime.advance_to(start_ns + 2 * NS_PER_S)
            seat = lineup.add(Noise("mic:1", runtime))
            await runtime.advance_to(start_ns + 6 * NS_PER_S)
            await lineup.remove(seat)
            await runtime.advance_to(start_ns + 11 * NS_PER_S)
            lineup.add(Noise("mic:2", runtime))
            await runtime.advance_to(start_ns + 15 * NS_PER_S)
            lineup.close()
            await runtime.advance_to(start_ns + 16 * NS_PER_S)
        return sink.taken

    predictions = asyncio.run(main())
    windows = [prediction.window for prediction in predictions]
    assert windows == list(range(1, windows[-1] + 1)), "no window is missing"
    assert windows[-1] == 60, "fifteen seconds of four windows"
    # After 6 s what was heard stays in the context of 3 s, then the sound is missing.
    assert audio_states(predictions) == [
        State.MISSING,
        State.PRESENT,
        State.MISSING,
        State.PRESENT,
    ]
    epochs = [prediction.epoch for prediction in predictions]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 2


def test_a_source_that_breaks_off_stalls_and_comes_back_by_itself(models: Models) -> None:
    runtime = VirtualRuntime()
    microphone = Noise("mic:1", runtime, lasts_ns=4 * NS_PER_S)

    async def main() -> list[Prediction]:
        lineup = Lineup("s", SLOTS, runtime, lasting=True)
        lineup.add(microphone)
        session, sink = live_session(models, runtime, lineup)
        start_ns = runtime.now_ns()
        async with asyncio.TaskGroup() as group:
            group.create_task(session.run())
            await runtime.advance_to(start_ns + 12 * NS_PER_S)
            lineup.close()
            await runtime.advance_to(start_ns + 13 * NS_PER_S)
        assert not session.summary().errors, "a source that is retried has not ended"
        return sink.taken

    predictions = asyncio.run(main())
    assert microphone.runs == 3
    assert [prediction.window for prediction in predictions] == list(range(1, 49))
    assert predictions[-1].epoch == 2
    assert predictions[-1].modalities[Modality.AUDIO].coverage > 0


def test_a_live_source_runs_at_the_speed_of_time_alone(models: Models, tmp_path: Path) -> None:
    runtime = VirtualRuntime()
    lineup = Lineup("s", SLOTS, runtime, lasting=True)
    with pytest.raises(ValueError, match="speed 1"):
        Session(
            name="s",
            source=lineup,
            sources=SLOTS,
            models=models,
            runtime=runtime,
            config=Config(),
            sink=RememberingSink(),
            speed=None,
        )
