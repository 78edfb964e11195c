"""Who can use the page: keyboard, screen reader, phone, colour-blind and low-contrast eyes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.browser import require_chromium
from tests.support.page_engine import HEADS, PageEngine, Peer, prediction
from tests.support.page_scene import Stage, agree, arrive, join, open_stage

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.chromium

Colour = npt.NDArray[np.float64]  # (3,) linear sRGB

CONTROLS = {"button", "checkbox", "combobox", "link", "textbox", "DisclosureTriangle"}
NAMED = CONTROLS | {"article", "image", "img", "log", "region", "table", "Video"}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    require_chromium()
    with open_stage() as stage:
        yield stage


async def fill(page: Page, engine: PageEngine, peer: Peer) -> None:
    """A minute of predictions of two participants, chat, a notice: all that the page can show."""
    now = engine.now_ms()
    for window in range(1, 61):
        peer.send(prediction(window, now - (60 - window) * 1_000))
    for name in ("ann", "bob"):
        peer.send(prediction(60, now, name))
    peer.send({"type": "chat", "author": "bob", "text": "a" * 300})
    peer.send({"type": "notice", "level": "warning", "text": "One core only."})
    peer.send({"type": "participants", "names": ["ann", "bob"]})
    await page.get_by_text("60", exact=True).wait_for()
    await page.get_by_label("Show", exact=True).wait_for()
    await page.locator("#where").get_by_text("with bob").wait_for()


async def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, as someone without a mouse does."""
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await page.evaluate("s => document.activeElement?.matches(s) ?? false", selector):
            outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", f"the focus on {selector} cannot be seen"
            return
    raise AssertionError(f"Tab never came to {selector}")


def test_all_can_be_done_by_keyboard(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await arrive(page, engine, "")
        await tab_to(page, ".skip")
        await tab_to(page, "#session")
        await page.keyboard.type("demo")  # a Tab into a field selects what is in it
        await tab_to(page, "#participant")
        await page.keyboard.type("ann")
        await tab_to(page, "#agree")
        await page.keyboard.press("Space")
        await page.keyboard.press("Enter")  # sends the form off
        await expect(page.locator("#you-title")).to_be_focused()
        await tab_to(page, "#microphone")
        await tab_to(page, "#join")
        await page.keyboard.press("Enter")
        peer = await engine.peer()
        assert (peer.session, peer.participant) == ("demo", "ann")
        await expect(page.locator("#results-title")).to_be_focused()
        await fill(page, engine, peer)
        await tab_to(page, "#whom")
        await tab_to(page, ".head button")
        await page.keyboard.press("Enter")
        over = page.get_by_role("table", name="Over time, newest first").first
        await expect(over.get_by_role("row", name="now")).to_contain_text("52 %")
        await tab_to(page, ".scroll")  # a wide table can be scrolled
        await tab_to(page, "#lines")
        await tab_to(page, "#line")
        await page.keyboard.type("hello")
        await page.keyboard.press("Enter")
        await engine.until(lambda: engine.said("chat") == [{"type": "chat", "text": "hello"}])
        await page.keyboard.press("Shift+Tab")
        await page.evaluate("document.querySelector('#you-title').focus()")
        await tab_to(page, "#leave")
        await page.keyboard.press("Enter")
        await expect(page.locator("#state")).to_have_text("You left")
        await expect(page.locator("#you-title")).to_be_focused()

    stage.play(scene)


async def assert_named(page: Page) -> set[str]:
    """Every control has a name, by the browser's own reckoning; returns the roles seen."""
    client = await page.context.new_cdp_session(page)
    tree = await client.send("Accessibility.getFullAXTree")
    await client.detach()
    roles = set()
    for node in tree["nodes"]:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in NAMED:
            continue
        roles.add(role)
        assert node.get("name", {}).get("value", "").strip(), f"a {role} without a name: {node}"
    return roles


def test_every_control_has_a_name_and_landmarks_are_there(stage: Stage) -> None:
    async def scene(page: Page, engine: PageEngine) -> None:
        await arrive(page, engine)
        assert await assert_named(page) >= {"textbox", "checkbox", "button", "link"}
        await agree(page)
        assert await assert_named(page) >= {"combobox", "button"}
        await page.get_by_role("button", name="Join").click()
        await fill(page, engine, await engine.peer())
        await page.get_by_role("button", name="Show as table: emotion").click()
        assert await assert_named(page) >= {"article", "combobox", "log", "region", "table"}
        for role in ("banner", "main", "contentinfo"):
            assert await page.get_by_role(role).count() == 1
        levels = await page.locator("h1, h2, h3, h4").evaluate_all(
            "all => all.filter(h => h.checkVisibility()).map(h => Number(h.tagName[1]))"
        )
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        ids = await page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))

    stage.play(scene)


