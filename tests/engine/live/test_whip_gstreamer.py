"""GStreamer's webrtcbin as a WHIP client, in a process of its own, against the live engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from counterpoint.engine.config import LiveSection
from counterpoint.streams.types import Modality
from tests.support.bundles import tiny_bundle
from tests.support.live_house import House, heard, play
from tests.support.webrtc_whip import require_gstreamer
from tests.support.whip_clients import gstreamer

pytestmark = pytest.mark.gstreamer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_gstreamer()
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").root


def test_it_is_heard_and_its_reports_at_twice_the_rate_are_not_believed(bundle: Path) -> None:
    async def scene(house: House) -> None:
        async with gstreamer(f"{house.tap.url}/whip/s?participant=gs") as client:
            await client.until("connected")
            first = await house.until("s", lambda p: p.session == "s/gs" and heard(p))
            # What it sends is a ball and a tone.
            assert first.modalities[Modality.VIDEO].reason == "no face"
            # Two of each track would do, were they of a clock at the right rate.
            last = await house.until(
                "s",
                lambda p: p.session == "s/gs" and house.connection("s", "gs")["reports"] >= 6,
            )
            connection = house.connection("s", "gs")
            assert await client.stop() == 0
        assert (first.align_tier, last.align_tier) == ("arrival", "arrival")
        # The first of each says nothing yet; all others are off its line.
        assert (connection["reports_taken"], connection["trouble"]) == (2, {})
        for kind, codec in (("video", "VP8"), ("audio", "OPUS")):
            track = connection[kind]
            assert (track["codec"], track["tier"]) == (codec, "arrival"), kind
            assert (track["lost"], track["frames_given_up"]) == (0, 0), kind
        assert (connection["video"]["width"], connection["video"]["height"]) == (320, 240)
        statuses = [(e.method, e.status) for e in house.tap.exchanges()]
        assert statuses == [("POST", 201), ("DELETE", 200)]

    play(bundle, scene)


def test_it_connects_by_candidates_that_it_sends_after_its_offer(bundle: Path) -> None:
    async def scene(house: House) -> None:
        async with gstreamer(f"{house.tap.url}/whip/s", trickle=True) as client:
            await client.until("connected")
            await house.until("s", heard)
            assert await client.stop() == 0
            assert client.said[-1] == {"event": "left", "status": 200}
        (post,) = house.tap.exchanges("POST")
        assert "a=candidate:" not in post.body
        patches = house.tap.exchanges("PATCH")
        assert {e.status for e in patches} == {204}
        assert "a=candidate:" in "".join(e.body for e in patches)
        await house.until_over("s")

    play(bundle, scene, LiveSection(media_idle_ms=60_000, linger_ms=0))
