"""A camera of this machine through OpenCV, read in a thread of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from counterpoint.streams.address import shown
from counterpoint.streams.blocking import BlockingReader, Watch
from counterpoint.streams.clock import DeviceClock, Line, SourceClock
from counterpoint.streams.errors import CounterpointError, SourceError, UnavailableError
from counterpoint.streams.feed import Feed
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import (
    NS_PER_S,
    ClockUpdate,
    DropCounter,
    Modality,
    Tier,
    UInt8Array,
    VideoFrame,
)
from counterpoint.streams.v4l import SYSFS, video_nodes

SIZE: Final = (640, 480)
FPS: Final = 30.0
OPEN_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 5.0
MAX_BAD_IN_A_ROW: Final = 30
BAD_PICTURE: Final = "undecodable picture"

# Video4Linux stamps its buffers by CLOCK_MONOTONIC when the driver gets them; what older a stamp
# claims to be than this is of another clock.
MAX_AGE_NS: Final = NS_PER_S
STAMP_ERROR_NS: Final = 10_000_000
# By arrival alone, exposure, read-out and transfer are not seen: one to two pictures.
ARRIVAL_ERROR_NS: Final = 50_000_000

Picture = npt.NDArray[Any]


class Capture(Protocol):
    """What is used of ``cv2.VideoCapture``."""

    def grab(self) -> bool: ...

    def retrieve(self) -> tuple[bool, Picture]: ...

    def get(self, prop: int, /) -> float: ...

    def getBackendName(self) -> str: ...  # noqa: N802 - OpenCV's name

    def release(self) -> None: ...


class Camera:
    """Pictures of one camera, stamped the moment they are grabbed.

    A picture's instant is the driver's stamp where that is in the session's own clock (Video4Linux;
    tier device), else the end of the grab less ``readout_ns`` (tier arrival).

    Args:
        device: N of ``/dev/videoN``, of the order in which the system lists cameras elsewhere; or
            a path or an address that OpenCV opens.
        name: of the source; by default ``webcam:N``, or the address without what gives access.
        size, fps: what to ask the camera for; it gives what it has.
        readout_ns: from the middle of the exposure to the end of a grab, as far as it is known.
        open_timeout_s, read_timeout_s: how long opening and one picture may take.
        opened: opens the capture; for tests.
    """

    modalities: Final = frozenset({Modality.VIDEO})

    def __init__(
        self,
        device: int | str,
        runtime: Runtime,
        *,
        name: str | None = None,
        size: tuple[int, int] = SIZE,
        fps: float = FPS,
        readout_ns: int = 0,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        opened: Callable[[Camera], Capture] | None = None,
    ) -> None:
        self.device = device
        self.size = size
        self.fps = fps
        self.open_timeout_s = open_timeout_s
        self.read_timeout_s = read_timeout_s
        plain = f"webcam:{device}" if _is_local(device) else shown(str(device))
        self.name = name or plain
        self.drops = DropCounter()
        self._readout_ns = readout_ns
        self._runtime = runtime
        self._opened = opened or open_capture
        # One thread for each device: two sources on one camera would wait for each other.
        self._reader = BlockingReader(self.name, runtime, plain)

    async def run(self, feed: Feed) -> None:
        """Give pictures until cancelled.

        Raises:
            UnavailableError: this machine has no such camera, or something else uses it.
            SourceError: it was unplugged, or hangs; or an address cannot be opened.
        """
        await self._reader.run(
            lambda watch: self._read(feed, watch), open_timeout_s=self.open_timeout_s
        )

    def _read(self, feed: Feed, watch: Watch) -> None:
        capture = self._opened(self)
        try:
            clock = _CameraClock(self.name, capture.getBackendName(), self._readout_ns)
            sequence = bad = 0
            while not watch.stopped:
                if not capture.grab():
                    raise SourceError(
                        f"{self.name}: gives no pictures any more; "
                        f"plug it in again, or end what else uses it"
                    )
                grabbed_ns = self._runtime.now_ns()
                if not watch.renew(grabbed_ns + round(self.read_timeout_s * NS_PER_S)):
                    return  # given up meanwhile: this picture is old
                t_ns = clock.stamp(feed, grabbed_ns, capture.get(cv2.CAP_PROP_POS_MSEC))
                good, picture = capture.retrieve()
                if not good or picture is None or picture.size == 0:
                    bad += 1
                    self.drops.add(BAD_PICTURE)
                    if bad >= MAX_BAD_IN_A_ROW:
                        raise SourceError(
                            f"{self.name}: {bad} pictures in a row cannot be decoded; "
                            f"check its cable, or ask for a smaller picture"
                        )
                    continue
                bad = 0
                y, u, v = to_planes(picture, self.name)
                if (update := clock.take_update()) is not None:
                    feed.put(update)
                feed.put(
                    VideoFrame(
                        source=self.name,
                        t_ns=t_ns,
                        y=y,
                        u=u,
                        v=v,
                        sequence=sequence,
                        full_range=u is None,
                    )
                )
                sequence += 1
        finally:
            capture.release()


class _CameraClock:
    """By the driver's stamps as long as they hold, from then on by arrival."""

    def __init__(self, source: str, backend: str, readout_ns: int) -> None:
        self._clock = SourceClock(source, Modality.VIDEO)
        self._device = DeviceClock(readout_ns=readout_ns)
        self._last_ns = 0
        # Elsewhere, the position is counted from an assumed rate, or from another clock.
        self._stamped = backend == "V4L2"
        self._clock.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=0), ARRIVAL_ERROR_NS)

    def stamp(self, feed: Feed, grabbed_ns: int, position_ms: float) -> int:
        """Session time of the picture that was just grabbed."""
        if self._stamped:
            stamp_ns = round(position_ms * 1e6) if math.isfinite(position_ms) else 0
            self._stamped = (
                self._last_ns < stamp_ns <= grabbed_ns and grabbed_ns - stamp_ns <= MAX_AGE_NS
            )
            self._last_ns = stamp_ns
        if self._stamped:
            self._clock.offer(Tier.DEVICE, Line(x_ns=0, y_ns=0), STAMP_ERROR_NS)
            return self._clock.map(max(0, feed.session_ns(self._last_ns)))
        self._clock.offer(Tier.DEVICE, None)
        return self._clock.map(self._device.without_stamp(feed.session_ns(grabbed_ns)))

    def take_update(self) -> ClockUpdate | None:
        return self._clock.take_update()


