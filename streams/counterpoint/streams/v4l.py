"""Which cameras Linux knows of (Video4Linux), without OpenCV and without switching one on."""

from __future__ import annotations

import os
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SYSFS: Final = Path("/sys/class/video4linux")
DEV: Final = Path("/dev")

# include/uapi/linux/videodev2.h: _IOR('V', 0, struct v4l2_capability), 104 bytes, of which
# `capabilities` lies at 84 and `device_caps` at 88.
_QUERYCAP: Final = 0x80685600
_CAPABILITY_BYTES: Final = 104
_VIDEO_CAPTURE: Final = 0x1 | 0x1000  # planar or multi-planar
_MEM2MEM: Final = 0x8000 | 0x4000  # a codec: pictures in, pictures out
_DEVICE_CAPS: Final = 0x8000_0000


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoNode:
    """A camera as Linux lists it.

    Fields:
        index: N of /dev/videoN.
        name: as its driver calls it.
        problem: why this process cannot open it; None if it can.
    """

    index: int
    name: str
    problem: str | None = None


def video_nodes(sysfs: Path = SYSFS, dev: Path = DEV) -> tuple[VideoNode, ...]:
    """All cameras, by number. A node that gives no pictures (metadata, a codec) is left out."""
    found = []
    for entry in sysfs.glob("video*"):
        number = re.fullmatch(r"video(\d+)", entry.name)
        if number is None:
            continue
        index, problem = int(number[1]), None
        try:
            gives_pictures = _gives_pictures(dev / entry.name)
        except PermissionError:
            problem = "no permission to open it; add yourself to the group video"
            gives_pictures = None
        except OSError as error:
            problem = f"cannot be opened ({error.strerror}); plug it in again"
            gives_pictures = None
        if gives_pictures is None:
            # The first node of a camera is the one with pictures.
            gives_pictures = _text(entry / "index") in ("", "0")
        if gives_pictures:
            name = _text(entry / "name") or entry.name
            found.append(VideoNode(index=index, name=name, problem=problem))
    return tuple(sorted(found, key=lambda node: node.index))


def _gives_pictures(node: Path) -> bool | None:
    """What the driver says; None where it says nothing."""
    if sys.platform != "linux":
        return None
    from fcntl import ioctl  # not on Windows

    # Without O_NONBLOCK some drivers wait for a device that is in use.
    descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    try:
        answer = ioctl(descriptor, _QUERYCAP, bytes(_CAPABILITY_BYTES))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    everything, own = struct.unpack_from("=II", answer, 84)
    capabilities = own if everything & _DEVICE_CAPS else everything
    return bool(capabilities & _VIDEO_CAPTURE) and not capabilities & _MEM2MEM


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
