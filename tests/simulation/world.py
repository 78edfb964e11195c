"""One run: the real engine on simulated time, sources, models and Redis, from one plan."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from counterpoint.engine.background import background, unwrapped
from counterpoint.engine.config import Config, QueueSection, RedisSection, TimeSection
from counterpoint.engine.engine import DRAIN_TIMEOUT_S, Engine
from counterpoint.engine.models import Models
from counterpoint.engine.publish import Publisher
from counterpoint.engine.sources import OpenSources
from counterpoint.streams.errors import CounterpointError
from counterpoint.streams.merge import MergedSource
from tests.simulation.checks import Watched, cover, ended_well, must, stream_is_sound, undisturbed
from tests.simulation.coverage import Coverage
from tests.simulation.guard import guarded
from tests.simulation.loop import SimulatedLoop
from tests.simulation.models import DigestEncoder
from tests.simulation.plan import Plan, S, active
from tests.simulation.redis import SimulatedRedis
from tests.simulation.runtime import ENDLESS, SimulatedRuntime
from tests.simulation.sources import SourceMaker

MS = 1_000_000
CHECK_EVERY_NS = 100 * MS
WORKERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run.

    Fields:
        digest: of every document that Redis held at the end.
        sessions: how many ran side by side.
        steps: callbacks that ran.
        simulated_s: how long it was.
        coverage: what happened.
    """

    digest: str
    sessions: int
    steps: int
    simulated_s: float
    coverage: Coverage


@dataclass(slots=True)
class _World:
    plan: Plan
    models: Models
    coverage: Coverage = field(default_factory=Coverage)
    watched: list[Watched] = field(default_factory=list)
    cut_short: list[str] = field(default_factory=list)


def simulate(
    plan: Plan, models: Models, *, tamper: Callable[[Engine], None] = lambda _: None
) -> Outcome:
    """Run a plan.

    Args:
        models: for the terms and heads of their bundle; nothing of them is run.
        tamper: plants a bug, to see it found.

    Raises:
        AssertionError: an invariant was broken, everything waits for ever, or something reached
            around the runtime port.
    """
    world = _World(plan=plan, models=models)
    with guarded():
        loop = SimulatedLoop(
            plan.rng("loop") if plan.noise else None, lambda: _watch(world, loop.now_ns)
        )
        asyncio.set_event_loop(loop)
        try:
            try:
                redis = loop.run_until_complete(_main(world, loop, tamper))
            except BaseExceptionGroup as failed:
                raise unwrapped(failed) from failed
            left = [task.get_name() for task in asyncio.all_tasks(loop)]
            must(not left, f"tasks were left: {left}")
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    sha = hashlib.sha256()
    for key in sorted(redis.streams):
        for stream_id, data in redis.streams[key]:
            sha.update(f"{key} {stream_id} {data}\n".encode())
    return Outcome(
        digest=sha.hexdigest()[:16],
        sessions=plan.sessions,
        steps=loop.steps,
        simulated_s=loop.now_ns / S,
        coverage=world.coverage,
    )


def _watch(world: _World, now_ns: int) -> int:
    for watched in world.watched:
        watched.at_rest()
    return now_ns + CHECK_EVERY_NS


async def _main(
    world: _World, loop: SimulatedLoop, tamper: Callable[[Engine], None]
) -> SimulatedRedis:
    plan = world.plan
    runtime = SimulatedRuntime(loop, plan.seed, _service_times(world))
    redis = SimulatedRedis(plan, runtime, world.coverage)
    config = _config(plan)
    world.coverage.saw("small queues", int("small queues" in plan.faults))
    publisher = Publisher(
        redis.connect,
        runtime,
        stream_maxlen=1_000_000,
        queue_size=config.redis.queue_size,
    )
    engine = Engine(
        config=config, models=world.models, publisher=publisher, runtime=runtime, redis_url=""
    )
    engine._workers = itertools.cycle(range(WORKERS))
    tamper(engine)
    async with background(runtime, "publish", publisher.run()):
        async with asyncio.TaskGroup() as group:
            runtime.spawn(group, "wall", _wall_clock(world, runtime))
            for number in range(plan.sessions):
                runtime.spawn(group, f"session-{number}", _session(world, number, engine, runtime))
        for _ in range(60):  # an outage may last longer than one drain
            if not await publisher.drain(DRAIN_TIMEOUT_S) or redis.lost_data:
                break
        backlog = publisher.backlog
        must(backlog == 0 or redis.lost_data, f"{backlog} documents were never published")
    stats = publisher.stats()
    for reason, count in stats.dropped.items():
        world.coverage.saw(f"dropped: {reason}", count)
    must(stats.peak_backlog <= config.redis.queue_size, "the outbox ran over")
    for watched in world.watched:
        name = watched.session.name
        if not redis.lost_data:
            stream_is_sound(redis, name)
        if watched.session.finished and name not in world.cut_short:
            ended_well(engine, redis, watched, name)
            if name != "session-0":
                undisturbed(plan, watched, name)
        cover(world.coverage, watched)
    return redis


