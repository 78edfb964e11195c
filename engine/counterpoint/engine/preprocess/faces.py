"""Find the speaker's face, follow it cheaply, and cut it out as the vision encoder wants it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from counterpoint.engine.kernels import cpu
from counterpoint.engine.kernels.reference import Rectangle
from counterpoint.engine.preprocess.spec import VideoSpec
from counterpoint.streams.errors import UnavailableError
from counterpoint.streams.types import Float32Array, UInt8Array, VideoFrame

_CASCADE = "haarcascade_frontalface_default.xml"
_MAX_WIDTH_PX = 320
_MIN_FACE_SHARE = 1 / 6
"""Smallest face looked for, as a part of the picture's shorter side: at a desk a face is twice as
large, and what is smaller is mostly background."""

_TEMPLATE_PX = 48
_SEARCH_SHARE = 0.5
"""How far around the last rectangle to look, in sides of it."""

_MIN_SCORE = 0.6
"""Normalised correlation from which a template counts as found again."""

_MAX_MISSED_DETECTIONS = 3
"""Detections in a row that may find nothing while the template still does: the cascade misses
turned and tilted heads that a moment ago it saw from the front."""

_SHRINKS_TO = 0.6
"""Smallest a followed face may have become since it was detected; one that is smaller is missed,
and looked for in all sizes when it is no longer found."""

_SAME_FACE_OVERLAP = 0.3
_TAKE_OVER_AREA = 1.5
"""How much larger another face must be to be taken for the speaker."""


FaceSnapshot: TypeAlias = tuple[Rectangle | None, UInt8Array | None, tuple[int, ...], int, int]
"""State of a `FaceTracker`."""


class FaceTracker:
    """The largest face of a stream of pictures: detected now and then, tracked in between.

    A Haar cascade (Viola and Jones 2001) looks at a grey picture at most 320 px wide on every
    ``detect_every``-th frame; in between, the last detected face is searched around its last
    place by normalised cross-correlation at 48 px. A weak match calls the cascade at once, and
    while there is no face every frame is looked at. Deterministic; its state is one rectangle,
    one 48 x 48 template and two counters. For one caller at a time.
    """

    def __init__(self, *, detect_every: int = 4) -> None:
        """
        Raises:
            ValueError: ``detect_every`` is not positive.
            UnavailableError: this build of OpenCV carries no Haar cascades.
        """
        if detect_every < 1:
            raise ValueError(f"detect_every must be positive, not {detect_every}")
        self._detect_every = detect_every
        self._cascade = _load_cascade()
        self.reset()

    def reset(self) -> None:
        """Forget the face."""
        self._face: Rectangle | None = None  # in the small picture
        self._template: UInt8Array | None = None
        self._shape: tuple[int, ...] = ()
        self._since_detection = 0
        self._missed = 0

    def snapshot(self) -> FaceSnapshot:
        """What is known of the face, for `restore`. Never changed later."""
        return self._face, self._template, self._shape, self._since_detection, self._missed

    def restore(self, snapshot: FaceSnapshot) -> None:
        """Go back to where ``snapshot`` was taken."""
        self._face, self._template, self._shape, self._since_detection, self._missed = snapshot

    def update(self, frame: VideoFrame) -> Rectangle | None:
        """The face's square in pixels of this frame, or None if there is no face."""
        small, scale = _shrink(frame.y)
        if small.shape != self._shape:
            self.reset()
            self._shape = small.shape
        tracked = self._track(small)
        self._since_detection += 1
        if tracked is None or self._since_detection >= self._detect_every:
            self._since_detection = 0
            tracked = self._detect(small, tracked)
        self._face = tracked
        return None if tracked is None else _scaled(tracked, scale)

    def _track(self, small: UInt8Array) -> Rectangle | None:
        if self._face is None or self._template is None:
            return None
        face, margin = self._face, round(self._face.width * _SEARCH_SHARE)
        left, top = max(0, face.x - margin), max(0, face.y - margin)
        region = small[top : face.y + face.height + margin, left : face.x + face.width + margin]
        scale = _TEMPLATE_PX / face.width
        size = tuple(max(_TEMPLATE_PX, round(side * scale)) for side in reversed(region.shape))
        searched = cv2.resize(region, size, interpolation=cv2.INTER_AREA)
        scores = cv2.matchTemplate(searched, self._template, cv2.TM_CCOEFF_NORMED)
        _, score, _, (column, row) = cv2.minMaxLoc(scores)
        # Not >=: a flat template gives no number.
        if not score > _MIN_SCORE:
            return None
        x = min(left + round(column / scale), small.shape[1] - face.width)
        y = min(top + round(row / scale), small.shape[0] - face.height)
        return Rectangle(x=x, y=y, width=face.width, height=face.height)

    def _detect(self, small: UInt8Array, tracked: Rectangle | None) -> Rectangle | None:
        smallest = max(24, round(min(small.shape) * _MIN_FACE_SHARE))
        if tracked is not None:
            # Small sizes cost the most, and only a face of about this size or a larger one counts.
            smallest = max(smallest, round(tracked.width * _SHRINKS_TO))
        found = self._cascade.detectMultiScale(
            small, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest)
        )
        faces = [
            Rectangle(x=x, y=y, width=w, height=h) for x, y, w, h in np.asarray(found).tolist()
        ]
        if not faces:
            self._missed += 1
            return tracked if self._missed <= _MAX_MISSED_DETECTIONS else None
        self._missed = 0
        face = _choose(faces, tracked or self._face)
        self._template = cpu.crop_resize(small, face, _TEMPLATE_PX)
        return face


