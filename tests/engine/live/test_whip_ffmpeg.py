"""FFmpeg's WHIP muxer, in a process of its own, against the whole live engine."""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from counterpoint.engine.config import LiveSection
from counterpoint.engine.server.auth import mint
from counterpoint.engine.server.settings import TokenKey
from counterpoint.streams.types import Modality
from tests.support.bundles import tiny_bundle
from tests.support.live_house import House, heard, play
from tests.support.whip_clients import ffmpeg, write_certificate

SECRET = b"a secret for tests, long enough!"
# So that nothing but a DELETE can be what ends a connection at once.
PATIENT = LiveSection(media_idle_ms=60_000, linger_ms=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").root


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


def test_it_is_heard_by_its_own_clock_until_it_leaves(
    bundle: Path, certificate: dict[str, str]
) -> None:
    async def scene(house: House) -> None:
        url = f"{house.tap.url}/whip/s?participant=ff"
        async with ffmpeg(url, **certificate) as muxer:
            await muxer.until("sending")
            first = await house.until("s", lambda p: p.session == "s/ff" and heard(p))
            assert first.align_tier == "arrival"  # its second report comes after 5 s
            # One face, one voice: what it sends has come through decoding unharmed.
            assert first.modalities[Modality.VIDEO].state.value == "present"
            assert first.modalities[Modality.AUDIO].state.value in ("present", "partial")
            by_reports = await house.until(
                "s", lambda p: p.session == "s/ff" and p.align_tier == "sr" and heard(p)
            )
            connection = house.connection("s", "ff")
            assert await muxer.stop() == 0
        assert connection["state"] == "connected"
        for kind, codec in (("video", "H264"), ("audio", "OPUS")):
            track = connection[kind]
            assert (track["codec"], track["tier"]) == (codec, "sr"), kind
            assert (track["lost"], track["frames_given_up"], track["dropped"]) == (0, 0, {}), kind
        assert (connection["video"]["width"], connection["video"]["height"]) == (160, 160)
        # Its reports place everything ahead by as long as connecting took. Yet time goes on over
        # the change to them: a leap of more than 0.25 s would be a new epoch.
        await house.until_over("s")
        kept = [p for p in house.redis.predictions("s/ff") if p.window >= first.window]
        kept = [p for p in kept if p.window <= by_reports.window]
        assert len(kept) > 2
        assert {p.epoch for p in kept} == {first.epoch}
        post, delete = house.tap.exchanges()
        assert (post.method, post.status) == ("POST", 201)
        assert (delete.method, delete.status) == ("DELETE", 200)
        assert delete.path == post.answer_headers["location"]

    play(bundle, scene)


def test_its_delete_ends_the_connection_at_once(bundle: Path, certificate: dict[str, str]) -> None:
    async def scene(house: House) -> None:
        async with ffmpeg(f"{house.tap.url}/whip/s", **certificate) as muxer:
            await muxer.until("sending")
            await house.until("s", lambda p: p.session == "s/main" and heard(p))
            before = time.monotonic()
            assert await muxer.stop() == 0
            await house.until_over("s")
            assert time.monotonic() - before < PATIENT.media_idle_ms / 1_000
        assert [e.status for e in house.tap.exchanges("DELETE")] == [200]

    play(bundle, scene, PATIENT)


def test_a_patch_of_its_candidates_is_taken_and_disturbs_nothing(
    bundle: Path, certificate: dict[str, str]
) -> None:
    async def scene(house: House) -> None:
        async with ffmpeg(f"{house.tap.url}/whip/s", **certificate) as muxer:
            await muxer.until("sending")
            await house.until("s", heard)
            (post,) = house.tap.exchanges("POST")
            url = house.server.url + post.answer_headers["location"]
            headers = {"Content-Type": "application/trickle-ice-sdpfrag"}
            ours = headers | {"If-Match": post.answer_headers["etag"]}
            lines = re.findall(r"a=ice-(?:ufrag|pwd):\S+", post.body)[:2]
            candidate = "a=candidate:1 1 UDP 2130706431 127.0.0.1 9 typ host"
            media = "m=audio 9 UDP/TLS/RTP/SAVPF 111"
            fragment = "\r\n".join([*lines, media, "a=mid:0", candidate])
            other = fragment.replace(lines[0], "a=ice-ufrag:another")
            async with httpx.AsyncClient() as client:
                taken = await client.patch(url, content=fragment + "\r\n", headers=ours)
                restart = await client.patch(url, content=other + "\r\n", headers=ours)
                unnamed = await client.patch(url, content=fragment + "\r\n", headers=headers)
                wrong = headers | {"If-Match": '"0"'}
                stale = await client.patch(url, content=fragment + "\r\n", headers=wrong)
            statuses = [answer.status_code for answer in (taken, restart, unnamed, stale)]
            assert statuses == [204, 400, 428, 412]
            again = await house.until("s", heard)
            assert await house.until("s", lambda p: heard(p) and p.window > again.window + 8)
            assert await muxer.stop() == 0

    play(bundle, scene)


def test_its_token_is_looked_at(bundle: Path, certificate: dict[str, str]) -> None:
    async def scene(house: House) -> None:
        def token(secret: bytes, session: str) -> str:
            now_ns = house.server.engine.runtime.wall_ns()
            return mint(secret, now_ns=now_ns, valid_s=60, sessions=[session])

        url = f"{house.tap.url}/whip/s"
        refused = {
            "nobody's": "nonsense",
            "another's": token(b"another secret, also long enough", "s"),
        }
        for whose, given in refused.items():
            async with ffmpeg(url, authorization=given, **certificate) as muxer:
                failed = await muxer.until("failed")
                assert await muxer.ended() == 1, whose
            assert failed["type"] == "HTTPUnauthorizedError", (whose, failed)
        async with ffmpeg(url, authorization=token(SECRET, "t"), **certificate) as muxer:
            failed = await muxer.until("failed")
            assert failed["type"] == "HTTPForbiddenError", failed
        assert house.server.rooms.names() == []
        assert [e.status for e in house.tap.exchanges()] == [401, 401, 403]
        async with ffmpeg(url, authorization=token(SECRET, "s"), **certificate) as muxer:
            await muxer.until("sending")
            await house.until("s", heard)
            assert await muxer.stop() == 0
        # The token is sent with the DELETE, too.
        assert [e.status for e in house.tap.exchanges("DELETE")] == [200]

    play(bundle, scene, token_key=TokenKey(algorithm="HS256", key=SECRET))


def test_where_nothing_can_be_agreed_on_for_encryption_it_is_told_and_nothing_is_left(
    bundle: Path,
) -> None:
    # Without a certificate an FFmpeg with GnuTLS makes itself one on P-224.
    async def scene(house: House) -> None:
        async with ffmpeg(f"{house.tap.url}/whip/s") as muxer:
            failed = await muxer.until("failed")
        assert "DTLS" in failed["text"]
        await house.until_over("s")

    play(bundle, scene, PATIENT)
