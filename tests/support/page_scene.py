"""A page in a real Chromium before a scripted engine: what tests of the page play in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from tests.support.browser import open_chromium
from tests.support.page_engine import PageEngine, Peer, open_page_engine

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

WAIT_MS = 20_000

# Counts what a page must not do before consent, and keeps what the policy blocked.
_SPY = """
window.spied = {media: 0, peers: 0, blocked: []};
if (navigator.mediaDevices) {
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = (wanted) => {
    window.spied.media += 1;
    return ask(wanted);
  };
}
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...all) { super(...all); window.spied.peers += 1; }
};
document.addEventListener("securitypolicyviolation",
  (event) => window.spied.blocked.push(event.violatedDirective + " " + event.blockedURI));
"""

# Chromium writes refused requests into the console; tests of refusals expect them.
_EXPECTED = re.compile(r"Failed to load resource|net::ERR_")

T = TypeVar("T")
Call = Callable[["Page", PageEngine], Coroutine[Any, Any, T]]
Scene = Call[None]


class Stage:
    """Plays scenes, each with a fresh page and engine, in one browser."""

    def __init__(self, runner: asyncio.Runner, browser: Browser) -> None:
        self._runner = runner
        self._browser = browser

    def play(self, scene: Scene, **context: Any) -> None:
        """Run a scene; the page must have made no error by its end.

        Args:
            scene: what happens.
            context: for Playwright's new context, e.g. ``viewport``.
        """
        self._runner.run(self._play(scene, context))

    async def _play(self, scene: Scene, options: dict[str, Any]) -> None:
        async with self._set(options) as (page, engine):
            await scene(page, engine)

    @contextmanager
    def hold(self, **context: Any) -> Iterator[Callable[[Call[Any]], Any]]:
        """One page and engine for several calls, where nothing is left between them."""
        stack = AsyncExitStack()
        try:
            page, engine = self._runner.run(stack.enter_async_context(self._set(context)))
            yield lambda call: self._runner.run(call(page, engine))
        finally:
            self._runner.run(stack.aclose())

    @asynccontextmanager
    async def _set(self, options: dict[str, Any]) -> AsyncIterator[tuple[Page, PageEngine]]:
        problems: list[str] = []
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(open_page_engine())
            options = {"viewport": {"width": 1280, "height": 900}} | options
            context = await self._browser.new_context(**options)
            stack.push_async_callback(context.close)
            context.set_default_timeout(WAIT_MS)
            await context.add_init_script(_SPY)
            page = await context.new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on(
                "console",
                lambda said: problems.append(said.text) if said.type == "error" else None,
            )
            yield page, engine
            blocked = await page.evaluate("window.spied?.blocked ?? []")
            assert blocked == []
        assert [p for p in problems if not _EXPECTED.search(p)] == []


@contextmanager
def open_stage() -> Iterator[Stage]:
    """A stage with a browser of its own."""
    from playwright.async_api import expect

    expect.set_options(timeout=WAIT_MS)  # machines may be busy
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            browser = runner.run(stack.enter_async_context(open_chromium()))
            yield Stage(runner, browser)
        finally:
            runner.run(stack.aclose())


async def arrive(
    page: Page, engine: PageEngine, query: str = "?session=demo&participant=ann"
) -> None:
    """Open the page and wait until it shows what is to be agreed to."""
    await page.goto(engine.url + "/" + query)
    await page.locator("#terms .consent").wait_for()


async def agree(page: Page) -> None:
    """Past the first step."""
    await page.get_by_label("I have read this and agree").check()
    await page.get_by_role("button", name="Continue").click()
    await page.get_by_role("button", name="Join").wait_for()


async def join(page: Page, engine: PageEngine, number: int = 0) -> Peer:
    """All the way into the session; returns the engine's side of it."""
    await arrive(page, engine)
    await agree(page)
    await page.get_by_role("button", name="Join").click()
    peer = await engine.peer(number)
    await page.locator("#state[data-state=live]").wait_for()
    return peer
