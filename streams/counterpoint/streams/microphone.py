"""A microphone of this machine through PortAudio (sounddevice).

All use of sounddevice is in this module. It is imported when a microphone is asked for, since
without the system's PortAudio its import fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from counterpoint.streams.clock import seconds_to_ns
from counterpoint.streams.clock.samples import SampleClock
from counterpoint.streams.errors import SourceError, UnavailableError
from counterpoint.streams.feed import Feed
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import NS_PER_S, AudioChunk, DropCounter, Modality

log = logging.getLogger(__name__)

DEFAULT: Final = "default"
BLOCKS_PER_S: Final = 50
MAX_CHANNELS: Final = 2
OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 3.0
# PulseAudio may take two seconds to change to a short latency.
FIRST_NS: Final = 5 * NS_PER_S
STALL_NS: Final = NS_PER_S
LOOK_NS: Final = NS_PER_S // 4
# How old or how new a stamp may be; beyond, it means something else.
MAX_AGE_NS: Final = 2 * NS_PER_S
MAX_AHEAD_NS: Final = 20_000_000
OVERFLOW: Final = "input overflow"
SOUND_LOST: Final = "sound lost by the device"
# PortAudio is one for the whole process, and is not safe to call from two threads.
LANE: Final = "portaudio"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMicrophone:
    """A microphone as PortAudio lists it.

    Fields:
        index: its number, which may be another one after a device was plugged in or out.
        name: as PortAudio calls it.
        host: by which system of sound (ALSA, Core Audio, WASAPI).
        rate_hz: samples a second by default.
        channels: how many it has.
        default: whether it is the one to take if none is named.
    """

    index: int
    name: str
    host: str
    rate_hz: int
    channels: int
    default: bool


def load_portaudio() -> Any:
    """The module sounddevice, PortAudio initialised. Blocking.

    Raises:
        UnavailableError: the system has no PortAudio.
    """
    try:
        import sounddevice
    except (OSError, ImportError) as error:
        raise UnavailableError(
            "no microphone without PortAudio; install it: apt install libportaudio2, "
            "dnf install portaudio or brew install portaudio"
        ) from error
    return sounddevice


def microphones(library: Any) -> tuple[FoundMicrophone, ...]:
    """All that can be recorded from, by number.

    Args:
        library: of `load_portaudio`.
    """
    hosts = library.query_hostapis()
    default = library.default.device[0]
    if default < 0 and hosts:
        default = hosts[library.default.hostapi]["default_input_device"]
    return tuple(
        FoundMicrophone(
            index=index,
            name=str(device["name"]),
            host=str(hosts[device["hostapi"]]["name"]),
            rate_hz=round(device["default_samplerate"]),
            channels=int(device["max_input_channels"]),
            default=index == default,
        )
        for index, device in enumerate(library.query_devices())
        if device["max_input_channels"] > 0
    )


def choose(found: tuple[FoundMicrophone, ...], device: str) -> FoundMicrophone:
    """The microphone that ``device`` names: ``default``, a number, or (a part of) a name.

    Where several systems of sound list the same name, the one of the default microphone counts.

    Raises:
        UnavailableError: there is none, or several are meant.
    """
    see = "counterpoint devices lists them"
    names = ", ".join(f"{m.index} {m.name}" for m in found) or "none"
    if device == DEFAULT:
        chosen = [m for m in found if m.default] or list(found[:1])
        if not chosen:
            raise UnavailableError(f"no microphone on this machine; plug one in; {see}")
        return chosen[0]
    if device.isdecimal():
        chosen = [m for m in found if m.index == int(device)]
    else:
        wanted = device.casefold()
        chosen = [m for m in found if m.name.casefold() == wanted] or [
            m for m in found if wanted in m.name.casefold()
        ]
        host = next((m.host for m in found if m.default), None)
        chosen = [m for m in chosen if m.host == host] or chosen
    if not chosen:
        raise UnavailableError(f"no microphone {device} (found: {names}); {see}")
    if len(chosen) > 1:
        several = ", ".join(f"{m.index} {m.name}" for m in chosen)
        raise UnavailableError(f"microphone {device} may be any of {several}; give its number")
    return chosen[0]


class Microphone:
    """Sound of one microphone, mono, at the device's own rate, stamped by its ADC.

    Each buffer's instant is PortAudio's ``inputBufferAdcTime`` (tier device). Where a system of
    sound gives none it is the arrival of its end less its length (tier arrival).

    A microphone that was plugged in after PortAudio began is seen only when PortAudio begins anew,
    which happens on each `run` while no other microphone of this process is open.

    Args:
        device: ``default``, a number or a part of a name; with or without ``mic:`` before it.
        name: of the source; by default ``mic:`` and the device.
        library: gives the module sounddevice; for tests.
    """

    modalities: Final = frozenset({Modality.AUDIO})

    def __init__(
        self,
        device: str,
        runtime: Runtime,
        *,
        name: str | None = None,
        library: Callable[[], Any] = load_portaudio,
    ) -> None:
        self.device = device.removeprefix("mic:") or DEFAULT
        self.name = name or f"mic:{self.device}"
        self.drops = DropCounter()
        self._runtime = runtime
        self._library = library

    async def run(self, feed: Feed) -> None:
        """Give sound until cancelled.

        Raises:
            UnavailableError: no PortAudio, no such microphone, or something else uses it.
            SourceError: it was unplugged, or gives no sound any more.
        """
        listener = _Listener(self.name, self._runtime, feed, self.drops)
        stream = _Stream(self.name, self.device, self._library, listener)
        try:
            await self._in_lane(stream.open, OPEN_TIMEOUT_S)
            await self._watch(listener)
        finally:
            # Also where opening was given up: then it is closed as soon as it has come about.
            listener.left = True
            await self._close(stream)

    async def _in_lane(self, call: Callable[[], None], timeout_s: float) -> None:
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                await self._runtime.lane(LANE).submit(call)
        except TimeoutError as error:
            raise SourceError(
                f"{self.name}: PortAudio gives no answer within {timeout_s:g} s; "
                f"check the system's sound server"
            ) from error

    async def _close(self, stream: _Stream) -> None:
        try:
            await self._in_lane(stream.close, CLOSE_TIMEOUT_S)
        except SourceError as error:
            # What broke off first is what counts, and a cancellation goes on.
            log.warning("not closed: %s", error)

    async def _watch(self, listener: _Listener) -> None:
        begun_ns = self._runtime.now_ns()
        while True:
            now_ns = self._runtime.now_ns()
            if listener.finished:
                raise SourceError(f"{self.name}: its stream ended; plug it in again")
            last_ns = listener.last_ns
            since_ns = now_ns - (begun_ns if last_ns is None else last_ns)
            if since_ns >= (FIRST_NS if last_ns is None else STALL_NS):
                raise SourceError(
                    f"{self.name}: gives no sound for {since_ns / NS_PER_S:.1f} s; "
                    f"plug it in again, or check the system's sound server"
                )
            await self._runtime.sleep_until(now_ns + LOOK_NS)


class _Stream:
    """PortAudio's stream of one run. All calls in the lane."""

    # How many are open in this process: PortAudio may begin anew while there is none.
    _open_streams = 0

    def __init__(
        self, name: str, device: str, library: Callable[[], Any], listener: _Listener
    ) -> None:
        self._name = name
        self._device = device
        self._library = library
        self._listener = listener
        self._stream: Any = None

    def open(self) -> None:
        library = self._library()
        try:
            if _Stream._open_streams == 0:
                # sounddevice has no public way to see devices that were plugged in since.
                if library._initialized:  # noqa: SLF001
                    library._terminate()  # noqa: SLF001
                library._initialize()  # noqa: SLF001
            found = choose(microphones(library), self._device)
            channels = min(found.channels, MAX_CHANNELS)
            self._listener.begin(found.rate_hz)
            stream = library.InputStream(
                device=found.index,
                samplerate=found.rate_hz,
                channels=channels,
                dtype="float32",
                blocksize=found.rate_hz // BLOCKS_PER_S,
                latency="low",
                callback=self._listener.hear,
                finished_callback=self._listener.finish,
            )
        except library.PortAudioError as error:
            raise UnavailableError(
                f"{self._name} cannot be opened ({_first_line(error)}); end what else uses it; "
                f"counterpoint devices lists microphones"
            ) from error
        self._stream = stream
        _Stream._open_streams += 1
        try:
            stream.start()
        except library.PortAudioError as error:
            raise SourceError(
                f"{self._name} cannot be started ({_first_line(error)}); plug it in again"
            ) from error
        if self._listener.left:
            self.close()

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        _Stream._open_streams -= 1
        stream.close(ignore_errors=True)