def face_input(frame: VideoFrame, face: Rectangle, spec: VideoSpec) -> Float32Array:
    """The vision encoder's input (image_size_px, image_size_px) float32 for a face of a frame.

    Luma is cropped, resized, expanded to full range if need be, and normalised. The crop is the
    detector's rectangle as it is, margin 1.0: on 1,251 of 1,500 FER+ pictures drawn at random the
    same cascade finds a face, whose rectangle is 0.98 of the picture's side (median; quartiles
    0.90 and 1.04), centred to within a hundredth. So FER+ pictures are such rectangles.
    """
    grey = cpu.crop_resize(frame.y, face, spec.image_size_px)
    if not frame.full_range:
        grey = cpu.to_full_range(grey)
    return cpu.normalise_face(grey, spec)


def _load_cascade() -> cv2.CascadeClassifier:
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    path = Path(folder) / _CASCADE
    if not folder or not path.is_file():
        raise UnavailableError(
            f"OpenCV {cv2.__version__} carries no {_CASCADE}: install opencv-python-headless < 5"
        )
    return cv2.CascadeClassifier(str(path))


def _shrink(grey: UInt8Array) -> tuple[UInt8Array, float]:
    """At most `_MAX_WIDTH_PX` wide, and how many pixels of the original a pixel spans."""
    height, width = grey.shape
    if width <= _MAX_WIDTH_PX:
        return grey, 1.0
    scale = width / _MAX_WIDTH_PX
    size = (_MAX_WIDTH_PX, max(1, round(height / scale)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _scaled(face: Rectangle, scale: float) -> Rectangle:
    """In pixels of the original, about the same centre, a whole square."""
    side = max(1, round(face.width * scale))
    return Rectangle(
        x=round((face.x + face.width / 2) * scale - side / 2),
        y=round((face.y + face.height / 2) * scale - side / 2),
        width=side,
        height=side,
    )


def _choose(faces: Sequence[Rectangle], previous: Rectangle | None) -> Rectangle:
    """The largest, unless the one followed so far is still there and not much smaller."""
    largest = max(faces, key=lambda face: (face.width, -face.y, -face.x))
    if previous is None:
        return largest
    same = max(faces, key=lambda face: (_overlap(face, previous), face.width, -face.y, -face.x))
    keeps = largest.width**2 < _TAKE_OVER_AREA * same.width**2
    return same if keeps and _overlap(same, previous) >= _SAME_FACE_OVERLAP else largest


def _overlap(a: Rectangle, b: Rectangle) -> float:
    """Intersection over union."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a.width * a.height + b.width * b.height - shared)