def _config(plan: Plan) -> Config:
    rng = plan.rng("config")
    small = "small queues" in plan.faults
    return Config(
        time=TimeSection(
            hop_ms=rng.choice([250, 1_000, 1_000]),
            deadline_ms=rng.choice([100, 250, 400]),
            lateness_ms=rng.choice([0, 0, 500, 1_500]),
            required=rng.choice(["video,audio", "video,audio", "audio", "video,audio,chat", ""]),
        ),
        redis=RedisSection(queue_size=4 if small else 64),
        queues=QueueSection(video_frames=2, audio_chunks=2, chat_lines=2)
        if small
        else QueueSection(),
    )


def _service_times(world: _World) -> Callable[[str, int], int | None]:
    plan = world.plan
    rng: random.Random = plan.rng("service")
    slow = plan.spells("models slow", every_s=15, longest_s=6)
    hangs = [s for s, _ in plan.spells("models hang", every_s=plan.seconds, longest_s=1)]
    stuck = [s for s, _ in plan.spells("source hangs", every_s=plan.seconds, longest_s=1)]

    def service_ns(lane: str, now_ns: int) -> int | None:
        if lane.startswith("inference"):
            # Where it hangs at all, half of the seeds let it come back.
            if hangs and now_ns >= hangs[0]:
                hangs.pop(0)
                world.coverage.saw("models hang")
                return ENDLESS if rng.random() < 0.3 else int(rng.uniform(1, 20) * S)
            if active(slow, now_ns):
                world.coverage.saw("models slow")
                return int(rng.uniform(50, 900) * MS)
            return int(rng.uniform(2, 25) * MS)
        if stuck and now_ns >= stuck[0]:
            stuck.pop(0)
            world.coverage.saw("source hangs")
            return ENDLESS if rng.random() < 0.3 else int(rng.uniform(1, 20) * S)
        return int(rng.uniform(0.05, 2) * MS)

    return service_ns


async def _wall_clock(world: _World, runtime: SimulatedRuntime) -> None:
    rng = world.plan.rng("wall")
    for start_ns, _ in world.plan.spells("wall clock steps", every_s=20, longest_s=1):
        await runtime.sleep_until(start_ns)
        runtime.wall_offset_ns += int(rng.uniform(-5, 5) * S)
        world.coverage.saw("wall clock steps")


async def _session(world: _World, number: int, engine: Engine, runtime: SimulatedRuntime) -> None:
    plan = world.plan
    maker = SourceMaker(plan if number == 0 else plan.calm(), world.coverage, number)
    parts = maker.make()
    sources = OpenSources(
        source=MergedSource(parts), names=maker.names(), duration_ns=int(plan.seconds * S), parts=()
    )
    name = f"session-{number}"
    early = plan.spells("left early", every_s=plan.seconds, longest_s=1)
    rng = plan.rng(f"reader/{number}")
    heads = world.models.bundle.manifest.heads
    try:
        async with engine.session(
            name, sources, speed=1.0, encoder=DigestEncoder(heads)
        ) as session:
            watched = Watched(session=session, config=engine.config)
            world.watched.append(watched)
            async for prediction in session.predictions():
                watched.told(prediction)
                if early and rng.random() < 0.3 and runtime.now_ns() >= early[0][0]:
                    world.coverage.saw("left early")
                    world.cut_short.append(name)
                    return
                if "reader stops" in plan.faults and rng.random() < 0.01:
                    world.coverage.saw("reader stops")
                    await runtime.sleep_until(runtime.now_ns() + int(rng.uniform(1, 20) * S))
    except CounterpointError as error:
        # The session's own failure, with its reason told: only a model that hangs may cause it.
        world.cut_short.append(name)
        must("the models gave nothing" in str(error), f"the session failed: {error}")
        world.coverage.saw("session failed")
