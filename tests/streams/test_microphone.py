"""`Microphone`: a real sound server, and by a double what no machine here has."""

from __future__ import annotations

import asyncio
import base64
import builtins
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from counterpoint.streams.errors import SourceError, UnavailableError
from counterpoint.streams.feed import LiveSource
from counterpoint.streams.microphone import (
    OVERFLOW,
    SOUND_LOST,
    FoundMicrophone,
    Microphone,
    choose,
    load_portaudio,
)
from counterpoint.streams.types import NS_PER_S, AudioChunk, ClockUpdate, Tier
from tests.support.feeds import KeepingFeed
from tests.support.pulse import PulseServer, require_pulseaudio, write_tone
from tests.support.virtual import VirtualRuntime

MS = 1_000_000
ROOT = Path(__file__).parents[2]

# -- a real sound server ---------------------------------------------------------------------------


class Listening:
    """`tests.support.listen` in a process of its own, line by line."""

    def __init__(self, server: PulseServer, device: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.listen", device],
            cwd=ROOT,
            env=server.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # PortAudio's own lines when its server is killed
            text=True,
        )

    def begin(self) -> None:
        """Run the microphone (again)."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says, until it is killed; pytest's own timeout ends what does not come."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)

    def error(self) -> dict[str, Any]:
        """The next error; sound before it is passed over."""
        return next(line for line in self.lines() if line["what"] == "error")

    def steady(self, count: int) -> list[dict[str, Any]]:
        """The first ``count`` chunks that follow one another without a seam of 3 ms."""
        chunks: list[dict[str, Any]] = []
        for line in self.lines():
            assert line["what"] != "error", line
            if line["what"] != "chunk":
                continue
            if chunks and abs(line["t_ns"] - chunks[-1]["end_ns"]) > 3 * MS:
                chunks.clear()
            chunks.append(line)
            if len(chunks) == count:
                return chunks
        raise AssertionError("it ended")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def listening(server: PulseServer, device: str) -> Iterator[Listening]:
    listener = Listening(server, device)
    try:
        yield listener
    finally:
        listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PulseServer]:
    require_pulseaudio()
    with PulseServer(tmp_path) as server:
        yield server


def loudest_hz(chunks: list[dict[str, Any]]) -> tuple[float, float]:
    """Where the spectrum is highest, and the root mean square."""
    parts = [base64.b64decode(chunk["samples"]) for chunk in chunks]
    sound = np.concatenate([np.frombuffer(part, np.float32) for part in parts])
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    hz = np.fft.rfftfreq(len(sound), 1 / chunks[0]["rate_hz"])[int(spectrum.argmax())]
    return float(hz), float(np.sqrt(np.mean(sound**2)))


@pytest.mark.pulseaudio
def test_a_tone_is_heard_without_seams_by_the_devices_time(
    server: PulseServer, tmp_path: Path
) -> None:
    server.play(write_tone(tmp_path / "tone.wav", hz=1_000, seconds=60))
    with listening(server, "mic:default") as listener:
        listener.begin()
        clock = next(listener.lines())
        assert (clock["what"], clock["tier"], clock["epoch"]) == ("clock", "device", 0)
        # The first seconds go to the server, which is on its way to a short latency.
        listener.steady(50)
        chunks = listener.steady(100)
    hz, rms = loudest_hz(chunks)
    assert hz == pytest.approx(1_000, abs=2)
    assert rms == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    sequences = [chunk["sequence"] for chunk in chunks]
    assert sequences == list(range(sequences[0], sequences[0] + 100))
    times = [chunk["t_ns"] for chunk in chunks]
    assert times == sorted(set(times))
    for chunk in chunks:
        # Of the past, and not of long ago.
        assert 0 <= chunk["arrived_ns"] - chunk["t_ns"] < NS_PER_S


@pytest.mark.pulseaudio
def test_a_server_that_is_killed_and_started_again_is_survived(
    server: PulseServer, tmp_path: Path
) -> None:
    tone = write_tone(tmp_path / "tone.wav", hz=500, seconds=60)
    with listening(server, "default") as listener:
        listener.begin()
        listener.steady(10)
        server.stop()
        broken = listener.error()
        assert broken["code"] == 1
        assert "plug it in again" in broken["text"]
        listener.begin()
        gone = listener.error()
        assert gone["code"] == 3
        assert "counterpoint devices" in gone["text"]
        server.start()
        server.play(tone)
        listener.begin()
        # Until the player is under way there is silence.
        while (heard := loudest_hz(listener.steady(50)))[1] < 0.1:
            assert heard[1] == pytest.approx(0, abs=0.1)
    assert heard[0] == pytest.approx(500, abs=2)


@pytest.mark.pulseaudio
def test_a_server_that_hangs_is_told_as_such_and_by_a_part_of_its_name(
    server: PulseServer,
) -> None:
    with listening(server, "mic:boo") as listener:  # "booth" in its configuration
        listener.begin()
        listener.steady(10)
        server.control("suspend-sink", "room", "1")
        assert "mic:boo: gives no sound for" in listener.error()["text"]
        server.control("suspend-sink", "room", "0")
        listener.begin()
        listener.steady(10)


@pytest.mark.pulseaudio
def test_a_microphone_that_is_not_there_is_said_with_those_that_are(server: PulseServer) -> None:
    with listening(server, "mic:nonesuch") as listener:
        listener.begin()
        error = listener.error()
    assert error["code"] == 3
    assert error["text"].startswith("no microphone nonesuch (found: ")
    assert "booth" in error["text"]


# -- without PortAudio -----------------------------------------------------------------------------


def test_without_portaudio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "sounddevice":
            raise OSError("PortAudio library not found")
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnavailableError, match="apt install libportaudio2") as raised:
        load_portaudio()
    assert raised.value.exit_code == 3
    runtime = VirtualRuntime()
    with pytest.raises(UnavailableError, match="libportaudio2"):
        runtime.run(Microphone("default", runtime).run(KeepingFeed(runtime)))


# -- which one -------------------------------------------------------------------------------------


def _found(*names: str, hosts: tuple[str, ...] = (), default: int = 0) -> Any:
    return tuple(
        FoundMicrophone(
            index=2 * i,
            name=name,
            host=hosts[i] if hosts else "ALSA",
            rate_hz=48_000,
            channels=1,
            default=i == default,
        )
        for i, name in enumerate(names)
    )


DESK = _found("Built-in", "Desk USB: Audio (hw:1,0)", "Head USB: Audio (hw:2,0)", "USB", default=1)


@pytest.mark.parametrize(
    ("device", "index"),
    [
        ("default", 2),
        ("4", 4),
        ("built-in", 0),
        ("desk", 2),
        ("usb", 6),  # the whole of a name before a part of others
        ("HEAD usb", 4),
    ],
)
def test_a_microphone_is_named_by_number_or_by_name(device: str, index: int) -> None:
    assert choose(DESK, device).index == index


def test_of_one_name_in_several_systems_of_sound_the_defaults_counts() -> None:
    found = _found("Desk", "Desk", "Other", hosts=("MME", "WASAPI", "WASAPI"), default=2)
    assert choose(found, "desk").index == 2
    assert choose(found, "0").index == 0


def test_a_name_that_means_several_or_none_is_an_error_that_says_which() -> None:
    with pytest.raises(UnavailableError) as several:
        choose(DESK, "audio")
    assert str(several.value) == (
        "microphone audio may be any of 2 Desk USB: Audio (hw:1,0), "
        "4 Head USB: Audio (hw:2,0); give its number"
    )
    with pytest.raises(UnavailableError, match=r"no microphone 3 \(found: 0 Built-in, 2 Desk"):
        choose(DESK, "3")
    with pytest.raises(UnavailableError, match="no microphone on this machine"):
        choose((), "default")
    with pytest.raises(UnavailableError, match=r"no microphone 0 \(found: none\)"):
        choose((), "0")


# -- by a double -----------------------------------------------------------------------------------


class Status:
    def __init__(self, overflow: bool = False) -> None:
        self.input_overflow = overflow


class Times:
    def __init__(self, adc_s: float, current_s: float) -> None:
        self.inputBufferAdcTime = adc_s
        self.currentTime = current_s


class FakeStream:
    def __init__(self, library: FakePortAudio, **options: Any) -> None:
        if library.refuses:
            raise library.PortAudioError("Device unavailable [PaErrorCode -9985]")
        self.options = options
        self.library = library
        self.closed = 0
        library.streams.append(self)

    def start(self) -> None:
        self.library.on_start()

    def close(self, *, ignore_errors: bool) -> None:
        self.closed += 1


class FakePortAudio:
    """The part of sounddevice that is used; it sees only what was plugged in when it began."""

    class PortAudioError(Exception):
        pass

    class default:  # noqa: N801 - sounddevice's name
        device = (-1, -1)
        hostapi = 0

    def __init__(self) -> None:
        self.plugged = [self._device("Desk", 48_000.0, 2)]
        self._seen = list(self.plugged)
        self._initialized = 1
        self.begun = 0
        self.refuses = False
        self.streams: list[FakeStream] = []
        self.on_start: Callable[[], None] = lambda: None

    @staticmethod
    def _device(name: str, rate: float, channels: int) -> dict[str, Any]:
        return {
            "name": name,
            "hostapi": 0,
            "default_samplerate": rate,
            "max_input_channels": channels,
        }

    def plug(self, name: str, *, channels: int = 1) -> None:
        self.plugged.append(self._device(name, 16_000.0, channels))

    def query_devices(self) -> list[dict[str, Any]]:
        return self._seen

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "ALSA", "default_input_device": 0 if self._seen else -1}]

    def InputStream(self, **options: Any) -> FakeStream:
        return FakeStream(self, **options)

    def _terminate(self) -> None:
        self._initialized -= 1

    def _initialize(self) -> None:
        self._initialized += 1
        self._seen = list(self.plugged)
        self.begun += 1


class Session:
    """One microphone on a double, driven buffer by buffer."""

    def __init__(self, runtime: VirtualRuntime, library: FakePortAudio, device: str = "0") -> None:
        self.runtime = runtime
        self.library = library
        self.feed = KeepingFeed(runtime)
        self.microphone = Microphone(device, runtime, name="mic", library=lambda: library)
        self.adc_s = 1_000.0

    async def __aenter__(self) -> Self:
        self.running = asyncio.ensure_future(self.microphone.run(self.feed))
        await self.runtime.settle()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.running.cancel()
        await asyncio.wait({self.running})

    async def error(self) -> str:
        with pytest.raises(SourceError) as raised:
            await self.runtime.drive(self.running)
        return str(raised.value)

    async def buffer(
        self,
        *,
        adc_s: float | None = None,
        current_s: float | None = None,
        overflow: bool = False,
        skip_ns: int = 0,
        samples: np.ndarray[Any, Any] | None = None,
    ) -> None:
        """Let 20 ms pass, and hand the sound of it over."""
        await self.runtime.advance_to(self.runtime.now_ns() + 20 * MS + skip_ns)
        self.adc_s += 0.02 + skip_ns / NS_PER_S
        options = self.library.streams[-1].options
        count = options["blocksize"]
        if samples is None:
            samples = np.full((count, options["channels"]), 0.25, np.float32)
        times = Times(
            self.adc_s if adc_s is None else adc_s,
            self.adc_s + 0.025 if current_s is None else current_s,
        )
        options["callback"](samples, count, times, Status(overflow))

    @property
    def chunks(self) -> list[AudioChunk]:
        return self.feed.of(AudioChunk)


def test_sound_is_mono_at_the_devices_rate_and_placed_by_its_adc() -> None:
    async def main() -> None:
        async with Session(VirtualRuntime(), FakePortAudio()) as session:
            assert isinstance(session.microphone, LiveSource)
            options = session.library.streams[-1].options
            assert options["samplerate"] == 48_000
            assert options["channels"] == 2
            assert options["dtype"] == "float32"
            samples = np.tile(np.array([0.5, -0.1], np.float32), (960, 1))
            await session.buffer(samples=samples, skip_ns=100 * MS)
            samples[:] = 3.0  # PortAudio uses its buffers again
            for _ in range(9):
                await session.buffer()
            first, *others = session.chunks
            assert np.allclose(first.samples, 0.2)
            assert first.rate_hz == 48_000
            # Its first sample was taken 25 ms before it came, 120 ms after the start.
            assert first.t_ns == 95 * MS
            ends = [chunk.end_ns for chunk in session.chunks]
            assert [chunk.t_ns for chunk in others] == ends[:-1]
            (update,) = session.feed.of(ClockUpdate)
            assert update.tier is Tier.DEVICE
            assert session.feed.arrivals[0][1] is update
            assert [chunk.sequence for chunk in session.chunks] == list(range(10))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "adc", "current"),
    [
        ("zero", 0.0, 1_000.0),
        ("still", 1_000.0, 1_000.02),
        ("no current time", 1_000.0, 0.0),
        ("an age that makes no sense", 1_000.0, 2_000.0),
        ("not a number", float("nan"), 1_000.0),
    ],
)
def test_without_usable_adc_time_sound_is_placed_by_arrival_and_that_is_stated(
    name: str, adc: float, current: float
) -> None:
    async def main() -> None:
        async with Session(VirtualRuntime(), FakePortAudio()) as session:
            for _ in range(10):
                await session.buffer(adc_s=adc, current_s=current)
            assert session.feed.of(ClockUpdate)[-1].tier is Tier.ARRIVAL
            # It came when its end was due, at the earliest.
            assert [chunk.t_ns for chunk in session.chunks] == [20 * MS * i for i in range(10)]

    asyncio.run(main())


def test_an_overflow_is_counted_and_what_was_lost_is_a_gap_in_time() -> None:
    async def main() -> None:
        async with Session(VirtualRuntime(), FakePortAudio()) as session:
            for _ in range(20):
                await session.buffer()
            await session.buffer(overflow=True, skip_ns=40 * MS)
            await session.buffer()
            before, lost, after = session.chunks[-3:]
            assert lost.t_ns - before.end_ns == pytest.approx(40 * MS, abs=MS)
            assert after.t_ns == pytest.approx(lost.end_ns, abs=MS)
            assert session.microphone.drops.by_reason == {OVERFLOW: 1, SOUND_LOST: 1}

    asyncio.run(main())


def test_a_stream_that_ends_or_falls_silent_breaks_off() -> None:
    async def ended() -> None:
        async with Session(VirtualRuntime(), FakePortAudio()) as session:
            await session.buffer()
            session.library.streams[-1].options["finished_callback"]()
            assert await session.error() == "mic: its stream ended; plug it in again"
            assert session.library.streams[-1].closed == 1

    async def stalled() -> None:
        async with Session(VirtualRuntime(), FakePortAudio()) as session:
            for _ in range(100):
                await session.buffer()
            begun_ns = session.runtime.now_ns()
            assert "gives no sound for" in await session.error()
            assert NS_PER_S <= session.runtime.now_ns() - begun_ns <= 1.25 * NS_PER_S
            assert session.library.streams[-1].closed == 1

    async def never_began() -> None:
        async with Session(VirtualRuntime(), FakePortAudio()) as session:
            assert "gives no sound for 5.0 s" in await session.error()

    for case in (ended, stalled, never_began):
        asyncio.run(case())


def test_after_it_was_left_nothing_is_put_any_more() -> None:
    async def main() -> None:
        async with Session(VirtualRuntime(), FakePortAudio()) as session:
            await session.buffer()
        put = len(session.feed.arrivals)
        await session.buffer()  # a callback that was under way
        assert len(session.feed.arrivals) == put
        assert session.library.streams[-1].closed == 1

    asyncio.run(main())


def test_what_was_plugged_in_since_is_seen_while_no_microphone_is_open() -> None:
    async def main() -> None:
        runtime, library = VirtualRuntime(), FakePortAudio()
        with pytest.raises(UnavailableError, match="no microphone head"):
            async with Session(runtime, library, "head") as session:
                await runtime.drive(session.running)
        async with Session(runtime, library) as desk:
            library.plug("Head")
            begun = library.begun
            # PortAudio does not begin anew under an open stream.
            with pytest.raises(UnavailableError, match="no microphone head"):
                async with Session(runtime, library, "head") as session:
                    await runtime.drive(session.running)
            assert library.begun == begun
            await desk.buffer()
            assert len(desk.chunks) == 1
        async with Session(runtime, library, "head") as session:
            await session.buffer()
            assert session.chunks[0].rate_hz == 16_000
        assert library._initialized == 1

    asyncio.run(main())


def test_a_microphone_in_use_is_unavailable_and_one_that_does_not_start_is_closed() -> None:
    async def main() -> None:
        runtime, library = VirtualRuntime(), FakePortAudio()
        library.refuses = True
        with pytest.raises(UnavailableError, match="end what else uses it"):
            await runtime.drive(
                Microphone("0", runtime, library=lambda: library).run(KeepingFeed(runtime))
            )
        library.refuses = False

        def fails() -> None:
            raise library.PortAudioError("Unanticipated host error\nmore")

        library.on_start = fails
        async with Session(runtime, library) as session:
            assert await session.error() == (
                "mic cannot be started (Unanticipated host error); plug it in again"
            )
        assert library.streams[-1].closed == 1
        # Nothing counts as open any more, so PortAudio may begin anew.
        library.on_start = lambda: None
        begun = library.begun
        async with Session(runtime, library):
            assert library.begun == begun + 1

    asyncio.run(main())
