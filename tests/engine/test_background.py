"""A task beside a block: whose errors come out, and that nothing is left running."""

from __future__ import annotations

import asyncio

import pytest

from counterpoint.engine.background import background, unwrapped
from tests.support.virtual import VirtualRuntime


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def fail() -> None:
    raise ValueError("the task")


def test_the_task_ends_with_the_block() -> None:
    async def run() -> asyncio.Task[None]:
        async with background(VirtualRuntime(), "x", forever()) as task:
            await asyncio.sleep(0)
            assert not task.done()
        return task

    assert asyncio.run(run()).cancelled()


def test_the_bodys_error_comes_out_bare() -> None:
    async def run() -> None:
        async with background(VirtualRuntime(), "x", forever()):
            raise KeyError("the body")

    with pytest.raises(KeyError, match="the body"):
        asyncio.run(run())


def test_a_task_that_fails_stops_the_body_and_its_error_comes_out_bare() -> None:
    async def run() -> None:
        async with background(VirtualRuntime(), "x", fail()):
            await forever()
            raise AssertionError("not reached")

    with pytest.raises(ValueError, match="the task"):
        asyncio.run(run())


def test_only_groups_of_one_are_unwrapped() -> None:
    error = ValueError("x")
    assert unwrapped(ExceptionGroup("a", [ExceptionGroup("b", [error])])) is error
    two = ExceptionGroup("a", [error, KeyError("y")])
    assert unwrapped(two) is two
    assert unwrapped(error) is error
