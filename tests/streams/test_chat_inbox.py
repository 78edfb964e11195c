"""`ChatInbox` on a virtual clock: what is taken, what is refused, and what it says of itself."""

from __future__ import annotations

import asyncio

import pytest

from counterpoint.streams.chat_file import CUT
from counterpoint.streams.chat_inbox import (
    NOT_YET_RUNNING,
    TOO_MANY_OF_AUTHOR,
    ChatInbox,
    TooManyLinesError,
)
from counterpoint.streams.chat_outlet import TOO_MANY
from counterpoint.streams.errors import FailedError, UsageError
from counterpoint.streams.feed import LiveSource
from counterpoint.streams.types import NS_PER_S, Modality, Tier
from tests.support.chat_feed import KeepingFeed, check_items, running
from tests.support.virtual import VirtualRuntime

MS = NS_PER_S // 1_000


def inbox_of(runtime: VirtualRuntime, **limits: float) -> ChatInbox:
    return ChatInbox(runtime, **limits)  # type: ignore[arg-type]  # the burst ones are whole


def test_lines_are_stamped_with_their_arrival_among_heartbeats() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        inbox, feed = ChatInbox(runtime), KeepingFeed(runtime)
        start_ns = runtime.now_ns()
        assert isinstance(inbox, LiveSource)
        assert inbox.modalities == {Modality.CHAT}
        async with running(inbox, feed):
            await runtime.advance_to(start_ns + 600 * MS)
            inbox.post("ann", "hello")
            await runtime.advance_to(start_ns + 700 * MS)
            inbox.post("bob", "there")
            await runtime.advance_to(start_ns + 1_100 * MS)
        assert feed.said == [("ann", "hello"), ("bob", "there")]
        assert [line.t_ns for line in feed.lines] == [600 * MS, 700 * MS]
        # What is handed in later is stamped later: the chat is known up to now.
        assert feed.bounds == [0, 250 * MS, 500 * MS, 750 * MS, 1_000 * MS]
        assert [(clock.tier, clock.epoch) for clock in feed.clocks] == [(Tier.ARRIVAL, 0)]
        check_items(feed, "chat")

    asyncio.run(main())


def test_what_came_before_it_ran_is_kept_with_its_time_and_the_newest_win() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        start_ns = runtime.now_ns()
        inbox = inbox_of(runtime, author_per_s=1e6, author_burst=1_000, all_burst=1_000)
        feed = KeepingFeed(runtime)
        for number in range(300):
            inbox.post("ann", str(number))
        await runtime.advance_to(start_ns + NS_PER_S)
        async with running(inbox, feed):
            await runtime.settle()
            assert [text for _, text in feed.said] == [str(n) for n in range(44, 300)]
            assert feed.lines[0].t_ns == 0
            assert inbox.drops.by_reason == {NOT_YET_RUNNING: 44}
            check_items(feed, "chat")
            assert feed.items[0].t_ns == 0
            assert feed.bounds == [NS_PER_S]

    asyncio.run(main())


def test_a_line_from_before_the_session_is_at_its_beginning() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        inbox = ChatInbox(runtime)
        inbox.post("ann", "early")
        await runtime.advance_to(runtime.now_ns() + NS_PER_S)
        feed = KeepingFeed(runtime)
        async with running(inbox, feed):
            await runtime.settle()
            assert [line.t_ns for line in feed.lines] == [0]

    asyncio.run(main())


def test_it_may_be_run_again_and_numbers_go_on() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        inbox, feed = ChatInbox(runtime), KeepingFeed(runtime)
        for text in ("one", "two"):
            async with running(inbox, feed):
                await runtime.settle()
                inbox.post("ann", text)
        inbox.post("ann", "between")
        inbox.close()
        inbox.close()
        await inbox.run(feed)  # closed: gives what waits, and returns
        assert [text for _, text in feed.said] == ["one", "two", "between"]
        assert [line.sequence for line in feed.lines] == [0, 1, 2]
        with pytest.raises(FailedError, match="closed"):
            inbox.post("ann", "late")

    asyncio.run(main())


