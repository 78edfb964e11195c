"""The page's devices in a real Chromium: choice, none, refusal, mute, camera off, unplugging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import require_chromium
from tests.support.page_engine import PageEngine
from tests.support.page_scene import Stage, agree, arrive, join, open_stage

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.chromium

PICTURE = "v => new Promise(done => v.requestVideoFrameCallback(() => done(v.videoWidth)))"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    require_chromium()
    with open_stage() as stage:
        yield stage


def test_preview_is_mirrored_and_muted_and_names_come_with_permission(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await arrive(page, engine)
        await agree(page)
        camera = page.get_by_label("Camera", exact=True)
        assert (await camera.locator("option").all_text_contents())[-1] == "None"
        await page.get_by_role("button", name="Show preview").click()
        preview = page.get_by_label("Your own picture, mirrored")
        assert await preview.evaluate(PICTURE) > 0
        assert await preview.evaluate("v => v.muted") is True
        assert await preview.evaluate("v => getComputedStyle(v).transform") == (
            "matrix(-1, 0, 0, 1, 0, 0)"
        )
        await expect(camera.locator("option").first).to_have_text("fake_device_0")
        assert engine.peers == []

    stage.play(scene)


def test_with_none_for_both_there_is_chat_and_no_question(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await arrive(page, engine)
        await agree(page)
        await page.get_by_label("Camera", exact=True).select_option("None")
        await page.get_by_label("Microphone", exact=True).select_option("None")
        await page.get_by_role("button", name="Join").click()
        peer = await engine.peer()
        assert peer.kinds == []
        assert await page.evaluate("window.spied.media") == 0
        await expect(page.get_by_role("button", name="Mute")).to_be_disabled()
        await page.get_by_label("Write a line").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await engine.until(lambda: engine.said("chat") == [{"type": "chat", "text": "hello"}])
        # A microphone taken later needs a place of its own: the page joins anew with one.
        await page.get_by_text("Change devices").click()
        microphone = page.get_by_label("Microphone", exact=True)
        await microphone.select_option(index=0)
        assert (await engine.peer(1)).kinds == ["audio"]
        await expect(page.locator("#state")).to_have_text("Connected")

    stage.play(scene)


def test_what_the_purpose_does_not_allow_is_never_asked_for(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        purpose = {**engine.terms["purpose"], "modalities": ["audio", "chat"]}
        engine.terms = {**engine.terms, "purpose": purpose}
        await arrive(page, engine)
        await agree(page)
        camera = page.get_by_label("Camera", exact=True)
        await expect(camera).to_be_disabled()
        await expect(camera).to_have_value("none")
        await expect(camera).to_have_accessible_description(
            "This engine’s purpose allows no picture."
        )
        await expect(page.get_by_label("Microphone", exact=True)).to_be_enabled()
        await page.get_by_role("button", name="Join").click()
        assert (await engine.peer()).kinds == ["audio"]
        await expect(page.get_by_role("button", name="Camera off")).to_be_disabled()

    stage.play(scene)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("NotAllowedError", "The browser does not allow the camera and microphone."),
        ("NotReadableError", "The camera cannot be opened."),
    ],
)
def test_a_device_that_cannot_be_had_is_said_and_none_helps(
    stage: Stage, error: str, words: str
) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await page.add_init_script(
            f"""const refusal = new DOMException("no", "{error}");
            const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = (wanted) =>
              wanted.video ? Promise.reject(refusal) : ask(wanted);"""
        )
        await arrive(page, engine)
        await agree(page)
        await page.get_by_role("button", name="Join").click()
        await expect(page.locator("#alerts")).to_contain_text(words)
        assert engine.peers == []
        await page.get_by_label("Camera", exact=True).select_option("None")
        await page.get_by_role("button", name="Join").click()
        assert (await engine.peer()).kinds == ["audio"]
        await expect(page.locator("#alerts")).to_be_empty()

    stage.play(scene)


def test_mute_and_camera_off(stage: Stage) -> None:
    from playwright.async_api import expect

    stream = "document.querySelector('#preview').srcObject"

    async def scene(page: Page, engine: PageEngine) -> None:
        await join(page, engine)
        await page.get_by_role("button", name="Mute").click()
        await expect(page.get_by_role("button", name="Unmute")).to_be_visible()
        assert await page.evaluate(f"{stream}.getAudioTracks()[0].enabled") is False
        await page.get_by_role("button", name="Unmute").click()
        assert await page.evaluate(f"{stream}.getAudioTracks()[0].enabled") is True
        await page.get_by_role("button", name="Camera off").click()
        await expect(page.get_by_text("Your camera is off")).to_be_visible()
        assert await page.evaluate(f"{stream}.getVideoTracks().length") == 0  # its light is out
        await page.get_by_role("button", name="Camera on").click()
        preview = page.get_by_label("Your own picture, mirrored")
        assert await preview.evaluate(PICTURE) > 0
        assert len(engine.peers) == 1  # all on one connection
        await expect(page.locator("#state")).to_have_text("Connected")

    stage.play(scene)


def test_an_unplugged_camera_is_said_and_the_rest_goes_on(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await join(page, engine)
        await page.evaluate(
            "document.querySelector('#preview').srcObject.getVideoTracks()[0]"
            ".dispatchEvent(new Event('ended'))"
        )
        await expect(page.locator("#notices")).to_contain_text("The camera is gone.")
        await page.get_by_text("Change devices").click()
        camera = page.get_by_label("Camera", exact=True)
        await expect(camera).to_have_value("none")
        await camera.select_option("fake_device_0")
        preview = page.get_by_label("Your own picture, mirrored")
        assert await preview.evaluate(PICTURE) > 0
        await expect(page.locator("#notices")).to_be_empty()
        assert len(engine.peers) == 1
        await page.evaluate("navigator.mediaDevices.dispatchEvent(new Event('devicechange'))")
        await expect(camera.locator("option:checked")).to_have_text("fake_device_0")

    stage.play(scene)