def to_planes(
    picture: Picture, name: str = "camera"
) -> tuple[UInt8Array, UInt8Array | None, UInt8Array | None]:
    """BGR as OpenCV gives it in YUV 4:2:0 (BT.601, limited range), a grey picture as it is.

    Args:
        picture: (height, width, 3) or (height, width), uint8.
        name: whose, for messages.

    Returns:
        y (height, width), u and v (ceil(height / 2), ceil(width / 2)) or None, all uint8.

    Raises:
        SourceError: the picture is of another kind.
    """
    if (
        picture.dtype != np.uint8
        or picture.ndim not in (2, 3)
        or picture.shape[2:] not in ((), (3,))
    ):
        raise SourceError(
            f"{name}: its pictures are {picture.shape} {picture.dtype}, neither colour nor grey "
            f"of 8 bits; give another camera"
        )
    if picture.ndim == 2:
        return picture.copy(), None, None
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        # The conversion wants even sides; the edge goes on as it is.
        picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    rows, columns = picture.shape[:2]
    packed = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420), np.uint8).reshape(-1)
    y, u, v = np.split(packed, [rows * columns, rows * columns * 5 // 4])
    luma = np.ascontiguousarray(y.reshape(rows, columns)[:height, :width])
    half = (rows // 2, columns // 2)
    return luma, u.reshape(half), v.reshape(half)


def open_capture(camera: Camera) -> Capture:
    """Open a camera through OpenCV. Blocking.

    Raises:
        UnavailableError, SourceError: it cannot be opened, and why as far as that is known.
    """
    device = camera.device
    with _quiet():
        if _is_local(device):
            capture = cv2.VideoCapture(device)
        else:
            milliseconds = [round(s * 1e3) for s in (camera.open_timeout_s, camera.read_timeout_s)]
            timeouts = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
            parameters = [x for pair in zip(timeouts, milliseconds, strict=True) for x in pair]
            capture = cv2.VideoCapture(str(device), cv2.CAP_FFMPEG, parameters)
        if not capture.isOpened():
            capture.release()
            raise _why_not(camera)
        if _is_local(device):
            # Uncompressed, USB 2 has no room for 30 pictures a second of this size.
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, camera.size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.size[1])
            capture.set(cv2.CAP_PROP_FPS, camera.fps)
            # What waits in the driver is old; one picture there is enough.
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def probe_camera(index: int) -> str | None:
    """Open camera ``index`` for a moment: what it gives, None if there is none. Blocking."""
    with _quiet():
        capture = cv2.VideoCapture(index)
    try:
        if not capture.isOpened():
            return None
        width, height = (
            round(capture.get(prop))
            for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        return f"{width}x{height}, {capture.getBackendName()}"
    finally:
        capture.release()


def _why_not(camera: Camera) -> CounterpointError:
    device = camera.device
    if not _is_local(device):
        return SourceError(f"{camera.name}: cannot be opened; check the address and its server")
    see = "counterpoint devices lists them"
    if SYSFS.parent.is_dir():  # Linux: anywhere else, asking would switch the cameras on
        nodes = video_nodes()
        number = str(device).removeprefix("/dev/video")
        mine = next((node for node in nodes if str(node.index) == number), None)
        if mine is None:
            found = ", ".join(str(node.index) for node in nodes) or "none"
            return UnavailableError(f"no camera {device} (found: {found}); {see}")
        if mine.problem is not None:
            return UnavailableError(f"camera {device} ({mine.name}): {mine.problem}")
    return UnavailableError(f"camera {device} cannot be opened; end what else uses it; {see}")


def _is_local(device: int | str) -> bool:
    return isinstance(device, int) or "://" not in device


@contextmanager
def _quiet() -> Iterator[None]:
    """Without OpenCV's own lines on stderr: what went wrong is said by our errors."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
