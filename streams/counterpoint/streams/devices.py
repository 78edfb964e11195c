"""The cameras and microphones of this machine, and what to write to use one."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from counterpoint.streams.camera import probe_camera
from counterpoint.streams.errors import UnavailableError
from counterpoint.streams.microphone import (
    DEFAULT,
    FoundMicrophone,
    choose,
    load_portaudio,
    microphones,
)
from counterpoint.streams.v4l import DEV, SYSFS, video_nodes

PROBED_CAMERAS: Final = 8


class Kind(enum.StrEnum):
    """What a device is."""

    CAMERA = "camera"
    MICROPHONE = "microphone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device, or why there is none of its kind.

    Fields:
        kind: camera or microphone.
        argument: what to write for it: ``webcam:0``, ``mic:Desk``. None stands for the kind.
        name: as the system calls it; empty where ``argument`` is None.
        detail: what else is known of it.
        problem: why it cannot be used, or why there is none, and what to do; None if it can.
    """

    kind: Kind
    argument: str | None
    name: str = ""
    detail: str = ""
    problem: str | None = None

    @property
    def option(self) -> str:
        """The option of the command line that ``argument`` is for."""
        return {Kind.CAMERA: "--video", Kind.MICROPHONE: "--audio"}[self.kind]


def list_devices(
    *,
    platform: str = sys.platform,
    sysfs: Path = SYSFS,
    dev: Path = DEV,
    library: Callable[[], Any] = load_portaudio,
    probe: Callable[[int], str | None] = probe_camera,
) -> tuple[Device, ...]:
    """All cameras, then all microphones; of a kind without any, why there is none. Blocking.

    On Linux no camera is switched on. Elsewhere nothing but opening tells whether there is one, so
    the first eight numbers are tried.

    Args:
        platform, sysfs, dev, library, probe: where to look; for tests.
    """
    if platform == "linux":
        cameras = _linux_cameras(sysfs, dev)
    else:
        cameras = _probed_cameras(probe)
    return (*cameras, *_microphones(library))


def _linux_cameras(sysfs: Path, dev: Path) -> tuple[Device, ...]:
    found = tuple(
        Device(
            kind=Kind.CAMERA,
            argument=f"webcam:{node.index}",
            name=node.name,
            detail=f"/dev/video{node.index}",
            problem=node.problem,
        )
        for node in video_nodes(sysfs, dev)
    )
    if found:
        return found
    return (_none(Kind.CAMERA, "no camera found; plug one in (in a container, pass /dev/videoN)"),)


def _probed_cameras(probe: Callable[[int], str | None]) -> tuple[Device, ...]:
    found = tuple(
        Device(kind=Kind.CAMERA, argument=f"webcam:{index}", name=f"camera {index}", detail=detail)
        for index in range(PROBED_CAMERAS)
        if (detail := probe(index)) is not None
    )
    return found or (_none(Kind.CAMERA, "no camera found; plug one in, or allow access to it"),)


def _microphones(library: Callable[[], Any]) -> tuple[Device, ...]:
    try:
        loaded = library()
    except UnavailableError as error:
        return (_none(Kind.MICROPHONE, str(error)),)
    try:
        found = microphones(loaded)
    except loaded.PortAudioError as error:
        text = str(error).partition("\n")[0]
        return (_none(Kind.MICROPHONE, f"PortAudio cannot list them ({text})"),)
    if not found:
        return (
            _none(Kind.MICROPHONE, "no microphone found; plug one in, or start the sound server"),
        )
    return tuple(
        Device(
            kind=Kind.MICROPHONE,
            argument=f"mic:{_shortest(found, microphone)}",
            name=microphone.name,
            detail=f"{microphone.host}, {microphone.rate_hz} Hz, {microphone.channels} channels"
            + (", the default" if microphone.default else ""),
        )
        for microphone in found
    )


def _shortest(found: tuple[FoundMicrophone, ...], microphone: FoundMicrophone) -> str:
    """What names it alone. A name lasts longer than a number, which changes with each plug."""
    if microphone.default:
        return DEFAULT
    try:
        meant = choose(found, microphone.name)
    except UnavailableError:
        return str(microphone.index)
    return microphone.name if meant.index == microphone.index else str(microphone.index)


def _none(kind: Kind, problem: str) -> Device:
    return Device(kind=kind, argument=None, problem=problem)
