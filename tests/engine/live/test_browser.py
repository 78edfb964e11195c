"""A real Chromium with a real clip as its camera and microphone, against the whole live engine."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from counterpoint.engine.config import LiveSection
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.redis_client import EVENTS_KEY
from counterpoint.streams.types import Modality
from tests.support.browser import Capture, open_chromium, require_chromium, write_capture
from tests.support.bundles import tiny_bundle
from tests.support.live_house import House, heard, play
from tests.support.page_scene import WAIT_MS, agree
from tests.support.programs import program
from tests.support.redis import redis_server, run_async
from tests.support.whip_clients import CLIP

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.chromium

# A busy machine may send nothing for a while, and need one to load a page again.
LIVE = LiveSection(media_idle_ms=15_000, linger_ms=15_000)
BRIEF = LiveSection(media_idle_ms=15_000, linger_ms=2_000)
# The page ends its connection and says so; that it is gone may be known before it is heard.
GONE = (200, 404)
VOICE = re.compile("present|partial")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").root


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    from playwright.async_api import expect

    require_chromium()
    expect.set_options(timeout=WAIT_MS)
    return write_capture(CLIP, tmp_path_factory.mktemp("capture"))


@asynccontextmanager
async def a_page(browser: Browser) -> AsyncIterator[Page]:
    """A page in a context of its own: another person's browser. It must make no error."""
    problems: list[str] = []
    context = await browser.new_context()
    context.set_default_timeout(WAIT_MS)
    page = await context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    try:
        yield page
    finally:
        await context.close()
    assert problems == []


async def join(page: Page, url: str, session: str, name: str, *, camera: bool = True) -> None:
    """All the way from the address to a connection that stands."""
    await page.goto(f"{url}/?session={session}&participant={name}")
    await join_here(page, camera=camera)


async def join_here(page: Page, *, camera: bool = True) -> None:
    await page.locator("#terms .consent").wait_for()
    await agree(page)
    if not camera:
        await page.get_by_label("Camera", exact=True).select_option("None")
    await page.get_by_role("button", name="Join").click()
    await page.locator("#state[data-state=live]").wait_for()


def started(house: House, session: str) -> int:
    """How often the session began."""
    with house.redis.client() as client:
        entries: Any = client.xrange(EVENTS_KEY)
    told = [json.loads(fields["data"]) for _, fields in entries]
    return [(event["session"], event["event"]) for event in told].count((session, "started"))


def all_three(prediction: Prediction) -> bool:
    """A face, a voice and a line. Of sound, some may be missing where the machine is busy."""
    told = {modality: report.state.value for modality, report in prediction.modalities.items()}
    seen_and_read = told[Modality.VIDEO] == told[Modality.CHAT] == "present"
    return seen_and_read and told[Modality.AUDIO] in ("present", "partial")


def test_a_person_is_seen_heard_and_read_and_sees_it(bundle: Path, capture: Capture) -> None:
    from playwright.async_api import expect

    async def scene(house: House) -> None:
        async with open_chromium(capture) as browser, a_page(browser) as page:
            await join(page, house.tap.url, "s", "ann")
            await house.until("s", lambda p: p.session == "s/ann" and heard(p))
            line = page.get_by_label("Write a line")
            await line.fill("how lovely, write to ann@example.org")
            await line.press("Enter")
            lines = page.get_by_role("log").get_by_role("listitem")
            await expect(lines).to_have_text(["ann: how lovely, write to [email]"])
            # The clip's camera has a face and its microphone a voice.
            await house.until("s", lambda p: p.session == "s/ann" and all_three(p))
            for head, labels in (("emotion", 7), ("sentiment", 3)):
                table = page.get_by_role("table", name=f"{head} in the newest window")
                await expect(table.get_by_role("row")).to_have_count(labels)
                chart = page.get_by_role("article", name=head).get_by_role("img")
                await expect(chart).to_have_accessible_name(re.compile(f"^{head}, last 60 seconds"))
                assert await chart.locator("path[d^=M]").count() == labels
            camera, microphone, chat = await page.locator("#modalities > li").all()
            await expect(camera).to_contain_text("present")
            await expect(microphone).to_contain_text(VOICE)
            await expect(chat).to_contain_text("present")
            await expect(page.locator("#facts")).to_contain_text("ms a window")
            await expect(page.locator("#facts")).to_contain_text("round trip")
            connection = house.connection("s", "ann")
            assert (connection["video"]["codec"], connection["audio"]["codec"]) == ("VP8", "OPUS")
            assert (connection["state"], connection["trouble"]) == ("connected", {})
            await page.get_by_role("button", name="Leave").click()
            await expect(page.locator("#state")).to_have_text("You left")
            await house.until_over("s")
        own, mixed = house.redis.predictions("s/ann"), house.redis.predictions("s")
        assert any(all_three(p) for p in own)
        assert any(all_three(p) for p in mixed)
        assert [p.window for p in own] == sorted({p.window for p in own})
        post, delete = (e for e in house.tap.exchanges() if "/whip/" in e.path)
        assert (post.method, post.status) == ("POST", 201)
        assert (delete.method, delete.path) == ("DELETE", post.answer_headers["location"])
        assert delete.status in GONE

    play(bundle, scene, BRIEF)


