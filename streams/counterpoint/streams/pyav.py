"""Media files through PyAV (FFmpeg): one stream of a file, decoded as it is needed.

PyAV is used here, in `streams.pyav_frames`, `streams.network_media` and `streams.ffv1` only.
"""

from __future__ import annotations

import re
import stat
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame as AvVideoFrame
from av.video.stream import VideoStream

from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.media_time import MediaTimeline
from counterpoint.streams.merge import MAX_ITEMS_PER_STEP
from counterpoint.streams.pyav_frames import PlaneReader, mono, to_ns
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    DropCounter,
    Item,
    Modality,
    SourceEnded,
    Step,
    VideoFrame,
)

MAX_CHUNK_NS: Final = 32_000_000
"""Longer runs of decoded sound are cut evenly: a live source hands over 10 to 30 ms at a time."""
END_SLACK_NS: Final = NS_PER_S // 2
"""A file whose end comes earlier than declared by more than this breaks off."""

# Formats whose header states the duration; elsewhere FFmpeg guesses it from sizes and bit rates.
_DECLARING_FORMATS: Final = frozenset({"mov", "matroska", "avi", "wav", "flac", "flv", "asf"})
# FFmpeg takes any text file for the recording of a terminal.
_NOT_MEDIA: Final = frozenset({"tty"})
# A playlist on disk must not make the engine open network connections.
_OPEN_OPTIONS: Final = {"protocol_whitelist": "file"}

_Stream: TypeAlias = VideoStream | AudioStream
_Frame: TypeAlias = AvVideoFrame | AudioFrame


def open_track(path: Path, modality: Modality, name: str) -> tuple[MediaTrack | None, int | None]:
    """Open one stream of a file.

    Args:
        modality: video or audio.
        name: the `source` that its samples carry.

    Returns:
        The track, None if the file has none of that modality; and how long the file is, as
        declared or estimated, None if unknown.

    Raises:
        UsageError: there is no such file.
        SourceError: the file cannot be opened.
    """
    container = _open_container(path)
    duration_ns = None if container.duration is None else container.duration * 1000
    stream = _choose_stream(container, modality)
    if stream is None:
        container.close()
        return None, duration_ns
    return MediaTrack(container, stream, modality, name), duration_ns


