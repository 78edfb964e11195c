"""Finding, following, losing and cutting out a real face."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from counterpoint.engine.kernels import reference
from counterpoint.engine.kernels.reference import Rectangle
from counterpoint.engine.preprocess import faces
from counterpoint.engine.preprocess.faces import FaceTracker, face_input
from counterpoint.engine.preprocess.spec import VideoSpec
from counterpoint.streams.errors import UnavailableError
from counterpoint.streams.types import UInt8Array, VideoFrame
from tests.support.media import grid_face

SPEC = VideoSpec(mean=0.5, std=0.25)
FACE = grid_face()
GREY = np.full_like(FACE, 126)


def frame(luma: UInt8Array, *, full_range: bool = False) -> VideoFrame:
    return VideoFrame(source="camera", t_ns=0, y=luma.copy(), sequence=0, full_range=full_range)


def scene(*placed: tuple[int, int, float], height: int = 480, width: int = 640) -> UInt8Array:
    """A grey picture with the face picture put at (x, y), scaled."""
    picture = np.full((height, width), 126, np.uint8)
    for x, y, scale in placed:
        small = cv2.resize(FACE, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        picture[y : y + small.shape[0], x : x + small.shape[1]] = small
    return picture


class Blind:
    """A cascade that finds nothing."""

    def detectMultiScale(self, *args: object, **kwargs: object) -> tuple[()]:
        return ()


def counting(tracker: FaceTracker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the updates in which the cascade was called, filled as it is."""
    calls: list[int] = []
    detect = tracker._detect
    update = tracker.update
    number = -1

    def counted_detect(small: UInt8Array, tracked: Rectangle | None) -> Rectangle | None:
        calls.append(number)
        return detect(small, tracked)

    def counted_update(picture: VideoFrame) -> Rectangle | None:
        nonlocal number
        number += 1
        return update(picture)

    monkeypatch.setattr(tracker, "_detect", counted_detect)
    monkeypatch.setattr(tracker, "update", counted_update)
    return calls


def assert_near(found: Rectangle | None, x: float, y: float, side: float) -> None:
    """Centre within a tenth of the side, side within a quarter."""
    assert found is not None
    assert found.width == found.height == pytest.approx(side, rel=0.25)
    assert found.x + found.width / 2 == pytest.approx(x, abs=side / 10)
    assert found.y + found.height / 2 == pytest.approx(y, abs=side / 10)


def test_the_face_is_found_in_the_frames_own_pixels() -> None:
    assert_near(FaceTracker().update(frame(FACE)), 188, 186, 157)
    doubled = np.kron(FACE, np.ones((2, 2), np.uint8))
    assert_near(FaceTracker().update(frame(doubled)), 376, 372, 314)


def test_no_face_is_none() -> None:
    tracker = FaceTracker()
    assert tracker.update(frame(GREY)) is None
    assert tracker.update(frame(FACE)) is not None


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (20, 20), (900, 30)])
def test_odd_pictures_hold_no_face_and_do_no_harm(shape: tuple[int, int]) -> None:
    tracker = FaceTracker()
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert tracker.update(frame(noise)) is None
    assert tracker.update(frame(noise)) is None


def test_between_detections_the_face_is_tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FaceTracker(detect_every=4)
    calls = counting(tracker, monkeypatch)
    rng = np.random.default_rng(2)

    def noisy(picture: UInt8Array) -> VideoFrame:
        grainy = picture + rng.normal(0.0, 12.0, picture.shape)
        return frame(np.clip(grainy, 0, 255).astype(np.uint8))

    start = tracker.update(noisy(scene((100, 100, 1.0))))
    assert start is not None
    for step in range(1, 9):
        # The whole picture of the face moves by 20 px to the right and 6 down for each frame.
        moved = tracker.update(noisy(scene((100 + 20 * step, 100 + 6 * step, 1.0))))
        assert_near(
            moved,
            start.x + start.width / 2 + 20 * step,
            start.y + start.height / 2 + 6 * step,
            start.width,
        )
    assert calls == [0, 4, 8]


def test_a_lost_track_calls_the_cascade_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FaceTracker(detect_every=100)
    calls = counting(tracker, monkeypatch)
    tracker.update(frame(scene((0, 100, 0.6))))
    moved = tracker.update(frame(scene((400, 180, 0.6))))
    assert calls == [0, 1]
    assert_near(moved, 400 + 0.6 * 188, 180 + 0.6 * 186, 0.6 * 157)


