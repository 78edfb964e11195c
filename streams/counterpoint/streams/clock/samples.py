"""Sound that comes without a break: its samples are counted, and its stamps say where they lie.

A stamp of each buffer alone would leave seams between them, a count alone would miss what the
device lost and how fast its crystal is. So media time is the count; the line from there to the
session's time goes through the least delayed of the stamps; and where all stamps of a while lie
behind it, sound was lost there, and the count is moved on.
"""

from __future__ import annotations

from typing import Final

from counterpoint.streams.clock.device import DeviceClock
from counterpoint.streams.clock.source_clock import SourceClock
from counterpoint.streams.types import NS_PER_S, ClockUpdate, Modality, Tier

# Whoever waits for the interpreter stamps late, once; what was lost is late from then on.
WINDOW_NS: Final = 200_000_000
LOST_NS: Final = 20_000_000
# Where the device itself says that something was lost.
SAID_LOST_NS: Final = 5_000_000


class SampleClock:
    """Session time for the buffers of one recording device.

    Begins by the device's stamps (tier device); once a buffer has none, it goes by arrivals.

    Args:
        source: whose clock.
        rate_hz: samples a second, as the device says.
    """

    def __init__(self, source: str, rate_hz: int) -> None:
        if rate_hz <= 0:
            raise ValueError(f"rate_hz must be positive, not {rate_hz}")
        self._rate_hz = rate_hz
        self._clock = SourceClock(source, Modality.AUDIO)
        self._stamps = DeviceClock()
        self._tier = Tier.DEVICE
        self._count = 0
        self._window_ns = 0  # media time at which it ends
        self._late_ns: int | None = None  # the least of the window
        self.gaps = 0
        """How often sound was found to be lost."""

    def buffer(
        self, samples: int, captured_ns: int | None, arrived_ns: int, *, lost: bool = False
    ) -> int:
        """A buffer came: session time of its first sample.

        Args:
            samples: how many it has.
            captured_ns: session time of its first sample by the device's stamp; None without one.
            arrived_ns: session time at which it came.
            lost: the device says that it lost sound before this buffer.
        """
        if captured_ns is None and self._tier is Tier.DEVICE:
            self._tier = Tier.ARRIVAL
            self._stamps = DeviceClock()
            self._clock.offer(Tier.DEVICE, None)
            self._begin_window()
        if self._tier is Tier.ARRIVAL or captured_ns is None:
            captured_ns = arrived_ns - samples * NS_PER_S // self._rate_hz
        self._skip_lost(captured_ns, said=lost and self._tier is Tier.DEVICE)
        media_ns = self._media_ns
        self._stamps.add(media_ns, captured_ns)
        self._clock.offer(self._tier, self._stamps.line, self._stamps.error_ns)
        self._count += samples
        return self._clock.map(media_ns)

    def take_update(self) -> ClockUpdate | None:
        """What to say before the buffer mapped last, or None if nothing of weight changed."""
        return self._clock.take_update()

    @property
    def _media_ns(self) -> int:
        return self._count * NS_PER_S // self._rate_hz

    def _begin_window(self) -> None:
        self._window_ns = self._media_ns + WINDOW_NS
        self._late_ns = None

    def _skip_lost(self, captured_ns: int, *, said: bool) -> None:
        line = self._stamps.line
        if line is None:
            return self._begin_window()
        late_ns = captured_ns - line.at(self._media_ns)
        self._late_ns = late_ns if self._late_ns is None else min(self._late_ns, late_ns)
        if said and late_ns > SAID_LOST_NS:
            self._skip(late_ns)
        elif self._media_ns >= self._window_ns:
            if self._late_ns > LOST_NS:
                self._skip(self._late_ns)
            else:
                self._begin_window()
        return None

    def _skip(self, lost_ns: int) -> None:
        self._count += lost_ns * self._rate_hz // NS_PER_S
        self.gaps += 1
        self._begin_window()