class MediaTrack:
    """One stream of a file as a source, with a demuxer and a decoder of its own.

    What cannot be decoded is skipped and counted in `drops`. Set `origin_ns`, the instant in file
    time that is 0 in the session, before the first step.
    """

    def __init__(
        self, container: InputContainer, stream: _Stream, modality: Modality, name: str
    ) -> None:
        self.modality = modality
        self.origin_ns = 0
        self.drops = DropCounter()
        self.time = MediaTimeline(_declared_end_ns(container))
        self._name = name
        self._container = container
        self._stream = stream
        # One thread: frame threads would decode ahead, and damage is concealed the same always.
        stream.codec_context.thread_count = 1
        self._planes = PlaneReader()
        self._reached_ns = 0  # the furthest that any packet of the file got, in file time
        self._broken: str | None = None
        self._last_is_torn = False  # the last packet of the stream is only partly there
        self._sequence = 0
        self._ready: deque[tuple[int, Item]] = deque()  # of one decoded frame
        self._ended = False
        self._frames = self._decode()
        self._first = next(self._frames, None)

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset({self.modality})

    def start_ns(self) -> int | None:
        """Instant of the first sample in file time, None if there is no sample."""
        if self._first is None:
            return None
        return to_ns(self._first.pts, self._first.time_base) or 0

    def step(self, now_ns: int) -> Step:
        """What is released up to ``now_ns``: pictures at their instant, sound at its end."""
        items: list[tuple[int, Item]] = []
        self._read_on()
        while self._ready and self._ready[0][0] <= now_ns and len(items) < MAX_ITEMS_PER_STEP:
            items.append(self._ready.popleft())
            self._read_on()
        return Step(items=tuple(items), next_wake_ns=self._ready[0][0] if self._ready else None)

    def close(self) -> None:
        """Close the file. Not while a step runs in another thread."""
        self._ended = True
        self._ready.clear()
        self._frames.close()
        self._container.close()

    def _read_on(self) -> None:
        """Have the next item ready, unless there is none."""
        if self._ready or self._ended:
            return
        frame, self._first = self._first, None
        if frame is None:
            frame = next(self._frames, None)
        if frame is None:
            self._ended = True
            end_ns = max(0, (self.time.end_ns or 0) - self.origin_ns)
            ended = SourceEnded(
                source=self._name, modality=self.modality, t_ns=end_ns, error=self._why(end_ns)
            )
            self._ready.append((end_ns, ended))
            return
        media_ns = to_ns(frame.pts, frame.time_base)
        if isinstance(frame, AudioFrame):
            length_ns = frame.samples * NS_PER_S // frame.sample_rate
            t_ns = self.time.place(media_ns, length_ns) - self.origin_ns
            self._ready.extend(self._chunks(frame, t_ns, -(-length_ns // MAX_CHUNK_NS)))
        else:
            length_ns = to_ns(frame.duration or None, frame.time_base) or self._usual_length_ns()
            t_ns = self.time.place(media_ns, length_ns) - self.origin_ns
            self._ready.append((t_ns, self._picture(frame, t_ns)))

    def _usual_length_ns(self) -> int:
        assert isinstance(self._stream, VideoStream)
        return round(NS_PER_S / (self._stream.average_rate or self._stream.guessed_rate or 25))

    def _picture(self, frame: AvVideoFrame, t_ns: int) -> VideoFrame:
        planes = self._planes.read(frame)
        self._sequence += 1
        return VideoFrame(
            source=self._name,
            t_ns=t_ns,
            y=planes.y,
            u=planes.u,
            v=planes.v,
            sequence=self._sequence - 1,
            full_range=planes.full_range,
        )

    def _chunks(
        self, frame: AudioFrame, t_ns: int, pieces: int
    ) -> Iterator[tuple[int, AudioChunk]]:
        start = 0
        for piece in np.array_split(mono(frame), pieces):
            chunk = AudioChunk(
                source=self._name,
                t_ns=t_ns + start * NS_PER_S // frame.sample_rate,
                samples=piece.copy(),
                rate_hz=frame.sample_rate,
                sequence=self._sequence,
            )
            yield chunk.end_ns, chunk
            start += len(piece)
            self._sequence += 1

    def _why(self, end_ns: int) -> str | None:
        """Why the track ended at ``end_ns``; None when that is where it should end."""
        where = f"{self._name}: {self.modality} breaks off at {end_ns / NS_PER_S:.2f} s"
        own_end_ns = _declared_end_ns(self._container, self._stream)
        file_end_ns = _declared_end_ns(self._container)
        if (known_end_ns := own_end_ns or file_end_ns) is not None:
            where += f" of {(known_end_ns - self.origin_ns) / NS_PER_S:.2f} s"
        if self._broken is not None:
            return f"{where}: {self._broken}"
        if self.time.end_ns is None:
            return f"{where}: nothing of it can be decoded"
        # Without an end of its own a stream may rightly be shorter than its file.
        reached_ns = self.time.end_ns if own_end_ns is not None else self._reached_ns
        ends_early = known_end_ns is not None and reached_ns < known_end_ns - END_SLACK_NS
        if ends_early or self._last_is_torn:
            return f"{where}: the file is cut short"
        return None

    def _decode(self) -> Generator[_Frame, None, None]:
        packets = self._container.demux()
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.EOFError):
                break
            except av.error.FFmpegError as error:
                self._broken = error.strerror or str(error)
                break
            end_ns = to_ns(packet.pts, packet.time_base)
            if end_ns is not None:
                length_ns = to_ns(packet.duration, packet.time_base) or 0
                self._reached_ns = max(self._reached_ns, end_ns + length_ns)
            # A packet without content only says that the file ends.
            if packet.stream_index == self._stream.index and packet.size:
                self._last_is_torn = packet.is_corrupt
                yield from self._decode_packet(packet)
        yield from self._decode_packet(None)

    def _decode_packet(self, packet: av.Packet[Stream] | None) -> Iterator[_Frame]:
        if packet is not None and packet.is_corrupt:
            self.drops.add(f"corrupt {self.modality} packet")
            return
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            self.drops.add(f"corrupt {self.modality} packet")
            return
        for frame in frames:
            if frame.is_corrupt:
                self.drops.add(f"corrupt {self.modality} frame")
            else:
                yield frame


def _open_container(path: Path) -> InputContainer:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: there is no such file; check the path") from error
    except OSError as error:
        raise SourceError(f"{path}: not readable ({error.strerror}); check its path") from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path}: this is not a file; give a media file")
    if status.st_size == 0:
        raise SourceError(f"{path}: the file is empty; record or copy it again")
    try:
        # An absolute path, so that no part of a file's name is taken for a protocol.
        container = av.open(str(path.resolve()), options=_OPEN_OPTIONS)
    except PermissionError as error:
        raise SourceError(f"{path}: not readable; check its permissions") from error
    except av.error.FFmpegError as error:
        raise SourceError(
            f"{path}: cannot be opened as media ({error.strerror}); it is cut short, damaged "
            f"or of a kind that FFmpeg does not know: record or copy it again"
        ) from error
    if container.format.name in _NOT_MEDIA:
        container.close()
        raise SourceError(f"{path}: this is text, not media; give a video or audio file")
    return container


def _choose_stream(container: InputContainer, modality: Modality) -> _Stream | None:
    best = container.streams.best("audio" if modality is Modality.AUDIO else "video")
    if modality is Modality.AUDIO:
        return best if isinstance(best, AudioStream) else None
    # The cover picture of a piece of music is a video stream too.
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    return next((s for s in pictures if s is best), next(iter(pictures), None))


def _declared_end_ns(container: InputContainer, stream: _Stream | None = None) -> int | None:
    """Where the header says that ``stream`` ends, or the whole file; None if it does not."""
    formats = set(container.format.name.split(","))
    if not _DECLARING_FORMATS & formats:
        return None
    if stream is None:
        if container.duration is None:
            return None
        # Matroska counts its duration from 0, not from where its streams start.
        start_us = 0 if "matroska" in formats else container.start_time or 0
        return (start_us + container.duration) * 1000
    length_ns = to_ns(stream.duration, stream.time_base)
    if length_ns is None:
        # Matroska keeps it in a tag, "00:00:03.000000000", which counts from 0.
        tag = re.fullmatch(r"(\d+):(\d\d):(\d\d)\.(\d{9})", stream.metadata.get("DURATION", ""))
        if tag is None:
            return None
        hours, minutes, seconds, nanoseconds = map(int, tag.groups())
        return ((hours * 60 + minutes) * 60 + seconds) * NS_PER_S + nanoseconds
    return length_ns + (to_ns(stream.start_time, stream.time_base) or 0)
