"""The page's connection in a real Chromium: leaving, loss, trying again, and when not to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import require_chromium
from tests.support.page_engine import PageEngine, Refusal, prediction
from tests.support.page_scene import Stage, join, open_stage

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    require_chromium()
    with open_stage() as stage:
        yield stage


def test_leaving_tells_the_engine_and_closes_the_camera(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await join(page, engine)
        live = "document.querySelector('#preview').srcObject.getTracks().length"
        assert await page.evaluate(live) == 2
        await page.get_by_role("button", name="Leave").click()
        await expect(page.locator("#state")).to_have_text("You left")
        await engine.until(lambda: len(engine.deleted) == 1)
        assert await page.evaluate(live) == 0
        await page.get_by_role("button", name="Join").click()
        await engine.peer(1)
        await expect(page.locator("#state")).to_have_text("Connected")

    stage.play(scene)


def test_a_page_that_goes_leaves(stage: Stage) -> None:
    async def scene(page: Page, engine: PageEngine) -> None:
        await join(page, engine)
        await page.goto("about:blank")
        await engine.until(lambda: len(engine.deleted) == 1)

    stage.play(scene)


def test_a_connection_that_the_engine_closed_is_made_again(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        first = await join(page, engine)
        now = engine.now_ms()
        first.send(prediction(1, now - 8_000))
        first.send(prediction(2, now - 7_750))
        await expect(page.locator("#facts")).to_contain_text("never lost")
        await page.evaluate(
            """() => {
              const state = document.querySelector("#state");
              window.states = [];
              new MutationObserver(() => window.states.push(state.textContent))
                .observe(state, {childList: true});
            }"""
        )
        await first.close()
        second = await engine.peer(1)
        await expect(page.locator("#state")).to_have_text("Connected")
        assert (second.session, second.participant) == ("demo", "ann")
        assert sorted(second.kinds) == ["audio", "video"]
        said = await page.evaluate("window.states")
        assert said == ["Trying again (1): the engine closed the connection", "Connected"]
        assert engine.deleted == []  # the engine knows that it is gone
        second.send(prediction(1, engine.now_ms()))  # a new engine counts from 1 again
        await expect(page.locator("#facts")).to_contain_text("lost 1 time")
        await expect(page.locator("#facts")).to_contain_text("1ends at 0.25 s")
        chart = page.get_by_role("article", name="emotion").locator("svg.chart")
        await expect(chart.locator(".gaps rect")).to_have_count(1)  # the charts go on, with a gap
        path = await chart.locator(".band").first.get_attribute("d")
        assert path is not None
        assert path.count("M") == 2

    stage.play(scene)


def test_an_engine_that_falls_silent_is_joined_anew(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await join(page, engine)
        engine.pongs = False
        await expect(page.locator("#state")).to_contain_text("silent for 3 seconds")
        engine.pongs = True
        await engine.peer(1)
        await expect(page.locator("#state")).to_have_text("Connected")
        # No old one is left behind, and no other is ended. There is more than one where this
        # machine stood still for three seconds: to the page, that is a silent engine, too.
        old = range(len(engine.peers) - 1)
        assert engine.deleted == [(f"/whip/demo/{number}", None) for number in old]

    stage.play(scene)


def test_while_reconnecting_it_waits_out_want_of_room_but_not_a_ban(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        def posts() -> int:
            return len([1 for method, _ in engine.requests if method == "POST"])

        peer = await join(page, engine)
        engine.refuse = Refusal(status=503, error="capacity")
        await peer.close()
        await engine.until(lambda: posts() >= 3)
        await expect(page.locator("#state")).to_contain_text("Trying again")
        engine.refuse = Refusal(status=403)
        await expect(page.locator("#alerts")).to_contain_text("not let into this session")
        await expect(page.locator("#state")).to_have_text("Not connected")

    stage.play(scene)


def test_a_session_that_is_over_is_not_joined_again_by_itself(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        peer = await join(page, engine)
        peer.send({"type": "over", "reason": "erased"})
        await expect(page.locator("#alerts")).to_contain_text("This session is over.")
        await expect(page.locator("#alerts")).to_contain_text("The engine says: erased.")
        await expect(page.locator("#state")).to_have_text("Not connected")
        await engine.until(lambda: len(engine.deleted) == 1)
        assert len(engine.peers) == 1

    stage.play(scene)
