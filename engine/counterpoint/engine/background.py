"""A task that runs beside a block of code and ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from counterpoint.streams.runtime import Runtime

T = TypeVar("T")


@asynccontextmanager
async def background(
    runtime: Runtime, name: str, coro: Coroutine[Any, Any, T]
) -> AsyncIterator[asyncio.Task[T]]:
    """Run ``coro`` while the body of ``async with`` lasts; then it is cancelled.

    The body's own errors come out as they are, where a bare `asyncio.TaskGroup` would wrap them.
    If the task fails, the body is cancelled and the task's error comes out.

    Raises:
        Exception: what the body raised, or else what the task raised.
    """
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            task = runtime.spawn(group, name, coro)
            try:
                yield task
            except Exception as error:  # noqa: BLE001 - raised below, outside of the group
                failure = error
            finally:
                task.cancel()
    except BaseExceptionGroup as failed:
        raise unwrapped(failed) from None
    if failure is not None:
        raise failure


def unwrapped(error: BaseException) -> BaseException:
    """The one error that a group of one holds, however deep; else the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
