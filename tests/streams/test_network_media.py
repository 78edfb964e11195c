"""`NetworkMedia`: real servers on loopback, over RTSP and over HTTP."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from counterpoint.streams.address import shown
from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.feed import LiveSource
from counterpoint.streams.network_media import UNSETTLED, NetworkMedia
from counterpoint.streams.runtime import Runtime, SystemRuntime
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    ClockUpdate,
    Modality,
    Tier,
    VideoFrame,
)
from tests.support.broadcast import (
    BEEP_S,
    BRIGHT,
    DARK,
    EVERY_S,
    FPS,
    BroadcastServer,
    Piece,
    mux_live,
)
from tests.support.feeds import KeepingFeed
from tests.support.mjpeg import MjpegServer, index_of
from tests.support.rtsp import require_rtsp_server, rtsp_server
from tests.support.virtual import VirtualRuntime

VIDEO, AUDIO = Modality.VIDEO, Modality.AUDIO
KINDS = [("mpegts", "mpeg2video", "mp2"), ("matroska", "libvpx", "pcm_s16le")]


@functools.cache
def stream(kind: str, video: str | None, audio: str | None, seconds: float) -> list[Piece]:
    return mux_live(kind, video_codec=video, audio_codec=audio, seconds=seconds)


async def run_until(media: NetworkMedia, feed: KeepingFeed, enough: Callable[[], bool]) -> None:
    """Run until there is enough, then take it away; an error is raised as it is."""
    running = asyncio.ensure_future(media.run(feed))
    try:
        await feed.until(lambda: enough() or running.done(), timeout_s=60)
    finally:
        running.cancel()
        await asyncio.wait({running})
    if not running.cancelled():
        running.result()


async def error_of(media: NetworkMedia, feed: KeepingFeed) -> str:
    with pytest.raises(SourceError) as raised:
        async with asyncio.timeout(60):
            await media.run(feed)
    assert raised.value.__cause__ is None  # whose text would have the address in full
    return str(raised.value)


def _pictures(feed: KeepingFeed, count: int) -> Callable[[], bool]:
    return lambda: len(feed.of(VideoFrame)) >= count


def flashes_ns(frames: list[VideoFrame]) -> list[int]:
    middle = (DARK + BRIGHT) / 2
    return [frame.t_ns for frame in frames if frame.y.mean() > middle]


def beeps_ns(chunks: list[AudioChunk]) -> list[int]:
    """Session times at which a beep begins."""
    starts: list[int] = []
    for chunk in chunks:
        loud = np.flatnonzero(np.abs(chunk.samples) > 0.1)
        if len(loud):
            t_ns = chunk.t_ns + int(loud[0]) * NS_PER_S // chunk.rate_hz
            if not starts or t_ns - starts[-1] > NS_PER_S:
                starts.append(t_ns)
    return starts


# -- over HTTP: pictures and sound -----------------------------------------------------------------


@pytest.mark.parametrize(("kind", "video", "audio"), KINDS)
@pytest.mark.parametrize("burst_s", [0.0, 0.8])
def test_pictures_and_sound_of_one_address_are_kept_together(
    kind: str, video: str, audio: str, burst_s: float
) -> None:
    pieces = stream(kind, video, audio, 12.0)
    with BroadcastServer(pieces, burst_s=burst_s) as server, SystemRuntime() as runtime:
        media, feed = NetworkMedia(server.url, runtime), KeepingFeed(runtime)

        def enough() -> bool:
            # Two of each, one a whole picture later than the other.
            flashes, beeps = flashes_ns(feed.of(VideoFrame)), beeps_ns(feed.of(AudioChunk))
            return min(len(flashes), len(beeps)) >= 2

        asyncio.run(run_until(media, feed, enough))
        began_ns = server.began_ns[0] - feed.origin_ns
    assert isinstance(media, LiveSource)
    frames, chunks = feed.of(VideoFrame), feed.of(AudioChunk)
    pairs = list(zip(flashes_ns(frames)[:2], beeps_ns(chunks)[:2], strict=True))
    for flash_ns, beep_ns in pairs:
        # What is left is the sound codec's own delay, and how long a loud sample takes to come.
        assert abs(beep_ns - flash_ns) < 15_000_000
        # Where it was sent, and a path that begins with an encoder's delay.
        nth = round((flash_ns - began_ns) / (EVERY_S * NS_PER_S))
        assert 0 <= flash_ns - began_ns - nth * EVERY_S * NS_PER_S < NS_PER_S / 2
    assert BEEP_S * FPS == 1

    for items in (frames, chunks):
        assert [item.sequence for item in items] == list(range(len(items)))
        times = [item.t_ns for item in items]
        assert times == sorted(set(times))
    assert {(frame.width, frame.height) for frame in frames} == {(64, 48)}
    assert {chunk.rate_hz for chunk in chunks} == {48_000}
    assert max(len(chunk.samples) for chunk in chunks) <= 48_000 * 0.032
    # The clock of each is stated before its first item.
    seen: set[Modality] = set()
    for _, item in feed.arrivals:
        if isinstance(item, ClockUpdate):
            assert item.tier is Tier.ARRIVAL
            assert item.epoch == 0
            seen.add(item.modality)
        else:
            assert (VIDEO if isinstance(item, VideoFrame) else AUDIO) in seen
    # What the server had kept came at once, and is not given.
    assert media.drops.by_reason[UNSETTLED] > 0
    assert set(media.drops.by_reason) == {UNSETTLED}


def test_of_what_a_stream_has_only_what_is_wanted_is_given() -> None:
    pieces = stream("mpegts", "mpeg2video", "mp2", 12.0)
    with BroadcastServer(pieces) as server, SystemRuntime() as runtime:
        media = NetworkMedia(server.url, runtime, modalities=frozenset({AUDIO}))
        feed = KeepingFeed(runtime)
        asyncio.run(run_until(media, feed, lambda: len(feed.of(AudioChunk)) > 20))
        assert not feed.of(VideoFrame)
        assert media.modalities == {AUDIO}


def test_what_a_stream_lacks_is_an_error_only_where_nothing_is_left() -> None:
    pieces = stream("mpegts", None, "mp2", 12.0)
    with BroadcastServer(pieces) as server, SystemRuntime() as runtime:
        feed = KeepingFeed(runtime)
        media = NetworkMedia(server.url, runtime)
        asyncio.run(run_until(media, feed, lambda: len(feed.of(AudioChunk)) > 5))
        media = NetworkMedia(server.url, runtime, name="cam", modalities=frozenset({VIDEO}))
        text = asyncio.run(error_of(media, feed))
    assert text == "cam: there is no video in this stream; give another one"


def test_a_recording_is_told_from_a_live_stream() -> None:
    pieces = stream("mpegts", "mpeg2video", None, 40.0)
    with BroadcastServer(pieces, pace=0) as server, SystemRuntime() as runtime:
        text = asyncio.run(error_of(NetworkMedia(server.url, runtime), KeepingFeed(runtime)))
    assert "a recording, not a live stream" in text


# -- over HTTP: JPEGs one by one -------------------------------------------------------------------


def test_jpegs_come_in_order_and_are_stamped_as_they_arrive() -> None:
    with MjpegServer(size=(63, 47)) as server, SystemRuntime() as runtime:
        media, feed = NetworkMedia(server.url, runtime), KeepingFeed(runtime)
        asyncio.run(run_until(media, feed, lambda: len(feed.of(VideoFrame)) >= 20))
    first_item = feed.arrivals[0][1]
    assert isinstance(first_item, ClockUpdate)
    assert (first_item.tier, first_item.epoch) == (Tier.ARRIVAL, 0)
    frames = feed.of(VideoFrame)
    assert {frame.y.shape for frame in frames} == {(47, 63)}
    assert {frame.full_range for frame in frames} == {True}  # as JPEG is
    first = index_of(float(frames[0].y.mean()))
    numbers = [index_of(float(frame.y.mean())) for frame in frames]
    assert numbers == [(first + i) % 40 for i in range(len(frames))]
    assert all(item.t_ns <= arrived_ns for arrived_ns, item in feed.arrivals)
    assert not media.drops.by_reason


def test_unplugged_it_breaks_off_and_plugged_in_again_it_gives_pictures() -> None:
    async def main(runtime: Runtime) -> None:
        server = MjpegServer()
        media, feed = NetworkMedia(server.url, runtime, name="cam"), KeepingFeed(runtime)
        running = asyncio.ensure_future(error_of(media, feed))
        await feed.until(lambda: len(feed.of(VideoFrame)) >= 3)
        await asyncio.to_thread(server.close)
        assert (await running).startswith("cam: ")
        assert "(Connection refused)" in await error_of(media, feed)
        before = len(feed.of(VideoFrame))
        with MjpegServer(port=server.port):
            await run_until(media, feed, lambda: len(feed.of(VideoFrame)) >= before + 3)
        assert feed.of(VideoFrame)[before].sequence == 0

    with SystemRuntime() as runtime:
        asyncio.run(main(runtime))


def test_a_server_that_hangs_is_given_up() -> None:
    with MjpegServer(pictures=5) as server, SystemRuntime() as runtime:
        feed = KeepingFeed(runtime)
        media = NetworkMedia(server.url, runtime, name="cam", read_timeout_s=0.5)
        text = asyncio.run(error_of(media, feed))
        assert text == "cam: nothing came for 0.5 s; check its network"
        assert 3 <= len(feed.of(VideoFrame)) <= 5


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, SystemRuntime() as runtime:
        for scheme in ("http", "rtsp"):
            url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/"
            media = NetworkMedia(url, runtime, name="cam", open_timeout_s=0.3)
            text = asyncio.run(error_of(media, KeepingFeed(runtime)))
            assert text == "cam: no answer within 0.3 s; check its network"


def test_cancelled_it_is_closed_before_run_is_left() -> None:
    with MjpegServer() as server, SystemRuntime() as runtime:
        media, feed = NetworkMedia(server.url, runtime), KeepingFeed(runtime)
        for count in (3, 6):
            asyncio.run(run_until(media, feed, _pictures(feed, count)))
            put = len(feed.arrivals)
            asyncio.run(_behind(runtime, server.url))
            assert len(feed.arrivals) == put


# -- what must not happen --------------------------------------------------------------------------


def test_what_gives_access_is_in_no_name_message_or_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = []
    with SystemRuntime() as runtime:
        for status in ("401 Unauthorized", "404 Not Found", "500 Internal Server Error"):
            with MjpegServer(status=status) as server:
                url = f"http://viewer7:hunter2@127.0.0.1:{server.port}/user=viewer7_password=hunter2?k=hunter2"
                media = NetworkMedia(url, runtime)
                texts.append(asyncio.run(error_of(media, KeepingFeed(runtime))))
                assert media.name == f"http://127.0.0.1:{server.port}"
                # It was used all the same.
                assert "hunter2" in server.requests[0]
        media = NetworkMedia("rtsp://viewer7:hunter2@127.0.0.1:1/hunter2", runtime)
        texts.append(asyncio.run(error_of(media, KeepingFeed(runtime))))
    assert "401 Unauthorized" in texts[0]
    assert "404 Not Found" in texts[1]
    assert "Connection refused" in texts[3]
    said = "\n".join([*texts, caplog.text, *capfd.readouterr()])
    assert "hunter2" not in said
    assert "viewer7" not in said


@pytest.mark.parametrize("target", ["file://{path}", "{path}", "concat:{path}", "subfile,,:{path}"])
def test_a_redirection_to_a_file_of_this_machine_is_not_followed(
    target: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.ts"
    pieces = stream("mpegts", "mpeg2video", "mp2", 2.0)
    secret.write_bytes(b"".join(piece.content for piece in pieces))
    with MjpegServer(redirect=target.format(path=secret)) as server, SystemRuntime() as runtime:
        feed = KeepingFeed(runtime)
        media = NetworkMedia(server.url, runtime, open_timeout_s=2)
        asyncio.run(error_of(media, feed))
    assert not feed.arrivals
    assert not media.drops.by_reason  # nor was any of it decoded


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nfile://{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile 'file:{path}'\n",
    ],
)
def test_a_playlist_cannot_make_it_read_a_file_of_this_machine(
    playlist: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.ts"
    pieces = stream("mpegts", "mpeg2video", "mp2", 2.0)
    secret.write_bytes(b"".join(piece.content for piece in pieces))
    text = playlist.format(path=secret).encode()
    with (
        BroadcastServer([Piece(at_s=0.0, content=text)]) as server,
        SystemRuntime() as runtime,
    ):
        feed = KeepingFeed(runtime)
        media = NetworkMedia(server.url + ".m3u8", runtime, open_timeout_s=2)
        asyncio.run(error_of(media, feed))
    assert not feed.arrivals
    assert not media.drops.by_reason  # nor was any of it decoded


def test_a_redirection_to_another_address_is_followed() -> None:
    with MjpegServer() as camera, MjpegServer(redirect=camera.url) as server:
        with SystemRuntime() as runtime:
            feed = KeepingFeed(runtime)
            media = NetworkMedia(server.url, runtime)
            asyncio.run(run_until(media, feed, lambda: len(feed.of(VideoFrame)) >= 2))
        assert camera.requests


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "/dev/video0", "rtmp://host/x", "http://"]
)
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address of a stream"):
        NetworkMedia(address, VirtualRuntime())


def test_shown_has_scheme_host_and_port_alone() -> None:
    assert shown("rtsp://ann:pw@[::1]:554/x?token=1#f") == "rtsp://[::1]:554"
    assert shown("https://cam.example/live") == "https://cam.example"
    assert shown("http://host:port/x") == "an address that cannot be read"


# -- over TLS --------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "camera.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_certificate_nobody_vouches_for_is_refused_unless_that_is_asked_for(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with MjpegServer(tls=context) as server, SystemRuntime() as runtime:
        feed = KeepingFeed(runtime)
        asyncio.run(error_of(NetworkMedia(server.url, runtime), feed))
        assert not feed.arrivals
        trusting = NetworkMedia(server.url, runtime, verify_tls=False)
        asyncio.run(run_until(trusting, feed, lambda: len(feed.of(VideoFrame)) >= 2))
        # Or where this machine trusts it.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusted = NetworkMedia(server.url, runtime)
        asyncio.run(run_until(trusted, feed, lambda: len(feed.of(VideoFrame)) >= 4))


# -- over RTSP -------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[int]:
    require_rtsp_server()
    with rtsp_server() as port:
        yield port


@pytest.mark.gstreamer
def test_rtsp_gives_pictures_and_sound_on_one_timeline(port: int) -> None:
    with SystemRuntime() as runtime:
        media = NetworkMedia(f"rtsp://127.0.0.1:{port}/live", runtime)
        feed = KeepingFeed(runtime)
        asyncio.run(
            run_until(
                media,
                feed,
                lambda: len(feed.of(VideoFrame)) >= 30 and len(feed.of(AudioChunk)) >= 60,
            )
        )
    frames, chunks = feed.of(VideoFrame), feed.of(AudioChunk)
    assert {frame.y.shape for frame in frames} == {(48, 64)}
    assert {update.tier for update in feed.of(ClockUpdate)} == {Tier.ARRIVAL}
    # 25 pictures a second, as the sender stamped them.
    gaps = np.diff([frame.t_ns for frame in frames])
    assert np.median(gaps) == pytest.approx(NS_PER_S / 25, rel=0.02)
    sound = np.concatenate([chunk.samples for chunk in chunks])
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    loudest_hz = np.fft.rfftfreq(len(sound), 1 / chunks[0].rate_hz)[int(spectrum.argmax())]
    assert loudest_hz == pytest.approx(1_000, abs=5)
    assert set(media.drops.by_reason) <= {UNSETTLED}


@pytest.mark.gstreamer
def test_rtsp_whose_server_is_killed_is_opened_again_when_it_is_back() -> None:
    require_rtsp_server()

    async def main(runtime: Runtime) -> None:
        feed = KeepingFeed(runtime)
        with rtsp_server() as port:
            media = NetworkMedia(f"rtsp://127.0.0.1:{port}/live", runtime, name="cam")
            running = asyncio.ensure_future(error_of(media, feed))
            await feed.until(lambda: len(feed.of(VideoFrame)) >= 3)
        assert (await running).startswith("cam: ")
        assert "(Connection refused)" in await error_of(media, feed)
        before = len(feed.of(VideoFrame))
        with rtsp_server(port):
            await run_until(media, feed, lambda: len(feed.of(VideoFrame)) >= before + 3)

    with SystemRuntime() as runtime:
        asyncio.run(main(runtime))


@pytest.mark.gstreamer
def test_rtsp_with_a_password(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    require_rtsp_server()
    caplog.set_level(logging.DEBUG)
    with rtsp_server(access="viewer7:hunter2") as port, SystemRuntime() as runtime:
        feed = KeepingFeed(runtime)
        wrong = NetworkMedia(f"rtsp://viewer7:hunter3@127.0.0.1:{port}/live", runtime)
        text = asyncio.run(error_of(wrong, feed))
        assert "401" in text
        right = NetworkMedia(f"rtsp://viewer7:hunter2@127.0.0.1:{port}/live", runtime)
        asyncio.run(run_until(right, feed, lambda: len(feed.of(VideoFrame)) >= 2))
    said = "\n".join([text, caplog.text, *capfd.readouterr()])
    assert "hunter" not in said
    assert "viewer7" not in said


async def _behind(runtime: Runtime, address: str) -> Any:
    """Return once whatever the source's thread had to do is done."""
    await runtime.lane(f"media {shown(address)}").submit(lambda: None)
