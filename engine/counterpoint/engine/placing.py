"""Items as the aligner takes them: sound at the bundle's rate, on its grid."""

from __future__ import annotations

from counterpoint.engine.preprocess.resample import StreamResampler
from counterpoint.streams.types import AudioChunk, ClockUpdate, Item, Modality, SourceEnded, Tier


class Placing:
    """Stands between one session's sources and its aligner. Only sound is changed.

    Args:
        rate_hz: of the sound that is given.
    """

    def __init__(self, rate_hz: int) -> None:
        self._resampler = StreamResampler(rate_hz)
        self._epoch = 0

    @property
    def error_ns(self) -> int:
        """How far sound may lie from the instant that its source stated."""
        return self._resampler.placing_error_ns

    def place(self, item: Item) -> tuple[Item, ...]:
        """What to push in place of ``item``, in order: none or more items."""
        if isinstance(item, AudioChunk):
            return self._resampler.push(item)
        if isinstance(item, ClockUpdate) and item.modality is Modality.AUDIO:
            held: tuple[Item, ...] = ()
            if item.epoch > self._epoch:
                # What the filter still holds belongs before the break.
                self._epoch = item.epoch
                held = self._resampler.flush()
            if item.tier is not Tier.MEDIA:
                held += self._resampler.follow()
            return (*held, item)
        if isinstance(item, SourceEnded) and item.modality is Modality.AUDIO:
            return (*self._resampler.flush(), item)
        return (item,)
