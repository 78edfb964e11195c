"""`Camera`: a real MJPEG stream through OpenCV, and by a double what no machine here has."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from counterpoint.streams import camera as camera_module
from counterpoint.streams.camera import ARRIVAL_ERROR_NS, BAD_PICTURE, Camera, to_planes
from counterpoint.streams.errors import SourceError, UnavailableError
from counterpoint.streams.feed import LiveSource
from counterpoint.streams.runtime import Runtime, SystemRuntime
from counterpoint.streams.types import ClockUpdate, Tier, VideoFrame
from counterpoint.streams.v4l import video_nodes
from tests.support.feeds import KeepingFeed
from tests.support.mjpeg import MjpegServer, luma_index
from tests.support.virtual import VirtualRuntime

MS = 1_000_000
Picture = np.ndarray[Any, Any]


async def until_pictures(camera: Camera, feed: KeepingFeed, count: int) -> None:
    """Run the camera until it has given so many more pictures, then take it away."""
    before = len(feed.of(VideoFrame))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(camera.run(feed))
        await feed.until(lambda: len(feed.of(VideoFrame)) >= before + count or running.done())
        running.cancel()


# -- a real stream ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (64, 46)])
def test_pictures_of_a_real_stream_come_in_order_stamped_as_they_arrive(
    size: tuple[int, int],
) -> None:
    with MjpegServer(size=size) as server, SystemRuntime() as runtime:
        camera, feed = Camera(server.url, runtime), KeepingFeed(runtime)
        asyncio.run(until_pictures(camera, feed, 20))
    assert isinstance(camera, LiveSource)
    frames = feed.of(VideoFrame)
    width, height = size
    assert {frame.y.shape for frame in frames} == {(height, width)}
    half = ((height + 1) // 2, (width + 1) // 2)
    for frame in frames:
        assert frame.u is not None
        assert frame.v is not None
        assert frame.u.shape == frame.v.shape == half
        assert abs(float(frame.u.mean()) - 128) < 3  # grey
        assert not frame.full_range
    assert [frame.sequence for frame in frames] == list(range(len(frames)))
    first = luma_index(float(frames[0].y.mean()))
    numbers = [luma_index(float(frame.y.mean())) for frame in frames]
    assert numbers == [(first + i) % 40 for i in range(len(frames))]
    # Each was stamped before it was put, and none goes back.
    times = [frame.t_ns for frame in frames]
    assert times == sorted(times)
    assert all(item.t_ns <= arrived for arrived, item in feed.arrivals)
    assert {frame.source for frame in frames} == {f"http://127.0.0.1:{server.port}"}


def test_the_clock_is_stated_before_the_first_picture_and_is_arrival_alone() -> None:
    with MjpegServer() as server, SystemRuntime() as runtime:
        camera, feed = Camera(server.url, runtime), KeepingFeed(runtime)
        asyncio.run(until_pictures(camera, feed, 3))
    items = [item for _, item in feed.arrivals]
    first = items[0]
    assert isinstance(first, ClockUpdate)
    # FFmpeg counts the pictures at a rate that it assumes: that is no clock.
    assert (first.tier, first.error_ns, first.epoch) == (Tier.ARRIVAL, ARRIVAL_ERROR_NS, 0)
    assert not [item for item in items[1:] if isinstance(item, ClockUpdate)]


def test_unplugged_it_breaks_off_and_plugged_in_again_it_gives_pictures() -> None:
    async def main(runtime: Runtime) -> KeepingFeed:
        feed = KeepingFeed(runtime)
        server = MjpegServer()
        camera = Camera(server.url, runtime, name="cam")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(_error_of(camera.run(feed)))
            await feed.until(lambda: len(feed.of(VideoFrame)) >= 3)
            await asyncio.to_thread(server.close)
            assert await running == (
                "cam: gives no pictures any more; plug it in again, or end what else uses it"
            )
        unplugged = await _error_of(camera.run(feed))
        assert unplugged == "cam: cannot be opened; check the address and its server"
        with MjpegServer(port=server.port):
            await until_pictures(camera, feed, 3)
        return feed

    with SystemRuntime() as runtime:
        feed = asyncio.run(main(runtime))
    # A run of its own: numbers and epochs begin anew, its clock is stated anew.
    updates = feed.of(ClockUpdate)
    assert [(update.tier, update.epoch) for update in updates] == [(Tier.ARRIVAL, 0)] * 2
    assert [frame.sequence for frame in feed.of(VideoFrame)].count(0) == 2


def test_cancelled_it_is_closed_before_run_is_left() -> None:
    with MjpegServer() as server, SystemRuntime() as runtime:
        camera, feed = Camera(server.url, runtime), KeepingFeed(runtime)
        for _ in range(2):
            asyncio.run(until_pictures(camera, feed, 2))
            put = len(feed.arrivals)
            # Its thread has left the reader, so that nothing is put any more.
            asyncio.run(_noop(runtime, camera))
            assert len(feed.arrivals) == put


def test_what_gives_access_is_in_no_name() -> None:
    camera = Camera("http://ann:secret@127.0.0.1:1/x?token=secret", VirtualRuntime())
    assert camera.name == "http://127.0.0.1:1"
    assert Camera(2, VirtualRuntime()).name == "webcam:2"


# -- a missing one ---------------------------------------------------------------------------------


def test_a_missing_camera_is_said_with_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for index, name in ((0, "Front"), (2, "Desk")):
        entry = tmp_path / f"video{index}"
        entry.mkdir()
        (entry / "name").write_text(f"{name}\n")
        (entry / "index").write_text("0\n")
    monkeypatch.setattr(camera_module, "SYSFS", tmp_path)
    monkeypatch.setattr(camera_module, "video_nodes", lambda: video_nodes(tmp_path, tmp_path))
    with SystemRuntime() as runtime, pytest.raises(UnavailableError) as raised:
        asyncio.run(Camera(97, runtime).run(KeepingFeed(runtime)))
    assert str(raised.value) == "no camera 97 (found: 0, 2); counterpoint devices lists them"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")  # nothing of OpenCV's own


# -- by a double: V4L2 stamps, damage, hangs -------------------------------------------------------


class Fake:
    """`cv2.VideoCapture` of a script; the reader's own clock is the test's.

    Args:
        step: called at each grab, with its number; False is a failed one.
        stamp_ms: what the driver says of each grab.
        good: which retrieve succeeds.
    """

    def __init__(
        self,
        step: Callable[[int], bool],
        *,
        backend: str = "V4L2",
        stamp_ms: Callable[[int], float] = lambda _: 0.0,
        good: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._step, self._backend, self._stamp_ms, self._good = step, backend, stamp_ms, good
        self.grabs = 0
        self.released = 0

    def grab(self) -> bool:
        self.grabs += 1
        return self._step(self.grabs - 1)

    def retrieve(self) -> tuple[bool, Picture]:
        return self._good(self.grabs - 1), np.full((48, 64, 3), self.grabs, np.uint8)

    def get(self, prop: int, /) -> float:
        assert prop == cv2.CAP_PROP_POS_MSEC
        return self._stamp_ms(self.grabs - 1)

    def getBackendName(self) -> str:
        return self._backend

    def release(self) -> None:
        self.released += 1


def _paced(runtime: VirtualRuntime, count: int, *, period_ms: int = 33) -> Callable[[int], bool]:
    start_ns = runtime.now_ns()

    def step(index: int) -> bool:
        runtime._now_ns = start_ns + (index + 1) * period_ms * MS
        return index < count

    return step


def _run_fake(runtime: VirtualRuntime, fake: Fake, **keywords: Any) -> tuple[KeepingFeed, Camera]:
    camera = Camera(0, runtime, opened=lambda _: fake, read_timeout_s=1e6, **keywords)
    feed = KeepingFeed(runtime)
    with pytest.raises(SourceError):
        runtime.run(camera.run(feed))
    assert fake.released == 1
    return feed, camera


def test_a_drivers_stamp_in_the_monotonic_clock_is_the_instant() -> None:
    runtime = VirtualRuntime()
    start_ms = runtime.now_ns() / MS
    # The driver had each picture 21 ms before it was grabbed.
    fake = Fake(_paced(runtime, 5), stamp_ms=lambda i: start_ms + (i + 1) * 33 - 21)
    feed, _ = _run_fake(runtime, fake)
    assert [frame.t_ns for frame in feed.of(VideoFrame)] == [(33 * i + 12) * MS for i in range(5)]
    assert [update.tier for update in feed.of(ClockUpdate)] == [Tier.DEVICE]


@pytest.mark.parametrize(
    ("name", "stamp_ms"),
    [
        ("none", lambda i, start: 0.0),
        ("another clock", lambda i, start: 1_700_000_000_000.0 + i * 33),
        ("one that stands still", lambda i, start: start + 10.0 if i else 0.0),
        ("older than a second", lambda i, start: start + (i + 1) * 33 - 1_001),
        ("not a number", lambda i, start: float("nan")),
    ],
)
def test_a_stamp_that_does_not_hold_leaves_arrival_less_read_out(
    name: str, stamp_ms: Callable[[int, float], float]
) -> None:
    runtime = VirtualRuntime()
    start_ms = runtime.now_ns() / MS
    fake = Fake(_paced(runtime, 4), stamp_ms=lambda i: stamp_ms(i, start_ms))
    feed, _ = _run_fake(runtime, fake, readout_ns=20 * MS)
    assert [frame.t_ns for frame in feed.of(VideoFrame)] == [(33 * i + 13) * MS for i in range(4)]
    assert [update.tier for update in feed.of(ClockUpdate)] == [Tier.ARRIVAL]


def test_stamps_that_stop_holding_are_given_up_and_time_does_not_go_back() -> None:
    runtime = VirtualRuntime()
    start_ms = runtime.now_ns() / MS
    fake = Fake(_paced(runtime, 6), stamp_ms=lambda i: start_ms + (min(i, 2) + 1) * 33 - 21)
    feed, _ = _run_fake(runtime, fake)
    tiers = [item.tier for item in feed.of(ClockUpdate)]
    assert tiers == [Tier.DEVICE, Tier.ARRIVAL]
    times = [frame.t_ns // MS for frame in feed.of(VideoFrame)]
    assert times[:3] == [12, 45, 78]
    assert times[3:] == [132, 165, 198]


def test_only_video4linux_is_believed() -> None:
    runtime = VirtualRuntime()
    start_ms = runtime.now_ns() / MS
    fake = Fake(_paced(runtime, 2), backend="MSMF", stamp_ms=lambda i: start_ms + (i + 1) * 33 - 21)
    feed, _ = _run_fake(runtime, fake)
    assert [update.tier for update in feed.of(ClockUpdate)] == [Tier.ARRIVAL]


def test_a_damaged_picture_is_counted_and_the_next_one_is_given() -> None:
    runtime = VirtualRuntime()
    fake = Fake(_paced(runtime, 10), good=lambda i: i % 2 == 0)
    feed, camera = _run_fake(runtime, fake)
    assert camera.drops.by_reason == {BAD_PICTURE: 5}
    assert [frame.sequence for frame in feed.of(VideoFrame)] == [0, 1, 2, 3, 4]


def test_nothing_but_damage_breaks_off() -> None:
    runtime = VirtualRuntime()
    fake = Fake(_paced(runtime, 10_000), good=lambda _: False)
    camera = Camera(0, runtime, opened=lambda _: fake, read_timeout_s=1e6)
    with pytest.raises(SourceError, match="30 pictures in a row cannot be decoded"):
        runtime.run(camera.run(KeepingFeed(runtime)))
    assert fake.released == 1
    assert fake.grabs == 30


def test_a_read_that_hangs_is_given_up_and_closed_when_it_comes_back() -> None:
    back, hung, closed = threading.Event(), threading.Event(), threading.Event()

    class Hanging(Fake):
        def release(self) -> None:
            super().release()
            closed.set()

    def step(index: int) -> bool:
        if index == 3:
            hung.set()
            back.wait(60)
        return True

    fakes: list[Fake] = []

    def opened(_: Camera) -> Fake:
        fakes.append(Hanging(step) if not fakes else Fake(lambda index: index < 2))
        return fakes[-1]

    async def main(runtime: Runtime) -> None:
        camera = Camera(0, runtime, name="cam", opened=opened, read_timeout_s=0.05)
        feed = KeepingFeed(runtime)
        error = await _error_of(camera.run(feed))
        assert hung.is_set()
        assert error == "cam: gives no answer and its read hangs; check its cable or its network"
        put = len(feed.arrivals)
        # While that thread hangs, no second one is begun.
        assert "hangs in its driver since" in await _error_of(camera.run(feed))
        assert len(fakes) == 1
        back.set()
        async with asyncio.timeout(30):
            await asyncio.to_thread(closed.wait, 30)
            await runtime.lane("webcam:0").submit(lambda: None)  # behind it
        assert len(feed.arrivals) == put  # the old picture was not put
        assert "gives no pictures any more" in await _error_of(camera.run(feed))
        assert len(feed.arrivals) == put + 3

    try:
        with SystemRuntime() as runtime:
            asyncio.run(main(runtime))
    finally:
        back.set()
    assert [fake.released for fake in fakes] == [1, 1]


def test_opening_that_hangs_is_given_up_too() -> None:
    back = threading.Event()
    fake = Fake(lambda _: True)

    def opened(_: Camera) -> Fake:
        back.wait(60)
        return fake

    async def main(runtime: Runtime) -> None:
        camera = Camera(0, runtime, opened=opened, open_timeout_s=0.05)
        feed = KeepingFeed(runtime)
        assert "its read hangs" in await _error_of(camera.run(feed))
        assert not feed.arrivals
        back.set()
        async with asyncio.timeout(30):
            await runtime.lane("webcam:0").submit(lambda: None)
        assert not feed.arrivals

    try:
        with SystemRuntime() as runtime:
            asyncio.run(main(runtime))
    finally:
        back.set()
    assert fake.released == 1


# -- conversion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (5, 4), (4, 5), (7, 5), (1, 1), (480, 640)])
def test_planes_are_bt601_limited_and_cover_odd_sides(size: tuple[int, int]) -> None:
    height, width = size
    blue_green_red = (200, 40, 90)
    picture = np.full((height, width, 3), blue_green_red, np.uint8)
    y, u, v = to_planes(picture)
    assert u is not None
    assert v is not None
    assert y.shape == (height, width)
    assert u.shape == v.shape == ((height + 1) // 2, (width + 1) // 2)
    b, g, r = (c / 255 for c in blue_green_red)
    luma = 0.299 * r + 0.587 * g + 0.114 * b  # ITU-R BT.601
    want = (16 + 219 * luma, 128 + 224 * (b - luma) / 1.772, 128 + 224 * (r - luma) / 1.402)
    for plane, value in zip((y, u, v), want, strict=True):
        assert plane.dtype == np.uint8
        assert np.abs(plane.astype(float) - value).max() <= 1.5
    assert y.flags.c_contiguous


def test_grey_pictures_stay_grey_and_what_is_no_picture_is_refused() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    y, u, v = to_planes(grey)
    assert np.array_equal(y, grey)
    assert (u, v) == (None, None)
    for wrong in (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.uint16)):
        with pytest.raises(SourceError, match="neither colour nor grey"):
            to_planes(wrong)


async def _error_of(run: Any) -> str:
    with pytest.raises(SourceError) as raised:
        await run
    return str(raised.value)


async def _noop(runtime: Runtime, camera: Camera) -> None:
    await runtime.lane(camera.name).submit(lambda: None)