def test_close_ends_a_run() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        inbox, feed = ChatInbox(runtime), KeepingFeed(runtime)
        async with running(inbox, feed) as task:
            await runtime.settle()
            inbox.close()
            await task
        assert feed.bounds == [0]

    asyncio.run(main())


def test_one_at_a_time() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        inbox, feed = ChatInbox(runtime), KeepingFeed(runtime)
        async with running(inbox, feed):
            await runtime.settle()
            with pytest.raises(RuntimeError, match="runs already"):
                await inbox.run(feed)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("author", "text"), [("", "x"), ("  \n", "x"), ("ann", ""), ("ann", " \t\r\n\x00 ")]
)
def test_empty_lines_and_authors_are_refused(author: str, text: str) -> None:
    inbox = ChatInbox(VirtualRuntime())
    with pytest.raises(UsageError, match=r"author|empty"):
        inbox.post(author, text)


def test_long_and_dirty_text_is_cut_and_cleaned() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        inbox, feed = ChatInbox(runtime), KeepingFeed(runtime)
        async with running(inbox, feed):
            await runtime.settle()
            inbox.post("a" * 300, "x" * 1_000_000)
            inbox.post(" an\nn ", " one\r\ntwo\x00\x1b[31m\ud800 \u2028é👩‍👩‍👧 ")
            inbox.post("ann", "y" * 2_000)
        assert feed.said[0] == ("a" * 200, "x" * 2_000)
        assert feed.said[1] == ("an n", "one  two[31m?  é👩‍👩‍👧")
        assert feed.said[2] == ("ann", "y" * 2_000)
        assert inbox.drops.by_reason == {CUT: 1}

    asyncio.run(main())


def test_one_author_is_held_to_a_rate_and_others_are_not() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        inbox, feed = ChatInbox(runtime), KeepingFeed(runtime)
        async with running(inbox, feed):
            await runtime.settle()
            for number in range(20):
                inbox.post("ann", str(number))
            for name in ("ann", " ann "):  # no other author for its spaces
                with pytest.raises(TooManyLinesError, match="this author") as refused:
                    inbox.post(name, "one more")
                assert refused.value.retry_after_ns == 200 * MS
            inbox.post("bob", "hello")
            await runtime.advance_to(runtime.now_ns() + 200 * MS)
            inbox.post("ann", "again")
        assert len(feed.lines) == 22
        assert inbox.drops.by_reason == {TOO_MANY_OF_AUTHOR: 2}

    asyncio.run(main())


def test_all_together_are_held_to_a_rate() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        inbox, feed = ChatInbox(runtime), KeepingFeed(runtime)
        async with running(inbox, feed):
            await runtime.settle()
            refused = 0
            for number in range(1_000):
                try:
                    inbox.post(f"author {number}", "hello")
                except TooManyLinesError:
                    refused += 1
            with pytest.raises(TooManyLinesError, match="this session") as error:
                inbox.post("one more", "hello")
            assert error.value.retry_after_ns == 20 * MS
        assert len(feed.lines) == 200
        assert refused == 800
        assert inbox.drops.by_reason == {TOO_MANY: 801}

    asyncio.run(main())


def test_a_refused_line_costs_its_author_nothing() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        inbox = inbox_of(runtime, all_burst=1, author_burst=2, author_per_s=0.001)
        inbox.post("ann", "one")
        for _ in range(5):
            with pytest.raises(TooManyLinesError, match="this session"):
                inbox.post("bob", "two")
        await runtime.advance_to(runtime.now_ns() + NS_PER_S)
        inbox.post("bob", "two")
        await runtime.advance_to(runtime.now_ns() + NS_PER_S)
        inbox.post("bob", "three")

    asyncio.run(main())
