"""A simulated Redis, at the level of `Connect` and `Link`: streams, and all that goes wrong."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from counterpoint.engine.redis_client import (
    Command,
    ErrorReply,
    Link,
    RedisLostError,
    RedisTimeoutError,
    StreamId,
    format_stream_id,
    parse_stream_id,
)
from tests.simulation.coverage import Coverage
from tests.simulation.plan import Plan, active
from tests.simulation.runtime import SimulatedRuntime

MS = 1_000_000
TIMEOUT_NS = 2_000 * MS


class SimulatedRedis:
    """Keeps streams; its faults come from the plan."""

    def __init__(self, plan: Plan, runtime: SimulatedRuntime, coverage: Coverage) -> None:
        self._runtime = runtime
        self._coverage = coverage
        self._rng: random.Random = plan.rng("redis")
        self._slow = plan.spells("redis slow", every_s=15, longest_s=6)
        self._gone = plan.spells("redis gone", every_s=20, longest_s=8)
        self._loses = [s for s, _ in plan.spells("redis loses data", every_s=40, longest_s=1)]
        self._loses_replies = "redis reply lost" in plan.faults
        self._busy = plan.spells("redis busy", every_s=15, longest_s=2)
        self.streams: dict[str, list[tuple[StreamId, str]]] = {}
        self.lost_data = False

    async def connect(self) -> Link:
        await self._reach()
        return _SimulatedLink(self)

    @property
    def gone(self) -> bool:
        return active(self._gone, self._runtime.now_ns())

    async def _reach(self) -> None:
        """The way there: takes its time, or leads nowhere."""
        now_ns = self._runtime.now_ns()
        if self.gone:
            self._coverage.saw("redis gone")
            await self._runtime.sleep_until(now_ns + MS)
            raise RedisLostError("connection refused")
        slow = active(self._slow, now_ns)
        delay_ns = int(self._rng.uniform(0.05, 1.0) * MS)
        if slow:
            self._coverage.saw("redis slow")
            delay_ns = int(self._rng.uniform(10, 3_000) * MS)
        if delay_ns > TIMEOUT_NS:
            await self._runtime.sleep_until(now_ns + TIMEOUT_NS)
            raise RedisTimeoutError("no answer within 2 s")
        await self._runtime.sleep_until(now_ns + delay_ns)

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        await self._reach()
        if self._loses and self._runtime.now_ns() >= self._loses[0]:
            self._loses.pop(0)
            self.streams.clear()
            self.lost_data = True
            self._coverage.saw("redis loses data")
        if active(self._busy, self._runtime.now_ns()):
            self._coverage.saw("redis busy")
            return [ErrorReply("BUSY Redis is busy running a script", transient=True)] * len(
                commands
            )
        cut = len(commands)
        lost = self._loses_replies and self._rng.random() < 0.05
        if lost:
            # Some commands were applied, some perhaps not; no answer says which.
            self._coverage.saw("redis reply lost")
            cut = self._rng.randint(0, len(commands))
        replies = [self._apply(command) for command in commands[:cut]]
        await self._runtime.sleep_until(self._runtime.now_ns() + int(self._rng.random() * MS))
        if lost:
            raise RedisLostError("connection reset by peer")
        return replies

    def _apply(self, command: Command) -> Any:
        verb, *rest = (str(part) for part in command)
        match verb:
            case "PING":
                return "PONG"
            case "PUBLISH":
                return 0
            case "XADD":
                key, _, _, _, stream_id, _, data = rest
                return self._add(key, parse_stream_id(stream_id), data)
            case "XRANGE":
                key, first, last = rest
                low, high = parse_stream_id(first), parse_stream_id(last)
                entries = self.streams.get(key, [])
                first_at = bisect_left(entries, low, key=itemgetter(0))
                last_at = bisect_right(entries, high, key=itemgetter(0))
                return [
                    [format_stream_id(i), ["data", data]] for i, data in entries[first_at:last_at]
                ]
            case "XINFO":
                entries = self.streams.get(rest[1], [])
                if not entries:
                    return ErrorReply("no such key")
                return [
                    "length",
                    len(entries),
                    "last-generated-id",
                    format_stream_id(entries[-1][0]),
                ]
        raise AssertionError(f"the simulated Redis does not know {verb}")

    def _add(self, key: str, stream_id: StreamId, data: str) -> Any:
        entries = self.streams.setdefault(key, [])
        if entries and stream_id <= entries[-1][0]:
            return ErrorReply(
                "The ID specified in XADD is equal or smaller than the target stream top item"
            )
        entries.append((stream_id, data))
        return format_stream_id(stream_id)


class _SimulatedLink:
    def __init__(self, redis: SimulatedRedis) -> None:
        self._redis = redis
        self._open = True

    async def execute(self, commands: Sequence[Command], *, block_s: float = 0.0) -> list[Any]:
        if not self._open:
            raise RedisLostError("not connected")
        try:
            return await self._redis.execute(commands)
        except BaseException:
            self._open = False
            raise

    async def close(self) -> None:
        self._open = False