def test_two_people_in_two_browsers_share_a_session(bundle: Path, capture: Capture) -> None:
    from playwright.async_api import expect

    async def scene(house: House) -> None:
        async with (
            open_chromium(capture) as browser,
            a_page(browser) as ann,
            a_page(browser) as bob,
        ):
            await join(ann, house.server.url, "s", "ann")
            await expect(ann.locator("#where")).to_have_text("s · ann")
            await join(bob, house.server.url, "s", "bob", camera=False)
            await expect(ann.locator("#where")).to_have_text("s · ann · with bob")
            await expect(bob.locator("#where")).to_have_text("s · bob · with ann")
            both = await house.until("s", lambda p: set(p.participants) == {"ann", "bob"})
            assert sum(both.participants.values()) == pytest.approx(1.0)
            for page in (ann, bob):
                choice = page.get_by_label("Show", exact=True)
                await expect(choice.locator("option")).to_have_text(
                    ["Everyone together", "ann", "bob"]
                )
            await bob.get_by_label("Write a line").fill("hello ann")
            await bob.get_by_role("button", name="Send").click()
            heard_lines = ann.get_by_role("log").get_by_role("listitem")
            await expect(heard_lines).to_have_text(["bob: hello ann"])
            await house.until(
                "s",
                lambda p: (
                    p.session == "s/bob"
                    and p.modalities[Modality.CHAT].state.value == "present"
                    and p.modalities[Modality.AUDIO].coverage > 0
                ),
            )
            # What bob wrote is his alone.
            ann_chat = {
                p.modalities[Modality.CHAT].state.value for p in house.redis.predictions("s/ann")
            }
            assert ann_chat <= {"silent"}
            await bob.get_by_role("button", name="Leave").click()
            await expect(bob.locator("#state")).to_have_text("You left")
            await expect(ann.locator("#where")).to_have_text("s · ann")
            await house.until("s", lambda p: set(p.participants) == {"ann"} and heard(p))

    play(bundle, scene, BRIEF)


def test_a_page_comes_back_by_itself_and_after_it_was_loaded_again(
    bundle: Path, capture: Capture
) -> None:
    from playwright.async_api import expect

    async def scene(house: House) -> None:
        def own(prediction: Prediction) -> bool:
            return prediction.session == "s/ann" and heard(prediction)

        async with open_chromium(capture) as browser, a_page(browser) as page:
            await join(page, house.tap.url, "s", "ann")
            first = await house.until("s", own)
            # The engine's side ends; the page was told nothing, and is not asked to do anything.
            (post,) = house.tap.exchanges("POST")
            async with httpx.AsyncClient() as operator:
                ended = await operator.delete(house.server.url + post.answer_headers["location"])
            assert ended.status_code == 200
            second = await house.until("s", lambda p: own(p) and p.epoch > first.epoch)
            await expect(page.locator("#state")).to_have_text("Connected")
            assert len(house.tap.exchanges("POST")) == 2
            await page.reload()
            await join_here(page)
            third = await house.until("s", lambda p: own(p) and p.epoch > second.epoch)
            assert first.window < second.window < third.window
            # Going away, the page took its leave.
            post = house.tap.exchanges("POST")[1]
            (delete,) = house.tap.exchanges("DELETE")
            assert delete.path == post.answer_headers["location"]
            assert delete.status in GONE
            assert len(house.tap.exchanges("POST")) == 3
            assert started(house, "s") == started(house, "s/ann") == 1
            await page.get_by_role("button", name="Leave").click()
            await expect(page.locator("#state")).to_have_text("You left")

    play(bundle, scene, LIVE)


def test_the_command_serves_its_page_and_ends_when_it_is_told(capture: Capture) -> None:
    from playwright.async_api import expect

    async def main(redis_url: str) -> None:
        command = [sys.executable, "-m", "counterpoint.engine.cli", "serve", "--port", "0"]
        async with program(*command, "--redis", redis_url) as server:
            line = await server.until_error("in a browser")
            address = re.search(r"http://\S+", line)
            assert address is not None, line
            async with open_chromium(capture) as browser, a_page(browser) as page:
                await page.goto(address[0])
                await join_here(page)
                await expect(page.locator("#where")).to_contain_text("demo · ")
                for head in ("emotion", "sentiment"):
                    table = page.get_by_role("table", name=f"{head} in the newest window")
                    await expect(table.locator(".most")).to_contain_text("%")
                # These models are the real ones: they found the face, and heard the voice.
                camera, microphone, _ = await page.locator("#modalities > li").all()
                await expect(camera).to_contain_text("present")
                await expect(microphone).to_contain_text(VOICE)
                server.process.send_signal(signal.SIGTERM)
                told = page.locator("#alerts, #notices")
                await expect(told).to_contain_text(["", "the engine stops"])
                assert await server.ended() == 128 + signal.SIGTERM
        assert not [line for line in server.errors if "Traceback" in line], server

    with redis_server() as redis:
        run_async(lambda: main(redis.url), timeout_s=100)
        kept = redis.predictions("demo")
    assert any(heard(p) for p in kept)
