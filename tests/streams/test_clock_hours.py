"""G11: clocks that drift for eight simulated hours, with jitter, loss and reordering."""

from __future__ import annotations

import heapq
import tracemalloc
from collections.abc import Iterator

import pytest

from counterpoint.streams.clock import RtpClock, SenderOffset
from counterpoint.streams.types import NS_PER_S, Modality, Tier
from tests.support.rtp_sender import MS, Packet, Track

HOURS = 8


def numbered(which: int, track: Track) -> Iterator[tuple[int, int, Packet]]:
    return ((p.arrived_ns, which, p) for p in track.packets(HOURS * 3_600 * NS_PER_S))


@pytest.mark.parametrize(("ppm", "tier"), [(500, Tier.ARRIVAL), (-500, Tier.REPORTS)])
def test_sound_and_pictures_stay_within_5_ms(ppm: int, tier: Tier) -> None:
    every_ns = 200 * MS
    reports = tier is Tier.REPORTS
    tracks = [
        Track(
            name="audio",
            rate_hz=48_000,
            media_ppm=ppm,
            sender_ppm=50,
            first_timestamp=(1 << 32) - 48_000 * 60,
            every_ns=every_ns,
            reports_from_ns=2_200 * MS if reports else None,
            loss=0.02,
            late=0.01,
        ),
        Track(
            name="video",
            rate_hz=90_000,
            media_ppm=-ppm,
            sender_ppm=50,
            every_ns=every_ns,
            reports_from_ns=NS_PER_S if reports else None,
            loss=0.05,
            late=0.05,
        ),
    ]
    offset = SenderOffset()
    clocks = [
        RtpClock("audio", Modality.AUDIO, 48_000, offset),
        RtpClock("video", Modality.VIDEO, 90_000, offset),
    ]
    newest: list[dict[int, int]] = [{}, {}]
    worst_ns, compared, updates = 0, 0, 0
    arrivals = heapq.merge(
        *(numbered(which, track) for which, track in enumerate(tracks)),
        key=lambda arrival: arrival[:2],
    )
    for arrived_ns, which, packet in arrivals:
        clock = clocks[which]
        if packet.ntp is not None:
            clock.report(which, packet.ntp, packet.timestamp, arrived_ns)
            continue
        media_ns = clock.packet(which, packet.timestamp, arrived_ns)
        assert media_ns is not None
        t_ns = clock.map(media_ns)
        assert t_ns >= 0
        updates += clock.take_update() is not None
        if packet.true_ns < 30 * NS_PER_S:
            continue
        other = newest[1 - which].pop(packet.true_ns, None)
        if other is None:
            newest[which][packet.true_ns] = t_ns
            if len(newest[which]) > 50:
                del newest[which][next(iter(newest[which]))]
        else:
            compared += 1
            worst_ns = max(worst_ns, abs(t_ns - other))
    assert compared > HOURS * 3_600 * 4
    # Tracks that share the way from the sender's clock move together; what is left is of packets
    # out of order while a correction is under way.
    assert worst_ns <= (2_500_000 if reports else 5 * MS)
    assert [clock.clock.epoch for clock in clocks] == [0, 0]
    assert {clock.clock.tier for clock in clocks} == {tier}
    assert updates < HOURS * 300


def test_memory_does_not_grow_with_the_hours() -> None:
    track = Track(name="audio", rate_hz=48_000, media_ppm=500, every_ns=500 * MS, loss=0.02)
    clock = RtpClock("audio", Modality.AUDIO, 48_000, SenderOffset())
    sizes: list[int] = []
    tracemalloc.start()
    try:
        part_ns = 1_200 * NS_PER_S
        for packet in track.packets(5 * part_ns):
            if packet.ntp is not None:
                clock.report(1, packet.ntp, packet.timestamp, packet.arrived_ns)
            else:
                media_ns = clock.packet(1, packet.timestamp, packet.arrived_ns)
                assert media_ns is not None
                clock.map(media_ns)
                clock.take_update()
            if packet.true_ns // part_ns >= len(sizes) + 1:
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(sizes) == 4
    assert max(sizes) - sizes[0] < 64_000