def test_live_regions_do_not_chatter(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        peer = await join(page, engine)
        await page.evaluate(
            """() => {
              window.said = [];
              const live = "[role=status], [role=alert], [role=log], [aria-live]";
              for (const region of document.querySelectorAll(live)) {
                new MutationObserver(() => window.said.push(region.textContent.trim()))
                  .observe(region, {childList: true, characterData: true, subtree: true});
              }
            }"""
        )
        await fill(page, engine, peer)
        said = await page.evaluate("window.said")
        assert len(said) == 2, said  # the notice and the line of chat; none of 62 predictions
        await page.get_by_label("Read changes aloud").check()
        now = engine.now_ms()
        for window in range(61, 65):
            peer.send(prediction(window, now + window))
            await expect(page.locator("#facts")).to_contain_text(f"Window{window}ends")
        assert await page.evaluate("window.said.slice(2)") == [
            "emotion neutral, sentiment positive"
        ]

    stage.play(scene)


@pytest.mark.parametrize("width", [320, 390, 900, 1680])
def test_no_width_scrolls_sideways(stage: Stage, width: int, tmp_path: Path) -> None:
    folder = str(tmp_path)  # to look at; nothing is compared
    shots: list[bytes] = []

    async def scene(page: Page, engine: PageEngine) -> None:
        async def fits(step: str) -> None:
            shots.append(await page.screenshot(path=f"{folder}/{step}.png", full_page=True))
            over = await page.evaluate(
                """() => {
                  const wide = document.documentElement.clientWidth;
                  return [...document.body.querySelectorAll("*")]
                    .filter(e => e.checkVisibility() && !e.closest(".unseen, .skip, .scroll > *"))
                    .filter(e => e.getBoundingClientRect().right > wide + 0.5)
                    .map(e => e.outerHTML.slice(0, 120));
                }"""
            )
            assert over == [], step
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, step

        await arrive(page, engine)
        await fits("welcome")
        await agree(page)
        await fits("setup")
        await page.get_by_role("button", name="Join").click()
        await fill(page, engine, await engine.peer())
        await fits("live")
        await page.get_by_role("button", name="Show as table: emotion").click()
        await page.get_by_text("Change devices").click()
        await fits("tables")
        assert len(set(shots)) == 4

    stage.play(scene, viewport={"width": width, "height": 640})


def linear(css: str) -> Colour:
    """``rgb(r, g, b)``, ``color(srgb r g b)`` or ``#rrggbb`` to linear sRGB (IEC 61966-2-1)."""
    if css.startswith("color(srgb "):  # what is mixed, as under the pointer
        channels = [255 * float(part) for part in css[len("color(srgb ") : -1].split()[:3]]
    elif css.startswith("#"):
        channels = [float(int(css[at : at + 2], 16)) for at in (1, 3, 5)]
    else:
        channels = [float(part) for part in css.strip("rgba()").split(",")[:3]]
    c = np.array(channels) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one: Colour, other: Colour) -> float:
    """WCAG 2.2, section 1.4.3."""
    a, b = sorted(float(c @ np.array([0.2126, 0.7152, 0.0722])) for c in (one, other))
    return (b + 0.05) / (a + 0.05)


# Every visible piece of text: its colour, what lies behind it, and whether it is large.
TEXTS = """() => {
  const clear = (colour) => colour === "rgba(0, 0, 0, 0)" || colour === "transparent";
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!clear(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.checkVisibility()) continue;
    if (e.closest(".unseen, .skip, :disabled, script, noscript, option")) continue;
    const style = getComputedStyle(e);
    const svg = e instanceof SVGElement;
    const size = parseFloat(style.fontSize);
    found.push({text: walker.currentNode.textContent.trim().slice(0, 40),
      ink: svg ? style.fill : style.color,
      ground: behind(svg ? e.ownerSVGElement.parentElement : e),
      large: size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700)});
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(stage: Stage, scheme: str) -> None:
    async def scene(page: Page, engine: PageEngine) -> None:
        async def check() -> int:
            texts: list[dict[str, Any]] = await page.evaluate(TEXTS)
            for text in texts:
                least = 3.0 if text["large"] else 4.5
                found = contrast(linear(text["ink"]), linear(text["ground"]))
                assert found >= least, (text, found)
            return len(texts)

        await arrive(page, engine)
        await page.get_by_role("button", name="Continue").click()  # shows what is amiss
        assert await check() > 15
        await agree(page)
        assert await check() > 8
        await page.get_by_role("button", name="Join").click()
        await fill(page, engine, await engine.peer())
        await page.get_by_role("button", name="Show as table: emotion").click()
        assert await check() > 100

    stage.play(scene, color_scheme=scheme)


# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A physiologically-based model for simulation
# of color vision deficiency", IEEE TVCG 15(6), 2009: severity 1.0, on linear sRGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def oklab(colour: Colour) -> Colour:
    """B. Ottosson, "A perceptual color space for image processing", 2020."""
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab: Colour = to_lab @ np.cbrt(to_lms @ np.clip(colour, 0, 1))
    return lab


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_series_can_be_told_apart(stage: Stage, scheme: str) -> None:
    async def scene(page: Page, engine: PageEngine) -> None:
        await arrive(page, engine)
        names = ["--surface", *(f"--s{slot}" for slot in range(7))]
        values = await page.evaluate(
            """names => names.map(name =>
              getComputedStyle(document.documentElement).getPropertyValue(name).trim())""",
            names,
        )
        surface, *series = [linear(value) for value in values]
        assert all(contrast(colour, surface) >= 3 for colour in series)  # WCAG 2.2, 1.4.11
        for sight, matrix in SIGHT.items():
            seen = [oklab(matrix @ colour) for colour in series]
            for one, other in combinations(range(7), 2):
                distance = float(np.linalg.norm(seen[one] - seen[other]))
                # 0.02 is about what is just seen side by side.
                assert distance > 0.09, (sight, one, other, distance)
        slots = await page.evaluate(
            "async heads => { const {slots} = await import('/page/palette.js');"
            " return Object.values(heads).map(slots); }",
            {**HEADS, "other": ["a", "neutral", "b", "happy", "c", "d", "e"]},
        )
        assert all(len(set(given)) == len(given) for given in slots)

    stage.play(scene, color_scheme=scheme)


def test_motion_stops_for_who_asks(stage: Stage) -> None:
    async def scene(page: Page, engine: PageEngine) -> None:
        await fill(page, engine, await join(page, engine))
        moving = await page.evaluate(
            """[...document.querySelectorAll("*")].map(e => getComputedStyle(e))
              .filter(s => s.transitionDuration !== "0s" || s.animationName !== "none").length"""
        )
        assert moving == 0

    stage.play(scene, reduced_motion="reduce")
