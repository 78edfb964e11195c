"""The page's pure parts, run in Chromium: charts, protocol, history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import require_chromium
from tests.support.page_engine import PAGE, PageEngine, document
from tests.support.page_scene import open_stage

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.chromium


Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """``run(module, body, given)``: what a function of that body returns; ``m`` is the module."""
    require_chromium()

    async def call(page: Page, engine: PageEngine, module: str, body: str, given: Any) -> Any:
        if not page.url.startswith(engine.url):
            await page.goto(engine.url)
        script = f"async given => {{ const m = await import('/page/{module}'); {body} }}"
        return await page.evaluate(script, given)

    with open_stage() as stage, stage.hold() as play:

        def run(module: str, body: str, given: Any = None) -> Any:
            return play(lambda page, engine: call(page, engine, module, body, given))

        yield run


def test_backoff_grows_to_five_seconds_and_heeds_the_engine(run: Run) -> None:
    body = """return [[0, 1, 2, 3, 4, 5, 9].map(n => m.backoff(n)), m.backoff(0, 2),
      m.backoff(0, 900),
      ["3", "", null, "-1", "Wed, 21 Oct 2026 07:28:00 GMT"].map(m.retryAfter)]"""
    grown, asked, most, headers = run("protocol.js", body)
    assert grown == [300, 600, 1200, 2400, 4800, 5000, 5000]
    assert (asked, most) == (2000, 30_000)
    assert headers == [3, 0, 0, 0, 0]


def test_the_offset_comes_from_the_quickest_answer(run: Run) -> None:
    body = """const clock = new m.ClockOffset(3);
      const before = clock.offsetMs;
      clock.add(1000, 1400, 5900);  // slow, and its way back was the longer one
      clock.add(2000, 2010, 6005);
      clock.add(3000, 3200, 7050);
      const best = [clock.offsetMs, clock.roundTripMs];
      clock.add(4000, 4300, 8150);  // the quick one is still among three
      clock.add(5000, 5100, 9000);  // now it is not
      return [before, best, clock.offsetMs]"""
    before, best, later = run("protocol.js", body)
    assert before is None
    assert best == [4000, 10]
    assert later == 3950


def test_latency_is_the_median_of_its_parts(run: Run) -> None:
    documents = [document(n, 1_000_000 + 250 * n) for n in range(3)]
    body = """const latency = new m.Latency();
      const before = latency.figures;
      given.forEach((one, i) => latency.add(one, Date.parse(one.emitted_wall) + [5, 40, 7][i]));
      const all = latency.figures;
      latency.clear();
      latency.add(given[0], null);
      return [before, all, latency.figures]"""
    before, known, without = run("protocol.js", body, documents)
    assert before == {"engine": None, "network": None, "total": None}
    assert known == {"engine": 18, "network": 7, "total": 25}
    assert without == {"engine": 18, "network": None, "total": None}


def test_charts_stack_and_break_at_gaps(run: Run) -> None:
    points = [
        {"t": t, "heads": {"h": shares}, "states": {"video": state}}
        for t, shares, state in (
            (1_000, [0.25, 0.75], "present"),
            (1_250, [0.5, 0.5], "present"),
            (1_500, [0.5, 0.5], "stalled"),
            (9_000, [1.0, 0.0], "present"),
        )
    ]
    body = """const all = {hopMs: 250, gapMs: 1000, to: 12000};
      const x = m.timeScale(0, 10000, 1000);
      return [m.bandPaths(given, "h", 2, {...all, x, height: 100}), m.gaps(given, all),
        m.stateSpans(given, "video", all)]"""
    paths, gaps, spans = run("chart.js", body, points)
    assert paths[0] == (
        "M75 75L100 75L125 50L150 50L150 100L125 100L100 100L75 100ZM875 0L900 0L900 100L875 100Z"
    )
    assert paths[1].startswith("M75 0L100 0L125 0L150 0L150 50L125 50L100 75L75 75Z")
    assert gaps == [{"from": 1_500, "to": 8_750}, {"from": 9_000, "to": 12_000}]
    assert spans == [
        {"state": "present", "from": 750, "to": 1_250},
        {"state": "stalled", "from": 1_250, "to": 1_500},
        {"state": "present", "from": 8_750, "to": 9_000},
    ]


def test_labels_beside_a_chart_do_not_cover_each_other(run: Run) -> None:
    body = "return given.map(shares => m.labelPlaces(shares, {height: 150, line: 15}))"
    crowded = [0.06, 0.06, 0.06, 0.06, 0.06, 0.06, 0.64]
    wide, tight, faint = run("chart.js", body, [[0.5, 0.5], crowded, [0.96, 0.02, 0.02]])
    assert wide == [{"index": 1, "y": 37.5}, {"index": 0, "y": 112.5}]
    heights = [place["y"] for place in tight]
    assert len(heights) == 7
    assert all(later - one >= 15 - 1e-9 for one, later in pairwise(heights))
    assert min(heights) >= 0
    assert max(heights) <= 150
    assert [place["index"] for place in faint] == [0]


def test_a_chart_in_words_and_as_a_table(run: Run) -> None:
    points = [
        {"t": 1_000 * n, "heads": {"mood": [0.9, 0.1] if n < 15 else [0.2, 0.8]}}
        for n in range(1, 21)
    ]
    body = """const labels = ["calm", "glad"];
      return [m.chartText("mood", labels, given), m.chartText("mood", labels, []),
        m.tableRows(given, "mood", 2, {to: 20000, spanMs: 30000})]"""
    text, nothing, rows = run("chart.js", body, points)
    assert text == (
        "mood, last 60 seconds: now glad 80 %. "
        "Most probable: calm 70 % of the time, glad 30 % of the time."
    )
    assert nothing == "mood: nothing in the last 60 seconds."
    assert [row["secondsAgo"] for row in rows] == [0, 5, 10, 15, 20, 25]
    assert [row["shares"] for row in rows[:3]] == [[0.2, 0.8], [0.2, 0.8], [0.9, 0.1]]
    assert rows[-1]["shares"] is None


def test_history_counts_losses_and_forgets_what_is_old(run: Run) -> None:
    documents = [
        document(n, 1_000_000 + 250 * n, skipped_windows=1, dropped={"oldest": 2})
        for n in range(1, 1_001)
    ]
    body = """const history = new m.History();
      given.forEach(one => history.add(one));
      const kept = history.between(-Infinity, Infinity);
      return [kept.length, history.skipped, history.dropped.get("oldest"), history.hopMs,
        history.document.window]"""
    kept, skipped, dropped, hop, newest = run("history.js", body, documents)
    assert 240 <= kept <= 320  # a minute and a little more, whatever went through
    assert (skipped, dropped, hop, newest) == (1_000, 2_000, 250, 1_000)


def test_changes_are_said_seldom(run: Run) -> None:
    body = """const seldom = new m.Seldom(10000);
      return [["a", 0], ["a", 20000], ["b", 21000], ["a", 22000], ["c", 31000]]
        .map(([text, at]) => seldom.say(text, at))"""
    assert run("protocol.js", body) == ["a", None, "b", None, "c"]


def test_the_token_leaves_the_address(run: Run) -> None:
    body = """return ["http://x/?session=a&participant=b%20c#token=t.o.k", "http://x/#other"]
      .map(m.readAddress)"""
    first, second = run("welcome.js", body)
    assert first == {
        "session": "a",
        "participant": "b c",
        "token": "t.o.k",
        "rest": "http://x/?session=a&participant=b%20c",
    }
    assert (second["token"], second["rest"]) == ("", "http://x/#other")


def test_the_page_needs_nothing_from_elsewhere() -> None:
    allowed = {"http://www.w3.org/2000/svg"}  # a namespace, never fetched
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        for scheme in ("http://", "https://", "//cdn"):
            rest = text
            for name in allowed:
                rest = rest.replace(name, "")
            assert scheme not in rest, f"{file.name} names {scheme}"
        for parsed in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert parsed not in text, f"{file.name} uses {parsed}"
        assert text.count("\n") < 300, f"{file.name} is too long to hold in one's head"


def test_a_numbers_line_breaks_at_gaps_and_stays_in_its_chart(run: Run) -> None:
    points = [
        {"t": t, "numbers": {"n": value}}
        for t, value in ((1_000, 20.0), (1_250, 30.0), (1_500, 90.0), (9_000, -5.0))
    ] + [{"t": 9_250, "numbers": {}}]
    body = """const x = m.timeScale(0, 10000, 1000);
      const path = m.linePath(given, "n", [10, 50], {x, height: 100, hopMs: 250, gapMs: 1000});
      return [path, m.numberText("n", [10, 50], given), m.numberText("n", [10, 50], [])]"""
    path, text, nothing = run("chart.js", body, points)
    # Nothing is drawn outside, though it is said as it is.
    assert path == "M75 75L100 75L125 50L150 0M875 100L900 100"
    assert text == "n, last 60 seconds: now −5.0, between −5.0 and 90.0."
    assert nothing == "n: nothing in the last 60 seconds."


def test_a_number_has_the_digits_that_its_range_is_worth(run: Run) -> None:
    body = "return given.map(([value, range]) => m.figure(value, range))"
    given = [[0.31416, [0, 1]], [41.26, [0, 100]], [2531.7, [0, 9000]], [0.001234, [0, 0.01]]]
    assert run("chart.js", body, given) == ["0.31", "41", "2532", "0.0012"]


def test_a_document_with_a_wrong_number_is_no_message(run: Run) -> None:
    right = {"value": 1.0, "range": [0, 2], "contributions": {"video": 0.5}}
    wrong = [
        right | {"value": "1"},
        right | {"range": [2, 0]},
        right | {"range": [0]},
        right | {"contributions": {"video": None}},
        None,
    ]
    messages: list[dict[str, Any]] = [
        {
            "type": "prediction",
            "participant": None,
            "document": document(1, 0) | {"numbers": numbers},
        }
        for numbers in ({"n": right}, {}, *({"n": one} for one in wrong))
    ]
    hello: dict[str, Any] = {
        "type": "hello",
        "session": "s",
        "participant": "p",
        "heads": {},
        "participants": [],
    }
    messages += [hello, hello | {"numbers": {"n": [0, 1]}}, hello | {"numbers": {"n": [1, 1]}}]
    body = "return given.map(one => m.parseMessage(JSON.stringify(one)) !== null)"
    known = run("protocol.js", body, messages)
    assert known == [True, True, *[False] * len(wrong), True, True, False]
