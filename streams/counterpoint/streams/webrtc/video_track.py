"""A video track: frames that are whole, decoded as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from counterpoint.streams.clock import SenderOffset
from counterpoint.streams.feed import Feed
from counterpoint.streams.runtime import Lane, Runtime
from counterpoint.streams.types import DropCounter, Modality, VideoFrame
from counterpoint.streams.webrtc.adapter import ReceivedTrack
from counterpoint.streams.webrtc.decode import (
    DecodeError,
    Picture,
    PictureLimits,
    PictureRefusedError,
    VideoDecoder,
)
from counterpoint.streams.webrtc.packets import RtpPacket
from counterpoint.streams.webrtc.payloads import begins_key_frame
from counterpoint.streams.webrtc.sequence import JitterCounts
from counterpoint.streams.webrtc.settings import PeerSettings, TrackStats
from counterpoint.streams.webrtc.track import (
    BEHIND,
    MAX_BEHIND_NS,
    MAX_ENCODED,
    STREAM_CHANGED,
    Track,
)
from counterpoint.streams.webrtc.video_jitter import EncodedFrame, VideoJitter, VideoPacket

REFERENCE_LOST = "reference lost"


class VideoTrack(Track):
    """Pictures: a frame that is lost takes all up to the next key frame with it.

    Args:
        lane: where they are decoded.
    """

    def __init__(
        self,
        name: str,
        received: ReceivedTrack,
        *,
        runtime: Runtime,
        lane: Lane,
        offset: SenderOffset,
        drops: DropCounter,
        on_begin: Callable[[], None],
        settings: PeerSettings,
    ) -> None:
        super().__init__(
            name,
            Modality.VIDEO,
            received,
            runtime=runtime,
            offset=offset,
            drops=drops,
            on_begin=on_begin,
        )
        self._lane = lane
        self._jitter = VideoJitter(wait_ns=settings.video_wait_ns)
        self._limits = PictureLimits(
            width=settings.max_width, height=settings.max_height, pixels=settings.max_pixels
        )
        self._decoder: tuple[str, VideoDecoder] | None = None
        self._encoded: deque[tuple[str, EncodedFrame]] = deque()
        self._key_frame_requests = 0
        self._size = (0, 0)
        self._noted: RtpPacket | None = None  # the newest one

    @property
    def _counts(self) -> JitterCounts:
        return self._jitter.counts

    @property
    def _waiting(self) -> int:
        return self._jitter.waiting + len(self._encoded)

    @property
    def _has_work(self) -> bool:
        return bool(self._encoded)

    def _jitter_wake_ns(self) -> int | None:
        return self._jitter.next_wake_ns

    def _tells_something(self, packet: RtpPacket) -> bool:
        """All but packets that come in order and do not end a frame."""
        before, self._noted = self._noted, packet
        if packet.marker or before is None:
            return True
        if packet.sequence != (before.sequence + 1) & 0xFFFF or packet.ssrc != before.ssrc:
            return True
        # Where senders set no marker, the next frame's first packet ends a frame.
        return packet.timestamp != before.timestamp and not before.marker

    def _add(self, packet: RtpPacket, media_ns: int, now_ns: int) -> None:
        frames = self._jitter.add(
            VideoPacket(
                sequence=packet.sequence,
                timestamp=packet.timestamp,
                marker=packet.marker,
                data=packet.data,
                key=begins_key_frame(packet.codec, packet.payload, packet.data),
                arrived_ns=now_ns,
                media_ns=media_ns,
            ),
            now_ns,
        )
        self._encoded.extend((packet.codec, frame) for frame in frames)

    def _change_stream(self) -> None:
        self._drop_encoded(len(self._encoded), STREAM_CHANGED)
        self._jitter.restart(self._runtime.now_ns())

    async def _step(self, feed: Feed) -> None:
        now_ns = self._runtime.now_ns()
        self._encoded.extend((self._codec, frame) for frame in self._jitter.advance(now_ns))
        self._shed(now_ns)
        if self._jitter.key_wanted(now_ns):
            self._key_frame_requests += 1
            await self._received.request_key_frame(self._ssrc)
        if self._encoded:
            codec, frame = self._encoded.popleft()
            picture = await self._decode(codec, frame)
            self._decoded += picture is not None
            make = None if picture is None else self._maker(picture)
            self._give(frame.media_ns, frame.arrived_ns, make)
        elif self._jitter.given_up_media_ns > self._newest_media_ns:
            # Windows need not wait for pictures that will not come.
            self._give(self._jitter.given_up_media_ns, now_ns, None)
        self._release(feed)

    def _shed(self, now_ns: int) -> None:
        """A decoder that is far behind goes on with the newest key frame, or asks for one."""
        if not self._encoded:
            return
        behind_ns = now_ns - self._encoded[0][1].arrived_ns
        if len(self._encoded) <= MAX_ENCODED and behind_ns <= MAX_BEHIND_NS:
            return
        keys = [index for index, (_, frame) in enumerate(self._encoded) if frame.key and index]
        self._drop_encoded(keys[-1] if keys else len(self._encoded), BEHIND)
        if not keys:
            self._jitter.lose(now_ns)

    def _drop_encoded(self, count: int, reason: str) -> None:
        for _ in range(count):
            self._encoded.popleft()
        if count:
            self._drop(reason, count)

    async def _decode(self, codec: str, frame: EncodedFrame) -> Picture | None:
        if self._decoder is None or self._decoder[0] != codec:
            self._decoder = (codec, VideoDecoder(codec, self._limits))
        decoder = self._decoder[1]
        try:
            return await self._lane.submit(lambda: decoder.decode(frame.data, key=frame.key))
        except DecodeError:
            self._decode_errors += 1
        except PictureRefusedError as exc:
            self._drop(str(exc))
            if not frame.key:
                return None
        # What follows builds on what the decoder does not have.
        self._drop_encoded(len(self._encoded), REFERENCE_LOST)
        self._jitter.lose(self._runtime.now_ns())
        return None

    def _maker(self, picture: Picture) -> Callable[[int, int], VideoFrame]:
        self._size = (picture.y.shape[1], picture.y.shape[0])
        return lambda t_ns, sequence: VideoFrame(
            source=self._name,
            t_ns=t_ns,
            y=picture.y,
            u=picture.u,
            v=picture.v,
            sequence=sequence,
            full_range=picture.full_range,
        )

    def stats(self) -> TrackStats:
        """What became of it so far."""
        width, height = self._size
        return replace(
            super().stats(),
            key_frame_requests=self._key_frame_requests,
            width=width,
            height=height,
        )
