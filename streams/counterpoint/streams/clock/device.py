"""A device's own clock: PortAudio's ADC time, or a camera's capture time."""

from __future__ import annotations

from counterpoint.streams.clock.envelope import Envelope
from counterpoint.streams.clock.line import Line
from counterpoint.streams.types import NS_PER_S


def seconds_to_ns(seconds: float) -> int:
    """A device's time in seconds as nanoseconds; a float holds it to a microsecond for a century.

    Raises:
        ValueError: the time is not finite.
    """
    if not abs(seconds) < float("inf"):
        raise ValueError(f"a device's time must be finite, not {seconds}")
    whole = int(seconds)
    return whole * NS_PER_S + round((seconds - whole) * NS_PER_S)


class DeviceClock:
    """From a device's time to the session's, by the least delayed of its buffers.

    Where the driver tells its own clock beside the capture time (PortAudio's ``currentTime``), pair
    that with the session's now: the read-out is then known. Where it does not, pair the capture
    time with the arrival less ``readout_ns``, the least time from capture to arrival.

    A device that gives no time at all has only its arrivals: `without_stamp`.
    """

    def __init__(self, *, readout_ns: int = 0) -> None:
        if readout_ns < 0:
            raise ValueError(f"readout_ns must not be negative, not {readout_ns}")
        self._readout_ns = readout_ns
        self._envelope = Envelope()

    @property
    def line(self) -> Line | None:
        """From the device's time to the session's; None before the first pair."""
        return self._envelope.line

    @property
    def error_ns(self) -> int:
        return self._envelope.error_ns

    def add(self, device_ns: int, now_ns: int) -> bool:
        """A pair of both clocks. True if the line is another now."""
        return self._envelope.add(device_ns, now_ns - self._readout_ns)

    def without_stamp(self, arrived_ns: int) -> int:
        """Capture instant of what has no time of its own: its arrival less the read-out."""
        return max(0, arrived_ns - self._readout_ns)
