"""Presentation times of a media file made fit for the session timeline (pure)."""

from __future__ import annotations

from typing import Final

from counterpoint.streams.types import NS_PER_S

MAX_STEP_BACK_NS: Final = NS_PER_S
"""A timestamp further back than this is a jump, not disorder."""
MAX_GAP_NS: Final = 60 * NS_PER_S
"""Without a known end, a longer pause is taken for a wrong timestamp."""


class MediaTimeline:
    """Places the samples of one stream, never going back, and recovers from wrong timestamps.

    A sample without a timestamp follows the one before it. A timestamp that jumps back by more
    than `MAX_STEP_BACK_NS` (joined recordings start again at 0), or forward by more than that to
    beyond the end of the file, is wrong: the sample follows the one before it, and what comes
    after is shifted by as much. So one wrong timestamp costs nothing but itself.

    Args:
        known_end_ns: where the file ends in its own time, None if unknown.
    """

    def __init__(self, known_end_ns: int | None) -> None:
        self._known_end_ns = known_end_ns
        self._shift_ns = 0
        self._last_ns: int | None = None
        self.end_ns: int | None = None  # end of the last sample, None before the first
        self.repairs = 0

    def place(self, media_ns: int | None, length_ns: int) -> int:
        """Instant of the next sample in file time; not before the last one's.

        Args:
            media_ns: its presentation time, None if the file gives none.
            length_ns: how long it lasts.
        """
        if self._last_ns is None or self.end_ns is None:
            t_ns = 0 if media_ns is None else media_ns
        elif media_ns is None:
            t_ns = self.end_ns
        else:
            t_ns = media_ns + self._shift_ns
            if self._is_jump(t_ns, self._last_ns, self.end_ns):
                self.repairs += 1
                self._shift_ns = self.end_ns - media_ns
                t_ns = self.end_ns
            t_ns = max(t_ns, self._last_ns)
        self._last_ns = t_ns
        self.end_ns = t_ns + length_ns
        return t_ns

    def _is_jump(self, t_ns: int, last_ns: int, expected_ns: int) -> bool:
        if t_ns < last_ns - MAX_STEP_BACK_NS:
            return True
        if self._known_end_ns is None:
            return t_ns > expected_ns + MAX_GAP_NS
        return t_ns > max(expected_ns, self._known_end_ns) + MAX_STEP_BACK_NS
