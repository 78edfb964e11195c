"""An audio track: sound in order, decoded as it comes.

It is decoded in the loop: a packet takes 0.2 ms, and to hand it to another thread and back cost
more, for all sessions together (with four of them on two cores, predictions were made 42 ms after
their window's end instead of 85). Up to three packets are taken together where no window waits for
the first of them: most of what sound costs is being woken, fifty times a second of every peer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from counterpoint.streams.clock import SenderOffset
from counterpoint.streams.feed import Feed
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    DropCounter,
    Float32Array,
    Modality,
)
from counterpoint.streams.webrtc.adapter import ReceivedTrack
from counterpoint.streams.webrtc.audio_jitter import AudioJitter, AudioPacket, AudioPiece
from counterpoint.streams.webrtc.decode import AudioDecoder, DecodeError
from counterpoint.streams.webrtc.packets import RtpPacket
from counterpoint.streams.webrtc.sequence import JitterCounts
from counterpoint.streams.webrtc.settings import PeerSettings
from counterpoint.streams.webrtc.track import BEHIND, MAX_ENCODED, STREAM_CHANGED, Track

MAX_TOGETHER = 3
# Two packets follow each other if no more than this lies between them: a sample, give or take.
TOGETHER_NS = NS_PER_S // 8_000
# Beyond the time in which packets that may wait should have come.
SPARE_NS = 20_000_000


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
        self._noted: RtpPacket | None = None  # the newest one
        self._packet_ns = 0
        self._may_wait = 0  # this many packets to come
        self._wait_until_ns: int | None = None

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
        wakes = (self._jitter.next_wake_ns, self._wait_until_ns)
        return min((wake for wake in wakes if wake is not None), default=None)

    def _tells_something(self, packet: RtpPacket) -> bool:
        """All but packets that come in order and that nobody waits for yet."""
        before, self._noted = self._noted, packet
        if self._may_wait <= 0 or before is None or packet.ssrc != before.ssrc:
            return True
        if packet.sequence != (before.sequence + 1) & 0xFFFF:
            return True
        self._may_wait -= 1
        return False

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
        self._may_wait, self._wait_until_ns = 0, None
        self._play(self._codec, self._jitter.advance(self._runtime.now_ns()))
        given_ns = 0
        while self._encoded:
            given_ns = self._decode_run()
        self._release(feed)
        if given_ns and not self._held:
            self._let_wait(feed.wanted_ns(self.modality), given_ns)

    def _decode_run(self) -> int:
        """Decode packets that follow each other without a gap, and give them as one.

        Returns:
            how long it lasts, nanoseconds; 0 where nothing came of it.
        """
        codec, first = self._encoded[0]
        if self._decoder is None or self._decoder[0] != codec:
            self._decoder = (codec, AudioDecoder(codec))
        decoder = self._decoder[1]
        run: list[Float32Array] = []
        run_ns = 0
        while self._encoded:
            own_codec, packet = self._encoded[0]
            follows = abs(packet.media_ns - first.media_ns - run_ns) < TOGETHER_NS
            if run and (own_codec != codec or not follows):
                break
            self._encoded.popleft()
            try:
                samples = decoder.decode(packet.data)
            except DecodeError:
                self._decode_errors += 1
                break
            self._decoded += 1
            if len(samples):
                run.append(samples)
                run_ns += len(samples) * NS_PER_S // decoder.rate_hz
        if run:
            sound = run[0] if len(run) == 1 else np.concatenate(run)
            self._give(first.media_ns, first.arrived_ns, self._maker(sound, decoder.rate_hz))
        self._packet_ns = run_ns // max(1, len(run))
        return run_ns

    def _let_wait(self, wanted_ns: int, run_ns: int) -> None:
        """Take the next packets together, as far as nobody waits for the sound in them."""
        left_ns = wanted_ns - (self._given_ns + run_ns) - 1
        self._may_wait = max(0, min(MAX_TOGETHER - 1, left_ns // max(1, self._packet_ns)))
        if self._may_wait:
            wait_ns = (self._may_wait + 1) * self._packet_ns + SPARE_NS
            self._wait_until_ns = self._runtime.now_ns() + wait_ns

    def _maker(self, samples: Float32Array, rate_hz: int) -> Callable[[int, int], AudioChunk]:
        return lambda t_ns, sequence: AudioChunk(
            source=self._name, t_ns=t_ns, samples=samples, rate_hz=rate_hz, sequence=sequence
        )
