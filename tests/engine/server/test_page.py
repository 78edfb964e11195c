"""The page in a real Chromium, before a scripted engine: consent, joining, what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import require_chromium
from tests.support.page_engine import PageEngine, Refusal, prediction
from tests.support.page_scene import Stage, agree, arrive, join, open_stage

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.chromium

# What a page may ask for before its reader has agreed to anything.
BEFORE_CONSENT = ("/", "/api/terms")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    require_chromium()
    with open_stage() as stage:
        yield stage


def test_nothing_is_captured_or_sent_before_consent(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await arrive(page, engine)
        await expect(page.locator("#terms")).to_contain_text("Emotion and sentiment are inferred")
        await expect(page.locator("#terms")).to_contain_text("not recorded")
        await page.get_by_role("button", name="Continue").click()
        agreement = page.get_by_label("I have read this and agree")
        await expect(agreement).to_be_focused()
        await expect(agreement).to_have_accessible_description(
            "Nothing is captured or sent until you agree."
        )
        assert await page.evaluate("window.spied") == {"media": 0, "peers": 0, "blocked": []}
        asked = {path for _, path in engine.requests if not path.startswith("/page/")}
        assert asked == set(BEFORE_CONSENT)
        assert {method for method, _ in engine.requests} == {"GET"}
        await agree(page)
        # To agree is not yet to be seen: the browser is asked on preview or on joining.
        assert await page.evaluate("window.spied.media") == 0
        await page.get_by_role("button", name="Join").click()
        await engine.peer()
        assert await page.evaluate("window.spied.media") == 1

    stage.play(scene)


def test_media_and_names_reach_the_engine(stage: Stage) -> None:
    async def scene(page: Page, engine: PageEngine) -> None:
        peer = await join(page, engine)
        assert (peer.session, peer.participant) == ("demo", "ann")
        assert sorted(peer.kinds) == ["audio", "video"]
        assert peer.offer.count("a=sendonly") == 2
        assert peer.channel is not None
        assert (peer.channel.label, peer.channel.ordered) == ("counterpoint", True)
        assert page.url.endswith("/?session=demo&participant=ann")

    stage.play(scene)


def test_a_prediction_is_shown(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        peer = await join(page, engine)
        await expect(page.get_by_text("Waiting for the first window")).to_be_visible()
        peer.send(
            prediction(
                12,
                engine.now_ms(),
                skipped_windows=2,
                dropped={"video_queue": 3},
                stages_ms={"models": 9.5},
            )
        )
        emotion = page.get_by_role("article", name="emotion")
        rows = emotion.get_by_role("table", name="emotion in the newest window")
        await expect(rows.get_by_role("row")).to_have_count(7)
        await expect(rows.get_by_role("row", name="happy")).to_contain_text("30 %")
        await expect(rows.locator(".most")).to_have_text("neutral52 %")
        chart = emotion.get_by_role("img")
        await expect(chart).to_have_accessible_name(
            "emotion, last 60 seconds: now neutral 52 %. Most probable: neutral 100 % of the time."
        )
        assert await chart.locator("path[d^=M]").count() == 7
        camera, microphone, chat = await page.locator("#modalities > li").all()
        await expect(camera).to_contain_text("present")
        await expect(camera).to_contain_text("20 ms")
        await expect(camera).to_contain_text("emotion happy +3.1")
        await expect(camera).to_contain_text("sentiment positive +2.1")
        await expect(microphone).to_contain_text("partial")
        await expect(microphone).to_contain_text("gaps")
        await expect(microphone).to_contain_text("67 %")
        await expect(chat).to_contain_text("silent")
        await expect(chat).to_contain_text("no lines")
        await expect(chat).to_contain_text("nothing")
        facts = page.locator("#facts")
        await expect(facts).to_contain_text("12ends at 3.00 s, final")
        await expect(facts).to_contain_text("±5.0 msby sender reports")
        await expect(facts).to_contain_text("Skipped windows2")
        await expect(facts).to_contain_text("video queue 3")
        await expect(facts).to_contain_text("9.5 ms a window")

    stage.play(scene)


def test_a_number_is_shown_with_its_course_and_who_adds_to_it(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        peer = await join(page, engine)
        now = engine.now_ms()
        for window, value in ((11, 0.2), (12, 0.35)):
            said = prediction(window, now - 250 * (12 - window))
            said["document"]["numbers"] = {
                "stress": {
                    "value": value,
                    "range": [0.0, 1.0],
                    "contributions": {"video": 0.1, "audio": -0.05, "chat": 0.0},
                }
            }
            peer.send(said)
        stress = page.get_by_role("article", name="stress")
        await expect(stress).to_contain_text("0.35")
        await expect(stress).to_contain_text("between 0.00 and 1.00")
        await expect(stress.get_by_role("row", name="video")).to_contain_text("+0.10")
        await expect(stress.get_by_role("row", name="audio")).to_contain_text("−0.05")
        chart = stress.get_by_role("img")
        await expect(chart).to_have_accessible_name(
            "stress, last 60 seconds: now 0.35, between 0.20 and 0.35."
        )
        assert await chart.locator("path.line[d^=M]").count() == 1
        camera, microphone, chat = await page.locator("#modalities > li").all()
        await expect(camera).to_contain_text("stress +0.10")
        await expect(microphone).to_contain_text("stress −0.05")
        await expect(chat).not_to_contain_text("stress")

    stage.play(scene)


def test_what_is_shown_never_goes_back(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        peer = await join(page, engine)
        now = engine.now_ms()
        peer.send(prediction(20, now - 250, status="provisional"))
        peer.send(prediction(21, now))
        other: dict[str, Any] = {
            "sentiment": {
                "labels": ["negative", "neutral", "positive"],
                "probabilities": [0.9, 0.05, 0.05],
            }
        }
        peer.send(prediction(20, now - 250, status="amended", revision=1, heads=other))
        await expect(page.locator("#facts")).to_contain_text("1 given again with late data")
        await expect(page.locator("#facts")).to_contain_text("21ends at 5.25 s")
        row = page.get_by_role("article", name="sentiment").get_by_role("row", name="negative")
        await expect(row).to_contain_text("10 %")

    stage.play(scene)


def test_latency_is_told_apart_by_the_engines_clock(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        engine.clock_ahead_ms = -3_600_000  # an hour: no clock is believed
        peer = await join(page, engine)
        await engine.until(lambda: len(engine.said("ping")) >= 2)  # so the first pong has arrived
        peer.send(prediction(5, engine.now_ms() - 18))
        latency = page.locator("#facts > div").filter(has_text="Window end → shown")
        await expect(latency).to_contain_text("engine 18 ms, network and page")
        await expect(latency).to_contain_text("round trip")
        total = await latency.locator("dd").first.text_content()
        assert total is not None
        value, unit = total.split()
        assert unit in ("ms", "s")
        assert 0.018 <= float(value) / (1 if unit == "s" else 1_000) < 60  # not an hour

    stage.play(scene)


def test_whose_predictions_are_shown_can_be_chosen(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        peer = await join(page, engine)
        now = engine.now_ms()
        heads = {"sentiment": {"labels": ["negative", "neutral", "positive"]}}
        for name, shares in ((None, [0.2, 0.5, 0.3]), ("ann", [0.1, 0.1, 0.8])):
            body = {"sentiment": heads["sentiment"] | {"probabilities": shares}}
            peer.send(prediction(4, now, name, heads=body))
        row = page.get_by_role("article", name="sentiment").get_by_role("row", name="positive")
        await expect(row).to_contain_text("30 %")
        choice = page.get_by_label("Show", exact=True)
        await expect(choice).to_be_hidden()  # one alone is the session
        body = {"sentiment": heads["sentiment"] | {"probabilities": [0.9, 0.0, 0.1]}}
        peer.send(prediction(4, now, "bob", heads=body))
        await expect(choice).to_be_visible()
        assert await choice.locator("option").all_text_contents() == [
            "Everyone together",
            "ann",
            "bob",
        ]
        await choice.select_option("bob")
        await expect(row).to_contain_text("10 %")
        await choice.select_option("ann")
        await expect(row).to_contain_text("80 %")
        await choice.select_option("Everyone together")
        await expect(row).to_contain_text("30 %")

    stage.play(scene)


def test_chat_is_text_whatever_it_holds(stage: Stage) -> None:
    from playwright.async_api import expect

    bad = '<script>window.broken = 1</script><img src=x onerror="window.broken = 1">'

    async def scene(page: Page, engine: PageEngine) -> None:
        peer = await join(page, engine)
        field = page.get_by_label("Write a line")
        await field.fill(bad)
        await field.press("Enter")
        await engine.until(lambda: len(engine.said("chat")) == 1)
        assert engine.said("chat") == [{"type": "chat", "text": bad}]
        peer.send({"type": "chat", "author": "<b>bob</b>", "text": bad})
        lines = page.get_by_role("log").get_by_role("listitem")
        await expect(lines).to_have_text([f"ann: {bad}", f"<b>bob</b>: {bad}"])
        await expect(lines.locator("script, img, b")).to_have_count(0)
        await expect(field).to_have_value("")
        assert await page.evaluate("window.broken") is None
        await field.fill("   ")
        await field.press("Enter")  # says nothing
        peer.send({"type": "error", "reason": "rate"})
        await expect(page.locator("#chat-note")).to_contain_text("Too many lines")
        assert len(engine.said("chat")) == 1

    stage.play(scene)


def test_messages_that_are_none_are_passed_over(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        peer = await join(page, engine)
        for junk in (
            "",
            "{",
            "[]",
            "null",
            '{"type": "toString"}',
            '{"type": "chat", "author": 1, "text": "x"}',
            '{"type": "prediction", "participant": null, "document": {"schema_version": 1}}',
            b"\x00\xff",
        ):
            peer.send(junk)
        peer.send({"type": "notice", "level": "warning", "text": "One core only."})
        await expect(page.locator("#notices")).to_contain_text("One core only.")
        await expect(page.get_by_role("log").get_by_role("listitem")).to_have_count(0)
        await page.get_by_role("button", name="Dismiss: One core only.").click()
        await expect(page.locator("#notices")).to_be_empty()

    stage.play(scene)


REFUSALS = [
    (403, "right", "not let into this session", "ask whoever runs the engine"),
    (403, "origin", "takes no pages from here", "server.origins"),
    (429, "rate", "Too many tries", "Worth another try in 7 s"),
    (503, "capacity", "no room for another session", "a little later"),
    (500, "failed", "error (500)", "in its log"),
    (401, "token", "asks for a token", "Enter the token"),
]


def test_refusals_are_said_in_plain_words(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await arrive(page, engine)
        await agree(page)
        alert = page.locator("#alerts .alert")
        for tries, (status, error, title, help_) in enumerate(REFUSALS, start=1):
            engine.refuse = Refusal(
                status=status,
                error=error,
                message=f"<b>the engine's own words: {error}</b>",
                headers={"Retry-After": "7"},
            )
            await page.get_by_role("button", name="Join").click()
            await expect(alert).to_contain_text(title)
            await expect(alert).to_contain_text(help_)
            await expect(alert).to_contain_text(f"<b>the engine's own words: {error}</b>")
            await expect(page.locator("#state")).to_have_text("Not connected")
            assert len([1 for method, _ in engine.requests if method == "POST"]) == tries
        await expect(page.get_by_label("Token (only if")).to_be_focused()  # after a 401, the last
        engine.refuse = None
        await agree(page)
        await page.get_by_role("button", name="Join").click()
        await expect(page.locator("#state")).to_have_text("Connected")
        await expect(alert).to_have_count(0)

    stage.play(scene)


def test_the_token_is_kept_in_memory_only(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        engine.terms = {**engine.terms, "token_required": True}
        await arrive(page, engine, "?session=demo&participant=ann#token=s3cret.of.ann")
        assert "s3cret" not in page.url
        await agree(page)
        await page.get_by_role("button", name="Join").click()
        peer = await engine.peer()
        assert peer.authorization == "Bearer s3cret.of.ann"
        await expect(page.locator("#state")).to_have_text("Connected")
        assert "s3cret" not in page.url
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, history.state])"
        assert "s3cret" not in await page.evaluate(kept)
        await page.get_by_role("button", name="Leave").click()
        await engine.until(lambda: len(engine.deleted) == 1)
        assert engine.deleted == [("/whip/demo/0", "Bearer s3cret.of.ann")]

    stage.play(scene)


def test_an_engine_without_terms_is_asked_again(stage: Stage) -> None:
    from playwright.async_api import expect

    async def scene(page: Page, engine: PageEngine) -> None:
        await page.route("**/api/terms", lambda route: route.abort())
        await page.goto(engine.url)
        await expect(page.locator("#alerts")).to_contain_text("cannot be reached")
        await page.get_by_label("I have read this and agree").check()
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator("#agree-problem")).to_be_visible()  # nothing there to agree to
        await page.unroute("**/api/terms")
        await page.get_by_role("button", name="Ask again").click()
        await expect(page.locator("#terms")).to_contain_text("Emotion and sentiment")
        await expect(page.locator("#alerts")).to_be_empty()

    stage.play(scene)
