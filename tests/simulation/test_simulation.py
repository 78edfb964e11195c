"""The whole engine under simulated time: fixed seeds, new ones, and bugs that must be found."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from counterpoint.engine.engine import Engine
from counterpoint.engine.models import Models
from counterpoint.engine.outbox import Entry
from counterpoint.engine.work import Batch, WorkQueue
from tests.simulation.coverage import REASONS, Coverage
from tests.simulation.plan import FAULTS, Plan
from tests.simulation.shrink import shrink
from tests.simulation.world import simulate
from tests.support.bundles import tiny_bundle
from tests.support.sessions import load_models

SEEDS = tuple(
    int(line)
    for line in (Path(__file__).parent / "seeds.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
)
NEW_SEEDS = tuple(secrets.randbelow(1 << 31) for _ in range(3))
SECONDS = 90.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


@pytest.fixture(scope="module")
def covered() -> Coverage:
    """What happened in all runs of this module so far."""
    return Coverage()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fixed_seed_breaks_no_invariant(seed: int, models: Models, covered: Coverage) -> None:
    covered.update(simulate(Plan.draw(seed, SECONDS), models).coverage)


@pytest.mark.parametrize("number", range(len(NEW_SEEDS)))
def test_a_new_seed_breaks_no_invariant(
    number: int, models: Models, covered: Coverage, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan.draw(NEW_SEEDS[number], SECONDS)
    with capsys.disabled():
        print(f"\nnew seed {plan.seed}: {plan.command()}")
    covered.update(simulate(plan, models).coverage)


def test_every_fault_and_every_reason_for_a_drop_happened_in_the_batch(covered: Coverage) -> None:
    if not covered:
        pytest.fail("run the whole module: the seeds before this are what is looked at")
    assert [name for name in (*FAULTS, *REASONS) if not covered[name]] == []


@pytest.mark.parametrize("seed", [3, 13])
def test_a_seed_gives_the_same_documents_every_time(seed: int, models: Models) -> None:
    first, second = (simulate(Plan.draw(seed, SECONDS), models) for _ in range(2))
    assert first == second


def test_another_seed_gives_other_documents(models: Models) -> None:
    one, other = (simulate(Plan.draw(seed, 20.0), models).digest for seed in (1, 2))
    assert one != other


def fails(plan: Plan, models: Models) -> bool:
    try:
        simulate(plan, models)
    except AssertionError:
        return True
    return False


def test_a_skip_that_is_not_stated_is_found_and_shrunk_to_its_fault(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = WorkQueue.take

    async def forgetful(self: WorkQueue) -> Batch | None:
        batch = await take(self)
        return None if batch is None else replace(batch, skipped=0)

    monkeypatch.setattr(WorkQueue, "take", forgetful)
    quiet = frozenset(FAULTS) - {"models hang", "source hangs", "left early"}
    plan = Plan(seed=9, seconds=80.0, faults=quiet)
    assert fails(plan, models)
    small = shrink(plan, lambda candidate: fails(candidate, models))
    assert small.faults == {"models slow"}
    assert small.seconds <= plan.seconds
    assert not small.noise
    assert "--faults 'models slow'" in small.command()


def test_a_document_that_is_lost_in_the_outbox_is_found(models: Models) -> None:
    def tamper(engine: Engine) -> None:
        outbox = engine.publisher._outbox
        confirm = outbox.confirm
        seen = 0

        def refuses(entry: Entry) -> None:
            """Loses one waiting document together with the tenth that was confirmed."""
            nonlocal seen
            seen += 1
            confirm(entry)
            if seen >= 10 and outbox._queue:
                outbox._queue.popleft()
                seen = -(1 << 30)

        outbox.confirm = refuses  # type: ignore[method-assign]

    plan = Plan(seed=7, seconds=60.0, faults=frozenset({"redis slow"}))
    simulate(plan, models)
    with pytest.raises(AssertionError, match=r"published|missing"):
        simulate(plan, models, tamper=tamper)


def test_what_reaches_around_the_runtime_port_is_caught(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    take = WorkQueue.take

    async def hasty(self: WorkQueue) -> Batch | None:
        time.monotonic_ns()
        return await take(self)

    monkeypatch.setattr(WorkQueue, "take", hasty)
    with pytest.raises(AssertionError, match=r"time\.monotonic_ns"):
        simulate(Plan(seed=1, seconds=5.0, faults=frozenset()), models)
