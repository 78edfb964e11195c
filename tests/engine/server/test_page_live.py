"""A real browser before the real engine: a clip's face and voice in, predictions back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from counterpoint.engine.config import Config, RedisSection
from tests.support.browser import open_chromium, require_chromium, write_capture
from tests.support.live_server import LiveServer, live_server
from tests.support.redis import redis_server, run_async

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.chromium

CLIP = Path(__file__).parents[2] / "data/grid_clip.mp4"
WAIT_MS = 20_000  # a slow machine decodes and infers meanwhile


def with_page(folder: Path, use: Callable[[Page, LiveServer], Awaitable[None]]) -> None:
    """Run ``use`` with a page whose camera and microphone play the clip, and a live engine."""
    require_chromium()
    from playwright.async_api import expect

    expect.set_options(timeout=WAIT_MS)
    capture = write_capture(CLIP, folder)

    @asynccontextmanager
    async def opened(redis_url: str) -> AsyncIterator[tuple[Page, LiveServer]]:
        config = Config(redis=RedisSection(url=redis_url))
        async with live_server(config) as server, open_chromium(capture) as browser:
            context = await browser.new_context()
            try:
                context.set_default_timeout(WAIT_MS)
                yield await context.new_page(), server
            finally:
                await context.close()

    async def main(redis_url: str) -> None:
        async with opened(redis_url) as (page, server):
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            await use(page, server)
            assert errors == []

    with redis_server() as redis:
        run_async(lambda: main(redis.url), timeout_s=100)


async def join(page: Page, server: LiveServer) -> str:
    """Into the session, as someone does it; returns the address of the connection."""
    await page.goto(f"{server.url}/?session=demo&participant=ann")
    await page.get_by_label("I have read this and agree").check()
    await page.get_by_role("button", name="Continue").click()
    async with page.expect_response("**/whip/**") as answered:
        await page.get_by_role("button", name="Join").click()
    answer = await answered.value
    assert answer.status == 201
    return server.url + answer.headers["location"]


def test_a_face_a_voice_and_a_line_are_seen_heard_and_read(tmp_path: Path) -> None:
    from playwright.async_api import expect

    async def use(page: Page, server: LiveServer) -> None:
        await join(page, server)
        await expect(page.locator("#state")).to_have_text("Connected")
        await page.get_by_label("Write a line").fill("how lovely, write to me@home.example")
        await page.get_by_role("button", name="Send").click()
        cards = page.locator("#modalities > li")
        await expect(cards).to_have_count(3)
        for card in await cards.all():
            await expect(card).to_contain_text("present")
            await expect(card).to_contain_text("emotion")
        line = page.get_by_role("log").get_by_role("listitem")
        await expect(line).to_have_text("ann: how lovely, write to [email]")
        emotion = page.get_by_role("article", name="emotion")
        await expect(emotion.locator("tr.most")).to_have_count(1)
        await expect(page.locator("#facts")).to_contain_text("network and page")
        await page.get_by_role("button", name="Leave").click()
        await expect(page.locator("#state")).to_have_text("You left")
        await page.get_by_role("button", name="Join").click()
        await expect(page.locator("#state")).to_have_text("Connected")
        await expect(page.locator("#facts")).to_contain_text("final")

    with_page(tmp_path, use)


def test_a_lost_connection_is_made_again_in_the_same_session(tmp_path: Path) -> None:
    from playwright.async_api import expect

    async def use(page: Page, server: LiveServer) -> None:
        resource = await join(page, server)
        await expect(page.locator("#facts")).to_contain_text("final")
        await page.evaluate(
            """() => {
              const state = document.querySelector("#state");
              window.states = [];
              new MutationObserver(() => window.states.push(state.textContent))
                .observe(state, {childList: true});
            }"""
        )
        assert (await page.request.delete(resource)).ok  # the engine hangs up
        await expect(page.locator("#facts")).to_contain_text("lost 1 time")
        await expect(page.locator("#state")).to_have_text("Connected")
        said = await page.evaluate("window.states")
        assert said == ["Trying again (1): the engine closed the connection", "Connected"]
        assert server.rooms.names() == ["demo"]
        shown = page.locator("#facts > div").filter(has_text="ends at").locator("dd").first
        before = await shown.text_content()
        await expect(shown).not_to_have_text(before or "")  # predictions go on

    with_page(tmp_path, use)