def test_a_face_that_goes_is_gone_and_is_looked_for_in_every_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = FaceTracker(detect_every=4)
    calls = counting(tracker, monkeypatch)
    assert tracker.update(frame(FACE)) is not None
    assert [tracker.update(frame(GREY)) for _ in range(3)] == [None] * 3
    assert calls == [0, 1, 2, 3]
    assert tracker.update(frame(FACE)) is not None


def test_a_face_that_only_the_template_still_knows_is_kept_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = FaceTracker(detect_every=1)
    assert tracker.update(frame(FACE)) is not None

    monkeypatch.setattr(tracker, "_cascade", Blind())
    found = [tracker.update(frame(FACE)) is not None for _ in range(5)]
    assert found == [True, True, True, False, False]


def test_only_detections_missed_in_a_row_count(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FaceTracker(detect_every=1)
    seeing = tracker._cascade
    for _ in range(3):
        monkeypatch.setattr(tracker, "_cascade", seeing)
        assert tracker.update(frame(FACE)) is not None
        monkeypatch.setattr(tracker, "_cascade", Blind())
        assert tracker.update(frame(FACE)) is not None
        assert tracker.update(frame(FACE)) is not None


def test_the_largest_face_is_taken_first() -> None:
    both = scene((0, 0, 0.5), (280, 180, 1.0))
    assert_near(FaceTracker().update(frame(both)), 280 + 188, 180 + 186, 157)


def test_the_face_followed_is_kept_until_another_is_much_larger() -> None:
    tracker = FaceTracker(detect_every=1)
    tracker.update(frame(scene((0, 0, 0.6))))
    slightly = tracker.update(frame(scene((0, 0, 0.6), (330, 220, 0.66))))
    assert_near(slightly, 0.6 * 188, 0.6 * 186, 0.6 * 157)
    much = tracker.update(frame(scene((0, 0, 0.6), (270, 180, 1.0))))
    assert_near(much, 270 + 188, 180 + 186, 157)


def test_the_face_followed_is_kept_even_if_its_template_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faces, "_MIN_SCORE", 2.0)
    tracker = FaceTracker()
    tracker.update(frame(scene((0, 0, 0.6))))
    kept = tracker.update(frame(scene((0, 0, 0.6), (330, 220, 0.66))))
    assert_near(kept, 0.6 * 188, 0.6 * 186, 0.6 * 157)


def test_another_size_of_picture_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FaceTracker(detect_every=100)
    calls = counting(tracker, monkeypatch)
    wide = tracker.update(frame(scene((350, 180, 0.75))))
    assert wide is not None
    # Smaller than where the face last was.
    assert tracker.update(frame(np.ascontiguousarray(GREY[:90, :90]))) is None
    assert tracker.update(frame(FACE)) is not None
    assert calls == [0, 1, 2]


def test_the_same_pictures_give_the_same_rectangles() -> None:
    rng = np.random.default_rng(3)
    pictures = []
    for step in range(10):
        noisy = scene((100 + 9 * step, 90, 1.0)) + rng.normal(0, 4, (480, 640))
        pictures.append(np.clip(noisy, 0, 255).astype(np.uint8))
    runs = []
    for _ in range(2):
        tracker = FaceTracker()
        runs.append([tracker.update(frame(picture)) for picture in pictures])
    assert runs[0] == runs[1]
    assert None not in runs[0]


def test_reset_forgets_the_face(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FaceTracker(detect_every=100)
    calls = counting(tracker, monkeypatch)
    tracker.update(frame(FACE))
    tracker.reset()
    tracker.update(frame(FACE))
    assert calls == [0, 1]


def test_detect_every_must_be_positive() -> None:
    with pytest.raises(ValueError, match="detect_every"):
        FaceTracker(detect_every=0)


def test_an_opencv_without_cascades_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "_CASCADE", "not_shipped.xml")
    with pytest.raises(UnavailableError, match=r"not_shipped\.xml.*opencv-python-headless"):
        FaceTracker()


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    "rectangle",
    [
        Rectangle(x=97, y=95, width=141, height=141),
        Rectangle(x=-10, y=200, width=131, height=131),
        Rectangle(x=160, y=160, width=31, height=31),
    ],
)
def test_the_encoders_input_is_the_references(full_range: bool, rectangle: Rectangle) -> None:
    face = face_input(frame(FACE, full_range=full_range), rectangle, SPEC)
    grey = reference.crop_resize(FACE, rectangle, 48)
    if not full_range:
        grey = reference.to_full_range(grey)
    expected = reference.normalise_face(grey, SPEC)
    assert face.shape == (48, 48)
    assert face.dtype == np.float32
    # One grey level before the expansion is up to two after it.
    assert face == pytest.approx(expected, abs=2.001 / 255 / SPEC.std)