class _Listener:
    """What PortAudio's own thread calls. It never waits, and touches nothing but the feed."""

    def __init__(self, name: str, runtime: Runtime, feed: Feed, drops: DropCounter) -> None:
        self._name = name
        self._runtime = runtime
        self._feed = feed
        self._drops = drops
        self._rate_hz = 0
        self._clock: SampleClock | None = None
        self._sequence = 0
        self._adc_s = 0.0
        self._stamped = True
        self.last_ns: int | None = None
        """When a buffer came last, by the runtime's clock."""
        self.finished = False
        """PortAudio says that nothing will come any more."""
        self.left = False
        """Told by the owner: hand nothing over any more."""

    def begin(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._clock = SampleClock(self._name, rate_hz)

    def finish(self) -> None:
        self.finished = True

    def hear(self, samples: npt.NDArray[np.float32], count: int, times: Any, status: Any) -> None:
        """PortAudio's callback: (count, channels) float32, of which nothing is kept."""
        now_ns = self._runtime.now_ns()
        clock = self._clock
        if self.left or clock is None or count == 0:
            return
        self.last_ns = now_ns
        lost = bool(status.input_overflow)
        if lost:
            self._drops.add(OVERFLOW)
        age_ns = self._age_ns(times.inputBufferAdcTime, times.currentTime)
        captured_ns = None if age_ns is None else self._feed.session_ns(now_ns - age_ns)
        gaps = clock.gaps
        t_ns = clock.buffer(count, captured_ns, self._feed.session_ns(now_ns), lost=lost)
        if clock.gaps > gaps:
            self._drops.add(SOUND_LOST)
        if (update := clock.take_update()) is not None:
            self._feed.put(update)
        mono = np.clip(samples.mean(axis=1, dtype=np.float32), -1.0, 1.0)
        self._feed.put(
            AudioChunk(
                source=self._name,
                t_ns=t_ns,
                samples=mono,
                rate_hz=self._rate_hz,
                sequence=self._sequence,
            )
        )
        self._sequence += 1

    def _age_ns(self, adc_s: float, current_s: float) -> int | None:
        """How long ago the first sample was taken, by PortAudio's clock, whichever that is.

        Its two times are of one clock and one instant, so no step of that clock comes between.
        None, from then on, where it does not tell: it stands at 0, or still, or makes no sense.
        """
        if self._stamped:
            told = 0 < adc_s < float("inf") and 0 < current_s < float("inf")
            age_ns = seconds_to_ns(current_s - adc_s) if told else -1
            if told and adc_s != self._adc_s and -MAX_AHEAD_NS <= age_ns <= MAX_AGE_NS:
                self._adc_s = adc_s
                return max(0, age_ns)
            self._stamped = False
            log.info("%s: no usable ADC time; its sound is placed by arrival", self._name)
        return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
