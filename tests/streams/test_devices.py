"""`list_devices`: what is there, what to write for it, and why a kind is missing."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterpoint.streams.camera import probe_camera
from counterpoint.streams.devices import Device, Kind, list_devices
from counterpoint.streams.errors import UnavailableError
from counterpoint.streams.microphone import choose, microphones
from counterpoint.streams.v4l import VideoNode, video_nodes


def _without_portaudio() -> Any:
    raise UnavailableError("no microphone without PortAudio; install it")


class Library:
    """What is used of sounddevice."""

    class PortAudioError(Exception):
        pass

    class default:  # noqa: N801 - sounddevice's name
        device = (-1, -1)
        hostapi = 0

    def __init__(self, *names: str, default: int = 0, broken: bool = False) -> None:
        self._names = names
        self._default = default
        self._broken = broken

    def __call__(self) -> Library:
        return self

    def query_hostapis(self) -> list[dict[str, Any]]:
        if self._broken:
            raise self.PortAudioError("Error querying host APIs\nmore")
        return [{"name": "ALSA", "default_input_device": self._default}]

    def query_devices(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "hostapi": 0,
                "default_samplerate": 48_000.0,
                "max_input_channels": 0 if name == "Speaker" else 2,
            }
            for name in self._names
        ]


def _node(sysfs: Path, index: int, name: str, *, place: int = 0) -> None:
    entry = sysfs / f"video{index}"
    entry.mkdir()
    (entry / "name").write_text(f"{name}\n")
    (entry / "index").write_text(f"{place}\n")


def _cameras(sysfs: Path, dev: Path) -> list[Device]:
    found = list_devices(platform="linux", sysfs=sysfs, dev=dev, library=_without_portaudio)
    return [device for device in found if device.kind is Kind.CAMERA]


# -- cameras ---------------------------------------------------------------------------------------


def test_cameras_of_linux_are_listed_by_number_with_what_to_write(tmp_path: Path) -> None:
    sysfs, dev = tmp_path / "sys", tmp_path / "dev"
    sysfs.mkdir()
    dev.mkdir()
    for index, name in ((10, "Desk"), (2, "Front")):
        _node(sysfs, index, name)
        (dev / f"video{index}").touch()  # which does not know what it is asked
    _node(sysfs, 3, "Front", place=1)  # its metadata
    (dev / "video3").touch()
    (sysfs / "v4l-subdev0").mkdir()
    assert _cameras(sysfs, dev) == [
        Device(kind=Kind.CAMERA, argument="webcam:2", name="Front", detail="/dev/video2"),
        Device(kind=Kind.CAMERA, argument="webcam:10", name="Desk", detail="/dev/video10"),
    ]


def test_a_camera_that_may_not_be_opened_is_listed_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _node(tmp_path, 0, "Front")
    real = os.open

    def denied(path: Any, *args: Any) -> int:
        if str(path).endswith("video0"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args)

    monkeypatch.setattr(os, "open", denied)
    (camera,) = _cameras(tmp_path, tmp_path)
    assert camera.argument == "webcam:0"
    assert camera.problem == "no permission to open it; add yourself to the group video"


def test_a_camera_that_is_gone_is_listed_with_what_to_do(tmp_path: Path) -> None:
    _node(tmp_path, 0, "Front")
    (node,) = video_nodes(tmp_path, tmp_path / "nowhere")
    assert node == VideoNode(
        index=0,
        name="Front",
        problem="cannot be opened (No such file or directory); plug it in again",
    )


@pytest.mark.parametrize(
    ("everything", "own", "listed"),
    [
        (0x8000_0001, 0x0000_0001, True),  # a camera
        (0x8000_0001, 0x0080_0000, False),  # its metadata: the driver as a whole does capture
        (0x0000_0001, 0x0000_0000, True),  # a driver from before device_caps
        (0x8000_1000, 0x0000_1000, True),  # multi-planar
        (0x8000_8000, 0x0000_8000, False),  # a codec
        (0x8000_0002, 0x0000_0002, False),  # output only
    ],
)
def test_what_the_driver_says_counts(
    everything: int, own: int, listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def answer(descriptor: int, request: int, argument: bytes) -> bytes:
        # VIDIOC_QUERYCAP of include/uapi/linux/videodev2.h
        assert request == (2 << 30) | (len(argument) << 16) | (ord("V") << 8) | 0
        return struct.pack("=16s32s32sIII12x", b"uvc", b"Front", b"usb", 0, everything, own)

    monkeypatch.setattr(fcntl, "ioctl", answer)
    _node(tmp_path, 0, "Front", place=1 if listed else 0)  # which would say the opposite
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "video0").touch()
    assert bool(video_nodes(tmp_path, dev)) is listed


def test_without_a_camera_that_is_said(tmp_path: Path) -> None:
    (camera,) = _cameras(tmp_path / "nowhere", tmp_path)
    assert camera.argument is None
    assert camera.problem is not None
    assert "no camera found" in camera.problem


def test_elsewhere_cameras_are_tried() -> None:
    tried: list[int] = []

    def probe(index: int) -> str | None:
        tried.append(index)
        return "1280x720, AVFOUNDATION" if index == 1 else None

    found = list_devices(platform="darwin", library=_without_portaudio, probe=probe)
    assert found[0] == Device(
        kind=Kind.CAMERA, argument="webcam:1", name="camera 1", detail="1280x720, AVFOUNDATION"
    )
    assert tried == list(range(8))
    nothing = list_devices(platform="win32", library=_without_portaudio, probe=lambda _: None)
    assert nothing[0].argument is None


def test_probing_a_camera_that_is_not_there_says_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert probe_camera(97) is None
    assert capfd.readouterr() == ("", "")


# -- microphones -----------------------------------------------------------------------------------


def _microphones(library: Callable[[], Any], tmp_path: Path) -> list[Device]:
    found = list_devices(platform="linux", sysfs=tmp_path, dev=tmp_path, library=library)
    return [device for device in found if device.kind is Kind.MICROPHONE]


def test_microphones_are_named_by_what_names_them_alone(tmp_path: Path) -> None:
    library = Library("Built-in", "Speaker", "Desk [USB]", "Twin", "Twin", "7", default=0)
    found = _microphones(library, tmp_path)
    arguments = [device.argument for device in found]
    assert arguments == ["mic:default", "mic:Desk [USB]", "mic:3", "mic:4", "mic:5"]
    assert found[0].detail == "ALSA, 48000 Hz, 2 channels, the default"
    assert {device.option for device in found} == {"--audio"}
    # Each of them leads back to its device.
    listed = microphones(library)
    for device, microphone in zip(found, listed, strict=True):
        assert device.argument is not None
        assert choose(listed, device.argument.removeprefix("mic:")) == microphone


@pytest.mark.parametrize(
    ("library", "text"),
    [
        (_without_portaudio, "no microphone without PortAudio"),
        (Library(default=-1), "no microphone found"),
        (Library(broken=True), "PortAudio cannot list them (Error querying host APIs)"),
    ],
)
def test_without_microphones_the_reason_is_said(
    library: Callable[[], Any], text: str, tmp_path: Path
) -> None:
    (device,) = _microphones(library, tmp_path)
    assert device.argument is None
    assert device.problem is not None
    assert text in device.problem


def test_this_machine_can_be_asked() -> None:
    found = list_devices()
    assert {device.kind for device in found} == {Kind.CAMERA, Kind.MICROPHONE}
    for device in found:
        assert (device.argument is None) <= (device.problem is not None)
