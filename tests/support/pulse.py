"""A sound server of one test: PulseAudio with a null sink whose monitor is the microphone.

What is played to it is recorded from it, at the pace of real time. Nothing of the machine's own
sound is touched: directory, socket and ALSA's configuration are private.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import wave
from ctypes.util import find_library
from pathlib import Path
from typing import IO, Self

import numpy as np

from tests.support.requirements import require

_CONFIGURATION = """\
load-module module-null-sink sink_name=room rate=48000 channels=2
load-module module-native-protocol-unix socket={socket} auth-anonymous=1
set-default-sink room
set-default-source room.monitor
"""
_ALSA = """\
pcm.default {{ type pulse server "unix:{socket}" }}
ctl.default {{ type pulse server "unix:{socket}" }}
pcm.booth {{ type pulse server "unix:{socket}" device "room.monitor" hint {{ show on }} }}
"""


def require_pulseaudio() -> None:
    """Skip the calling test where PulseAudio, its ALSA plugin or PortAudio is missing."""
    for tool in ("pulseaudio", "pactl", "paplay"):
        require(tool, shutil.which(tool) is not None, "apt install pulseaudio pulseaudio-utils")
    require("libportaudio2", find_library("portaudio") is not None, "apt install libportaudio2")
    plugins = [
        plugin
        for library in (Path("/usr/lib"), Path("/usr/lib64"))
        for plugin in library.glob("**/alsa-lib/libasound_module_pcm_pulse.so")
    ]
    require("ALSA's pulse plugin", bool(plugins), "apt install libasound2-plugins")


def write_tone(path: Path, *, hz: float, seconds: float, rate_hz: int = 48_000) -> Path:
    """A WAV file of one sine at half of full scale, 16 bits, mono."""
    phase = 2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((0.5 * 32767 * np.sin(phase)).astype("<i2").tobytes())
    return path


class PulseServer:
    """Runs from `start` to `stop`; may be started again, under the same socket.

    Args:
        directory: for all of its files; a short path, since its socket lies there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = directory / "native"
        self._alsa = directory / "asound.conf"
        self._alsa.write_text(_ALSA.format(socket=self._socket))
        self._script = directory / "server.pa"
        self._script.write_text(_CONFIGURATION.format(socket=self._socket))
        directory.chmod(0o700)
        self._server: subprocess.Popen[str] | None = None
        self._players: list[subprocess.Popen[bytes]] = []
        self._log = directory / "server.log"

    @property
    def environment(self) -> dict[str, str]:
        """For whoever is to hear and play here."""
        return {
            **os.environ,
            "HOME": str(self._directory),
            "XDG_RUNTIME_DIR": str(self._directory),
            "PULSE_RUNTIME_PATH": str(self._directory),
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": str(self._alsa),
        }

    def start(self) -> None:
        """Return once it answers."""
        self._socket.unlink(missing_ok=True)
        options = ("-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no")
        quiet = ("--disable-shm=yes", "--realtime=no", "--high-priority=no", "--log-level=info")
        self._server = subprocess.Popen(
            ["pulseaudio", *options, *quiet, "-F", str(self._script)],
            env=self.environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        said = self._server.stderr
        assert said is not None
        lines = []
        for line in said:
            lines.append(line)
            if "startup complete" in line:
                break
        else:
            raise RuntimeError("pulseaudio did not start:\n" + "".join(lines))
        self._drain(said)

    def play(self, path: Path) -> None:
        """Play a WAV file to the sink, beside what plays already."""
        self._players.append(
            subprocess.Popen(["paplay", "--latency-msec=20", str(path)], env=self.environment)
        )

    def control(self, *command: str) -> None:
        """Run one command of pactl."""
        subprocess.run(["pactl", *command], env=self.environment, check=True, timeout=30)

    def stop(self) -> None:
        """Kill it and whatever plays: the cable that is pulled."""
        for player in self._players:
            player.kill()
            player.wait(30)
        self._players.clear()
        if self._server is not None:
            self._server.kill()
            self._server.wait(30)
            if self._server.stderr is not None:
                self._server.stderr.close()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _drain(self, said: IO[str]) -> None:
        """What it says later is not read; a pipe that is full would stop it."""
        os.set_blocking(said.fileno(), False)
