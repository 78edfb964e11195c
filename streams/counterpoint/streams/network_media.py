"""A stream in the network (an IP camera, a media server) through PyAV, read in a thread.

RTSP (RFC 7826 and 2326), and over HTTP what FFmpeg reads as it comes: MPEG-TS, Matroska, JPEGs one
by one. Playlists (HLS, DASH) are refused: what they give is many seconds old.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Stream
from av.video.frame import VideoFrame as AvVideoFrame
from av.video.stream import VideoStream

from counterpoint.streams.address import shown
from counterpoint.streams.blocking import BlockingReader, Watch
from counterpoint.streams.clock import Line, SourceClock
from counterpoint.streams.clock.samples import SampleClock
from counterpoint.streams.clock.shared import SharedClock
from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.feed import Feed
from counterpoint.streams.pyav import MAX_CHUNK_NS
from counterpoint.streams.pyav_frames import PlaneReader, mono, to_ns
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    ClockUpdate,
    DropCounter,
    Modality,
    Tier,
    VideoFrame,
)

log = logging.getLogger(__name__)

SCHEMES: Final = frozenset({"rtsp", "rtsps", "http", "https"})
BOTH: Final = frozenset({Modality.VIDEO, Modality.AUDIO})
OPEN_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 5.0
# Many servers begin with what they kept since the last key frame, all at once. It is decoded, and
# its arrivals are seen, but it is too old to be given.
SETTLE_NS: Final = NS_PER_S // 2
# A recording comes as fast as the network goes.
AHEAD_NS: Final = 30 * NS_PER_S
# A reader that is too slow, or a path with too little room, falls behind further and further.
LATE_NS: Final = 5 * NS_PER_S
ARRIVAL_ERROR_NS: Final = 50_000_000

UNSETTLED: Final = "before the stream had settled"
UNTIMED: Final = "no usable timestamp"
CORRUPT: Final = "corrupt {}"

# Never `file`: an answer or a redirection must not make the engine read this machine's files.
_PROTOCOLS: Final = {
    "http": "http,https,tcp,tls",
    "https": "https,tcp,tls",  # and never back to what can be overheard
    "rtsp": "rtsp,tcp,tls,rtp,udp",
    "rtsps": "rtsps,tls,tcp,rtp,udp",
}
_PLAYLISTS: Final = frozenset({"hls", "dash", "concat", "sdp", "tty"})
_NO_TIMESTAMPS: Final = 0x80  # AVFMT_NOTIMESTAMPS: FFmpeg counts frames at a rate it assumes

Transport: TypeAlias = Literal["tcp", "udp"]


class NetworkMedia:
    """Pictures and sound of one address, placed by their timestamps through their arrivals.

    The stream's own timestamps are mapped by the least delayed of its packets, one mapping for
    pictures and sound (tier arrival, for the path's delay is not seen). Where there are none, as
    with JPEGs over HTTP, the arrival of each is its instant.

    Args:
        address: ``rtsp://``, ``rtsps://``, ``http://`` or ``https://``.
        name: of the source; by default the address without what gives access.
        modalities: what is wanted of it. One that it lacks is left out.
        transport: of RTSP. Over UDP, what is lost is missing.
        verify_tls: whether the server's certificate is checked; False for a camera that made
            its own.
        open_timeout_s, read_timeout_s: how long opening and one packet may take.

    Raises:
        UsageError: the address is of another kind.
    """

    def __init__(
        self,
        address: str,
        runtime: Runtime,
        *,
        name: str | None = None,
        modalities: frozenset[Modality] = BOTH,
        transport: Transport = "tcp",
        verify_tls: bool = True,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._scheme = urlsplit(address).scheme.lower()
        if self._scheme not in SCHEMES or not urlsplit(address).hostname:
            raise UsageError(
                f"{shown(address)} is no address of a stream; "
                f"give rtsp://, rtsps://, http:// or https:// and a host"
            )
        if not modalities or not modalities <= BOTH:
            raise ValueError("ask for video, audio or both")
        self._address = address
        self._transport = transport
        self._verify_tls = verify_tls
        self._timeouts = (open_timeout_s, read_timeout_s)
        self._runtime = runtime
        self._reader = BlockingReader(name or shown(address), runtime, f"media {shown(address)}")
        self.name = name or shown(address)
        self.modalities = modalities
        self.drops = DropCounter()

    async def run(self, feed: Feed) -> None:
        """Give pictures and sound until cancelled; a live stream has no regular end.

        Raises:
            SourceError: it cannot be opened, ended, broke off, hangs, or is no live stream.
        """
        # FFmpeg opens and then looks what is in it, each within the timeout, and gives up by
        # itself; what hangs outside of it (a name server) is given up a little later.
        await self._reader.run(
            lambda watch: self._read(feed, watch), open_timeout_s=2 * self._timeouts[0] + 1
        )

    def _read(self, feed: Feed, watch: Watch) -> None:
        container = self._open()
        try:
            tracks = self._tracks(container, feed)
            timed = not container.format.flags & _NO_TIMESTAMPS
            shared = SharedClock(self.name, [track.modality for track in tracks.values()])
            packets = container.demux(*(track.stream for track in tracks.values()))
            settled_ns: int | None = None
            while (packet := self._next(packets)) is not None:
                now_ns = self._runtime.now_ns()
                if not watch.renew(now_ns + round((self._timeouts[1] + 1) * NS_PER_S)):
                    return
                arrived_ns = feed.session_ns(now_ns)
                if settled_ns is None:
                    settled_ns = arrived_ns + (SETTLE_NS if timed else 0)
                track = tracks[packet.stream_index]
                if timed:
                    self._see(shared, track.modality, packet, arrived_ns)
                track.take(
                    packet, arrived_ns, shared if timed else None, give=arrived_ns >= settled_ns
                )
            raise SourceError(f"{self.name}: the stream ended; look after its server")
        finally:
            container.close()

    def _open(self) -> InputContainer:
        options = {
            "protocol_whitelist": _PROTOCOLS[self._scheme],
            "analyzeduration": "2000000",  # microseconds
        }
        if self._scheme in ("rtsp", "rtsps"):
            options["rtsp_transport"] = self._transport
        if self._verify_tls:
            options["tls_verify"] = "1"
            if (bundle := ssl.get_default_verify_paths().cafile) is not None:
                options["ca_file"] = bundle
        began_ns = self._runtime.now_ns()
        try:
            container = av.open(self._address, "r", options=options, timeout=self._timeouts)
        except av.error.FFmpegError as error:
            # Without the cause, whose text has the whole address; so it is everywhere below.
            took_s = (self._runtime.now_ns() - began_ns) / NS_PER_S
            if isinstance(error, av.error.ExitError) or took_s >= self._timeouts[0]:
                raise SourceError(
                    f"{self.name}: no answer within {self._timeouts[0]:g} s; check its network"
                ) from None
            raise SourceError(
                f"{self.name}: cannot be opened ({error.strerror}); "
                f"check the address, its user and password, and its server"
            ) from None
        if _PLAYLISTS & set(container.format.name.split(",")):
            container.close()
            raise SourceError(
                f"{self.name}: this is a playlist, whose media are many seconds old; "
                f"give the camera's own stream"
            )
        return container

    def _tracks(self, container: InputContainer, feed: Feed) -> dict[int, _Track]:
        tracks: dict[int, _Track] = {}
        for modality in sorted(self.modalities):
            best = container.streams.best("audio" if modality is Modality.AUDIO else "video")
            if isinstance(best, VideoStream | AudioStream):
                tracks[best.index] = _Track(best, modality, self.name, feed, self.drops)
            else:
                log.info("%s: no %s in this stream", self.name, modality)
        if not tracks:
            wanted = " and no ".join(sorted(self.modalities))
            raise SourceError(f"{self.name}: there is no {wanted} in this stream; give another one")
        return tracks

    def _next(self, packets: Iterator[av.Packet[Stream]]) -> av.Packet[Stream] | None:
        """The next packet; None at the end."""
        try:
            packet = next(packets, None)
        except av.error.EOFError:
            return None
        except av.error.ExitError:
            raise SourceError(
                f"{self.name}: nothing came for {self._timeouts[1]:g} s; check its network"
            ) from None
        except av.error.FFmpegError as error:
            raise SourceError(
                f"{self.name}: breaks off ({error.strerror}); check its network"
            ) from None
        # A packet without content only says that the stream ends.
        return packet if packet is not None and packet.size else None

    def _see(
        self, shared: SharedClock, modality: Modality, packet: av.Packet[Stream], arrived_ns: int
    ) -> None:
        decoded_ns = to_ns(packet.dts, packet.time_base)
        media_ns = decoded_ns if packet.pts is None else to_ns(packet.pts, packet.time_base)
        if media_ns is None:
            return
        shared.packet(modality, media_ns, arrived_ns, decoded_ns=decoded_ns)
        if shared.ahead_ns() > AHEAD_NS:
            raise SourceError(
                f"{self.name}: gives {AHEAD_NS // NS_PER_S} s more than time has passed: "
                f"a recording, not a live stream; download and replay it"
            )
        if shared.late_ns(modality) > LATE_NS:
            raise SourceError(
                f"{self.name}: is {LATE_NS // NS_PER_S} s behind; "
                f"ask it for smaller pictures, or check its network"
            )


class _Track:
    """One stream: packets in, samples out."""

    def __init__(
        self,
        stream: VideoStream | AudioStream,
        modality: Modality,
        name: str,
        feed: Feed,
        drops: DropCounter,
    ) -> None:
        self.stream = stream
        self.modality = modality
        self._name = name
        self._feed = feed
        self._drops = drops
        self._planes = PlaneReader()
        self._sequence = 0
        # Where there are no timestamps.
        self._pictures = SourceClock(name, Modality.VIDEO)
        self._pictures.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=0), ARRIVAL_ERROR_NS)
        self._samples: SampleClock | None = None
        # One thread: frame threads would hold pictures back.
        stream.codec_context.thread_count = 1

    def take(
        self,
        packet: av.Packet[Stream],
        arrived_ns: int,
        shared: SharedClock | None,
        *,
        give: bool,
    ) -> None:
        """Decode a packet, and put what is in it.

        Args:
            shared: the clock of its timestamps; None where it has none.
            give: False: decode it only, for what follows.
        """
        for frame in self._decode(packet):
            if frame.is_corrupt:
                self._drops.add(CORRUPT.format(f"{self.modality} frame"))
            elif not give:
                self._drops.add(UNSETTLED)
            elif (placed := self._place(frame, arrived_ns, shared)) is None:
                self._drops.add(UNTIMED)
            else:
                t_ns, update = placed
                if update is not None:
                    self._feed.put(update)
                self._put(frame, t_ns)

    def _decode(self, packet: av.Packet[Stream]) -> list[AvVideoFrame] | list[AudioFrame]:
        if not packet.is_corrupt:
            try:
                return self.stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                log.debug("%s: a %s packet cannot be decoded", self._name, self.modality)
        self._drops.add(CORRUPT.format(f"{self.modality} packet"))
        return []

    def _place(
        self, frame: AvVideoFrame | AudioFrame, arrived_ns: int, shared: SharedClock | None
    ) -> tuple[int, ClockUpdate | None] | None:
        if shared is not None:
            media_ns = to_ns(frame.pts, frame.time_base)
            t_ns = None if media_ns is None else shared.place(self.modality, media_ns)
            return None if t_ns is None else (t_ns, shared.take_update(self.modality))
        if isinstance(frame, AvVideoFrame):
            return self._pictures.map(max(0, arrived_ns)), self._pictures.take_update()
        if self._samples is None:
            self._samples = SampleClock(self._name, frame.sample_rate)
        t_ns = self._samples.buffer(frame.samples, None, arrived_ns)
        return t_ns, self._samples.take_update()

    def _put(self, frame: AvVideoFrame | AudioFrame, t_ns: int) -> None:
        if isinstance(frame, AvVideoFrame):
            planes = self._planes.read(frame)
            self._feed.put(
                VideoFrame(
                    source=self._name,
                    t_ns=t_ns,
                    y=planes.y,
                    u=planes.u,
                    v=planes.v,
                    sequence=self._sequence,
                    full_range=planes.full_range,
                )
            )
            self._sequence += 1
            return
        rate_hz, start = frame.sample_rate, 0
        length_ns = frame.samples * NS_PER_S // rate_hz
        for piece in np.array_split(mono(frame), -(-length_ns // MAX_CHUNK_NS)):
            self._feed.put(
                AudioChunk(
                    source=self._name,
                    t_ns=t_ns + start * NS_PER_S // rate_hz,
                    samples=piece.copy(),
                    rate_hz=rate_hz,
                    sequence=self._sequence,
                )
            )
            start += len(piece)
            self._sequence += 1
