"""A recorded media file as a source: what a live camera and microphone would have given."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from counterpoint.streams.errors import SourceError
from counterpoint.streams.merge import MergedSource
from counterpoint.streams.pyav import MediaTrack, open_track
from counterpoint.streams.types import DropCounter, Modality, Step

log = logging.getLogger(__name__)


class MediaFileSource:
    """Pictures and sound of one file, decoded as they are needed, released as if live.

    Time 0 is the first presentation instant over the chosen streams, the same for both, so that
    a start offset of one stream against the other is kept. A picture is released at its own
    instant, a run of sound at its end.

    What cannot be decoded is skipped and counted. A modality whose data break off ends there
    with `SourceEnded.error`; the other one goes on. So `step` never raises once a file is open.

    Args:
        path: a file that PyAV (FFmpeg) opens.
        video, audio: which modalities are wanted. One that the file lacks is left out.
        require: the modalities without which the file is of no use. A single one that is wanted
            is required anyway.
        name: name of the source within its session; by default the name of the file.

    Raises:
        UsageError: there is no such file.
        SourceError: the file cannot be opened, or lacks what is wanted.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        video: bool = True,
        audio: bool = True,
        require: frozenset[Modality] = frozenset(),
        name: str | None = None,
    ) -> None:
        wanted = [m for m, on in ((Modality.VIDEO, video), (Modality.AUDIO, audio)) if on]
        if not wanted or not require <= set(wanted):
            raise ValueError("ask for video, audio or both, and for all that is required")
        self.path = Path(path)
        self.name = self.path.name if name is None else name
        self._duration_ns: int | None = None
        self._tracks: list[MediaTrack] = []
        try:
            self._open(wanted)
            self._check_found(wanted, require)
            self._set_origin()
        except BaseException:
            self.close()
            raise
        self._merged = MergedSource(self._tracks)

    def _open(self, wanted: list[Modality]) -> None:
        for modality in wanted:
            # Each through a container of its own: so the look-ahead is one decoded picture and
            # one decoded run of sound however the file interleaves them.
            track, duration_ns = open_track(self.path, modality, self.name)
            if track is not None:
                self._tracks.append(track)
            if duration_ns is not None:
                self._duration_ns = duration_ns

    def _check_found(self, wanted: list[Modality], require: frozenset[Modality]) -> None:
        missing = [m for m in wanted if m not in self.modalities]
        if len(missing) == len(wanted):
            raise SourceError(
                f"{self.path}: there is no {' and no '.join(missing)} in this file; "
                f"give a file that has some"
            )
        for modality in missing:
            if modality in require:
                raise SourceError(
                    f"{self.path}: there is no {modality} in this file; "
                    f"give a file that has some, or --{modality} none"
                )
            log.info("%s: no %s in this file", self.path, modality)

    def _set_origin(self) -> None:
        starts = [start for track in self._tracks if (start := track.start_ns()) is not None]
        if not starts:
            raise SourceError(
                f"{self.path}: nothing in this file can be decoded; "
                f"it is damaged, make it again or give another one"
            )
        for track in self._tracks:
            track.origin_ns = min(starts)

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset(track.modality for track in self._tracks)

    @property
    def duration_ns(self) -> int | None:
        """Length that the file declares or FFmpeg estimates; None if neither knows."""
        return self._duration_ns

    @property
    def drops(self) -> DropCounter:
        """What was skipped since the start, by reason: damaged packets and pictures."""
        drops = DropCounter()
        for track in self._tracks:
            for reason, count in track.drops.by_reason.items():
                drops.add(reason, count)
        return drops

    @property
    def decode_errors(self) -> int:
        """How many packets and pictures were skipped because they are damaged."""
        return self.drops.total

    @property
    def timestamp_repairs(self) -> int:
        """How many timestamps were found wrong (`MediaTimeline`)."""
        return sum(track.time.repairs for track in self._tracks)

    def step(self, now_ns: int) -> Step:
        """What is released up to ``now_ns``, at most `MAX_ITEMS_PER_STEP` items. Blocking."""
        return self._merged.step(now_ns)

    def close(self) -> None:
        """Close the file. Not while a step runs in another thread."""
        for track in self._tracks:
            track.close()
