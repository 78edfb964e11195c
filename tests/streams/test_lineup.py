"""`Lineup`: sources come, go, break off and come back; slots keep names, numbers and epochs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable

import numpy as np
import pytest

from counterpoint.streams.errors import SourceError, UnavailableError, UsageError
from counterpoint.streams.feed import Feed, LiveSource
from counterpoint.streams.lineup import Lineup
from counterpoint.streams.types import (
    NS_PER_S,
    Bound,
    ChatLine,
    ClockUpdate,
    DropCounter,
    Item,
    Modality,
    SourceEnded,
    Tier,
    VideoFrame,
)
from tests.support.virtual import VirtualRuntime

SLOTS = {Modality.VIDEO: "camera", Modality.CHAT: "chat"}
Script = Callable[[Feed], Awaitable[None]]


class Scripted:
    """A live source whose runs are the scripts given, one after the other."""

    def __init__(self, name: str, modality: Modality, scripts: Iterable[Script]) -> None:
        self.name = name
        self.modalities = frozenset({modality})
        self.drops = DropCounter()
        self._scripts = list(scripts)

    async def run(self, feed: Feed) -> None:
        await self._scripts.pop(0)(feed)


class Collected:
    """A feed that keeps what it is given."""

    def __init__(self, runtime: VirtualRuntime) -> None:
        self._runtime = runtime
        self._origin_ns = runtime.now_ns()
        self.items: list[Item] = []

    def now_ns(self) -> int:
        return self._runtime.now_ns() - self._origin_ns

    def session_ns(self, monotonic_ns: int) -> int:
        return monotonic_ns - self._origin_ns

    def wanted_ns(self, modality: Modality) -> int:
        return 0

    def put(self, item: Item) -> None:
        self.items.append(item)


def _picture(feed: Feed, number: int) -> VideoFrame:
    luma = np.zeros((2, 2), np.uint8)
    return VideoFrame(source="webcam:0", t_ns=feed.now_ns(), y=luma, sequence=number)


def _video_clock(epoch: int = 0) -> ClockUpdate:
    return ClockUpdate(
        source="webcam:0",
        modality=Modality.VIDEO,
        t_ns=0,
        tier=Tier.DEVICE,
        error_ns=1,
        epoch=epoch,
    )


async def _two_pictures(feed: Feed) -> None:
    feed.put(_video_clock())
    feed.put(_picture(feed, 0))
    feed.put(_picture(feed, 1))


async def _then_breaks_off(feed: Feed) -> None:
    await _two_pictures(feed)
    raise SourceError("unplugged")


async def _for_ever(feed: Feed) -> None:
    await _two_pictures(feed)
    await asyncio.Event().wait()


def _told(items: Iterable[Item]) -> list[str]:
    said = []
    for item in items:
        match item:
            case VideoFrame():
                said.append(f"{item.source} #{item.sequence}")
            case ChatLine():
                said.append(f"{item.source} #{item.sequence} {item.author}: {item.text}")
            case ClockUpdate():
                said.append(f"{item.source} clock {item.tier} epoch {item.epoch}")
            case Bound():
                said.append(f"{item.source} bound {item.t_ns}")
            case SourceEnded():
                said.append(f"{item.source} ended {item.error}")
            case _:
                raise AssertionError(item)
    return said


def _run(lineup: Lineup, runtime: VirtualRuntime, feed: Collected) -> list[str]:
    runtime.run(lineup.run(feed))
    return _told(feed.items)


@pytest.fixture
def runtime() -> VirtualRuntime:
    return VirtualRuntime()


@pytest.fixture
def feed(runtime: VirtualRuntime) -> Collected:
    return Collected(runtime)


def test_it_ends_with_its_last_source(runtime: VirtualRuntime, feed: Collected) -> None:
    lineup = Lineup("s", {Modality.VIDEO: "camera"}, runtime, lasting=False)
    lineup.add(Scripted("webcam:0", Modality.VIDEO, [_two_pictures]))
    assert _run(lineup, runtime, feed) == [
        "camera clock device epoch 0",
        "camera #0",
        "camera #1",
        "camera ended None",
        "camera ended None",
    ]


def test_a_source_that_breaks_off_is_run_again_in_a_new_epoch(
    runtime: VirtualRuntime, feed: Collected
) -> None:
    lineup = Lineup("s", {Modality.VIDEO: "camera"}, runtime, lasting=False)
    seat = lineup.add(
        Scripted("webcam:0", Modality.VIDEO, [_then_breaks_off, _then_breaks_off, _two_pictures])
    )
    told = _run(lineup, runtime, feed)
    assert [line for line in told if "clock" in line] == [
        f"camera clock device epoch {epoch}" for epoch in range(3)
    ]
    assert [line for line in told if "#" in line] == [f"camera #{n}" for n in range(6)]
    assert not any("ended" in line for line in told[:-2]), "while it is retried it has not ended"
    assert seat.error == "unplugged"
    assert seat.runs == 3
    # Half a second and a second, each a quarter more or less.
    assert 1.125 * NS_PER_S <= feed.now_ns() <= 1.875 * NS_PER_S


def test_pauses_between_retries_grow_and_are_bounded(
    runtime: VirtualRuntime, feed: Collected
) -> None:
    began: list[int] = []

    async def fails(feed: Feed) -> None:
        began.append(feed.now_ns())
        raise SourceError("unplugged")

    lineup = Lineup("s", {Modality.VIDEO: "camera"}, runtime, lasting=False)
    lineup.add(Scripted("webcam:0", Modality.VIDEO, [*[fails] * 12, _two_pictures]))
    runtime.run(lineup.run(feed))
    pauses = [(b - a) / NS_PER_S for a, b in itertools.pairwise(began)]
    assert pauses[0] < 0.7
    assert all(7.5 <= pause <= 12.5 for pause in pauses[6:])


def test_without_retry_it_ends_with_its_error(runtime: VirtualRuntime, feed: Collected) -> None:
    lineup = Lineup("s", {Modality.VIDEO: "camera"}, runtime, lasting=False)
    lineup.add(Scripted("peer", Modality.VIDEO, [_then_breaks_off]), retry=False)
    assert "camera ended unplugged" in _run(lineup, runtime, feed)


def test_a_slot_that_nothing_feeds_has_ended_and_comes_back_in_a_new_epoch(
    runtime: VirtualRuntime, feed: Collected
) -> None:
    lineup = Lineup("s", SLOTS, runtime, lasting=True)

    async def session() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(lineup.run(feed))
            await runtime.settle()
            seat = lineup.add(Scripted("webcam:0", Modality.VIDEO, [_for_ever]))
            await runtime.settle()
            await lineup.remove(seat)
            await lineup.remove(seat)
            assert seat.done.is_set()
            lineup.add(Scripted("webcam:1", Modality.VIDEO, [_for_ever]))
            await runtime.settle()
            lineup.close()

    asyncio.run(session())
    assert _told(feed.items) == [
        "camera ended None",
        "chat ended None",
        "camera clock device epoch 1",
        "camera #0",
        "camera #1",
        "camera ended None",
        "camera clock device epoch 2",
        "camera #2",
        "camera #3",
        "camera ended None",
        "camera ended None",
        "chat ended None",
    ]


def test_what_a_source_gives_after_it_was_removed_is_dropped_and_counted(
    runtime: VirtualRuntime, feed: Collected
) -> None:
    kept: list[Feed] = []

    async def keeps(feed: Feed) -> None:
        kept.append(feed)
        await asyncio.Event().wait()

    lineup = Lineup("s", {Modality.VIDEO: "camera"}, runtime, lasting=True)
    seat = lineup.add(Scripted("webcam:0", Modality.VIDEO, [keeps]))

    async def session() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(lineup.run(feed))
            await runtime.settle()
            await lineup.remove(seat)
            kept[0].put(_picture(kept[0], 0))
            lineup.close()

    asyncio.run(session())
    assert not any("#" in line for line in _told(feed.items))
    assert lineup.drops.by_reason == {"source gone": 1}


def test_one_camera_at_a_time_and_no_modality_that_the_session_lacks(
    runtime: VirtualRuntime,
) -> None:
    async def check() -> None:
        lineup = Lineup("s", {Modality.VIDEO: "camera"}, runtime, lasting=True)
        lineup.add(Scripted("webcam:0", Modality.VIDEO, [_for_ever]))
        with pytest.raises(UsageError, match="has its video from webcam:0 already"):
            lineup.add(Scripted("webcam:1", Modality.VIDEO, [_for_ever]))
        with pytest.raises(UsageError, match="takes no audio"):
            lineup.add(Scripted("mic:0", Modality.AUDIO, [_for_ever]))
        lineup.close()
        with pytest.raises(UsageError, match="is over"):
            lineup.add(Scripted("webcam:2", Modality.VIDEO, [_for_ever]))

    asyncio.run(check())


def _chat(name: str, tier: Tier, bounds: Iterable[int]) -> LiveSource:
    async def script(feed: Feed) -> None:
        feed.put(
            ClockUpdate(source=name, modality=Modality.CHAT, t_ns=0, tier=tier, error_ns=5, epoch=0)
        )
        feed.put(ChatLine(source=name, t_ns=0, author=name, text="hello", sequence=0))
        for bound in bounds:
            feed.put(Bound(source=name, modality=Modality.CHAT, t_ns=bound))
        await asyncio.Event().wait()

    return Scripted(name, Modality.CHAT, [script])


def test_several_chats_share_a_slot_and_the_slowest_speaks_for_all(
    runtime: VirtualRuntime, feed: Collected
) -> None:
    lineup = Lineup("s", {Modality.CHAT: "chat"}, runtime, lasting=True)

    async def session() -> None:
        lineup.add(_chat("irc", Tier.ARRIVAL, [100]))
        async with asyncio.TaskGroup() as group:
            group.create_task(lineup.run(feed))
            await runtime.settle()
            lineup.add(_chat("redis", Tier.SERVER, [50, 200]))
            await runtime.settle()
            lineup.close()

    asyncio.run(session())
    assert _told(feed.items)[:-2] == [
        "chat clock arrival epoch 0",
        "chat #0 irc: hello",
        "chat bound 100",
        "chat clock arrival epoch 0",
        "chat #1 redis: hello",
        "chat bound 50",
        "chat bound 100",
    ]


def test_a_source_that_is_not_there_at_the_start_is_told_at_once(
    runtime: VirtualRuntime, feed: Collected
) -> None:
    async def absent(feed: Feed) -> None:
        raise UnavailableError("no camera 7")

    lineup = Lineup("s", {Modality.VIDEO: "camera"}, runtime, lasting=False)
    lineup.add(Scripted("webcam:7", Modality.VIDEO, [absent]))
    with pytest.raises(ExceptionGroup) as raised:
        runtime.run(lineup.run(feed))
    assert raised.group_contains(UnavailableError, match="no camera 7")
