"""An audio track: sound in order, decoded as it comes.

It is decoded in the loop: a packet takes 0.2 ms, and to hand it to another thread and back cost
more, for all sessions together (with four of them on two cores, predictions were made 42 ms after
their window's end instead of 85).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from counterpoint.streams.clock import SenderOffset
from counterpoint.streams.feed import Feed
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import AudioChunk, DropCounter, Float32Array, Modality
from counterpoint.streams.webrtc.adapter import ReceivedTrack
from counterpoint.streams.webrtc.audio_jitter import AudioJitter, AudioPacket, AudioPiece
from counterpoint.streams.webrtc.decode import AudioDecoder, DecodeError
from counterpoint.streams.webrtc.packets import RtpPacket
from counterpoint.streams.webrtc.sequence import JitterCounts
from counterpoint.streams.webrtc.settings import PeerSettings
from counterpoint.streams.webrtc.track import BEHIND, MAX_ENCODED, STREAM_CHANGED, Track


class AudioTrack(Track):
    """Sound: what is missing leaves a gap, and what follows keeps its own time."""

    def __init__(
        self,
        name: str,
        received: ReceivedTrack,
        *,
        runtime: Runtime,
        offset: SenderOffset,
        drops: DropCounter,
        on_begin: Callable[[], None],
        settings: PeerSettings,
    ) -> None:
        super().__init__(
            name,
            Modality.AUDIO,
            received,
            runtime=runtime,
            offset=offset,
            drops=drops,
            on_begin=on_begin,
        )
        self._jitter = AudioJitter(wait_ns=settings.audio_wait_ns)
        self._decoder: tuple[str, AudioDecoder] | None = None
        self._encoded: deque[tuple[str, AudioPacket]] = deque()

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
        return True

    def _add(self, packet: RtpPacket, media_ns: int, now_ns: int) -> None:
        audio = AudioPacket(
            sequence=packet.sequence,
            timestamp=packet.timestamp,
            data=packet.data,
            arrived_ns=now_ns,
            media_ns=media_ns,
        )
        self._play(packet.codec, self._jitter.add(audio, now_ns))

    def _play(self, codec: str, pieces: list[AudioPiece]) -> None:
        # Nothing is made up for a gap: the aligner marks the sound that is missing.
        self._encoded.extend((codec, piece) for piece in pieces if isinstance(piece, AudioPacket))
        while len(self._encoded) > MAX_ENCODED:
            self._encoded.popleft()
            self._drop(BEHIND)

    def _change_stream(self) -> None:
        if self._encoded:
            self._drop(STREAM_CHANGED, len(self._encoded))
            self._encoded.clear()
        self._jitter.restart()

    async def _step(self, feed: Feed) -> None:
        self._play(self._codec, self._jitter.advance(self._runtime.now_ns()))
        if self._encoded:
            codec, packet = self._encoded.popleft()
            if self._decoder is None or self._decoder[0] != codec:
                self._decoder = (codec, AudioDecoder(codec))
            decoder = self._decoder[1]
            try:
                samples = decoder.decode(packet.data)
            except DecodeError:
                self._decode_errors += 1
            else:
                if len(samples):
                    make = self._maker(samples, decoder.rate_hz)
                    self._give(packet.media_ns, packet.arrived_ns, make)
        self._release(feed)

    def _maker(self, samples: Float32Array, rate_hz: int) -> Callable[[int, int], AudioChunk]:
        return lambda t_ns, sequence: AudioChunk(
            source=self._name, t_ns=t_ns, samples=samples, rate_hz=rate_hz, sequence=sequence
        )
