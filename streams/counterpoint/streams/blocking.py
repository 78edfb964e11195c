"""A blocking reader in a lane of its own, watched: a read that hangs ends the source, not the loop.

A thread that hangs in a driver or in a library cannot be stopped. So the reader opens, reads and
closes within one call, looks after each read whether it should leave, and closes what it holds on
whatever way it leaves: also when its read comes back minutes after it was given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from counterpoint.streams.errors import SourceError
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import NS_PER_S

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S: Final = 3.0
"""How long a reader that was told to leave is waited for."""
LOOK_NS: Final = NS_PER_S // 4
"""How often the deadline is looked at."""


class Watch:
    """What a reader and its watcher tell each other. Plain fields: each has one writer."""

    def __init__(self, deadline_ns: int) -> None:
        self.stopped = False
        """Told by the watcher: leave, and hand nothing over any more."""
        self.deadline_ns = deadline_ns
        """Told by the reader: the instant of `Runtime.now_ns` by which something comes."""
        self.left = False
        """Told by the reader: it holds nothing any more."""

    def renew(self, deadline_ns: int) -> bool:
        """Something came; the next is expected by ``deadline_ns``. False: leave."""
        self.deadline_ns = deadline_ns
        return not self.stopped


class BlockingReader:
    """Runs one reader at a time in the lane of that name.

    Args:
        name: of the source, for messages.
        lane: whose thread reads; of this source alone.
    """

    def __init__(self, name: str, runtime: Runtime, lane: str) -> None:
        self._name = name
        self._runtime = runtime
        self._lane = lane
        self._watch: Watch | None = None

    async def run(self, read: Callable[[Watch], None], *, open_timeout_s: float) -> None:
        """Run ``read`` in the lane to its end.

        Args:
            read: opens, reads and closes. It calls `Watch.renew` after each read and returns
                when that says so, or once `Watch.stopped`.
            open_timeout_s: until when the first deadline is.

        Raises:
            SourceError: of ``read``; or it let its deadline pass; or one that did so hangs still.
        """
        if self._watch is not None and not self._watch.left:
            raise SourceError(
                f"{self._name}: a read hangs in its driver since it was last open; "
                f"unplug it, or start anew"
            )
        watch = Watch(self._runtime.now_ns() + round(open_timeout_s * NS_PER_S))
        self._watch = watch
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(None)

        def call() -> None:
            try:
                if not watch.stopped:
                    read(watch)
            finally:
                watch.left = True

        def look() -> None:
            now_ns = self._runtime.now_ns()
            if now_ns >= watch.deadline_ns:
                limit.reschedule(loop.time())
            else:
                # A deadline may also be moved to earlier: from opening to the first read.
                timers[0] = self._runtime.call_at(min(watch.deadline_ns, now_ns + LOOK_NS), look)

        timers = [self._runtime.call_at(self._runtime.now_ns() + LOOK_NS, look)]
        try:
            async with limit:
                await self._runtime.lane(self._lane).submit(call)
        except TimeoutError as error:
            raise SourceError(
                f"{self._name}: gives no answer and its read hangs; check its cable or its network"
            ) from error
        finally:
            timers[0].cancel()
            watch.stopped = True
            if not watch.left and not limit.expired():
                await self._wait_until_left(watch)

    async def _wait_until_left(self, watch: Watch) -> None:
        """A reader that is in the middle of a read leaves after it; so it can be opened again."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._runtime.lane(self._lane).submit(lambda: None)
        except TimeoutError:
            log.warning("%s: not closed within %g s", self._name, CLOSE_TIMEOUT_S)
            return
        # Where it had not even begun, its call was taken back with it.
        watch.left = True
