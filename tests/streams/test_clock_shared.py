"""`SharedClock`: pictures and sound of one sender stay together, and breaks are breaks."""

from __future__ import annotations

import numpy as np

from counterpoint.streams.clock.shared import SharedClock
from counterpoint.streams.types import NS_PER_S, Modality, Tier

MS = 1_000_000
FRAME = 40 * MS
VIDEO, AUDIO = Modality.VIDEO, Modality.AUDIO
BOTH = (VIDEO, AUDIO)


def test_pictures_and_sound_stay_together_however_differently_they_are_delayed() -> None:
    rng = np.random.default_rng(1)
    clock = SharedClock("cam", BOTH)
    for i in range(1_000):
        media_ns = 7 * NS_PER_S + i * FRAME
        now_ns = i * FRAME
        delay_ns = round(rng.exponential(5.0) * MS)
        clock.packet(AUDIO, media_ns, now_ns + 20 * MS + delay_ns)
        clock.packet(VIDEO, media_ns, now_ns + 150 * MS + delay_ns)  # a slow encoder
        video_ns, audio_ns = clock.place(VIDEO, media_ns), clock.place(AUDIO, media_ns)
        assert video_ns is not None
        assert audio_ns is not None
        assert abs(video_ns - audio_ns) <= MS // 10
        # By the least delayed of both.
        assert abs(audio_ns - (now_ns + 20 * MS)) < 8 * MS
    update = clock.take_update(VIDEO)
    assert update is not None
    assert (update.tier, update.epoch) == (Tier.ARRIVAL, 0)
    assert clock.breaks == 0


def test_pictures_out_of_order_are_of_their_presentation_and_break_nothing() -> None:
    clock = SharedClock("cam", [VIDEO])
    order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]  # I P B B P B B
    for position, index in enumerate(order):
        decoded_ns = (position - 1) * FRAME
        clock.packet(VIDEO, index * FRAME, position * FRAME, decoded_ns=decoded_ns)
        arrived_ns = position * FRAME
        if position >= 2:
            shown = position - 2
            t_ns = clock.place(VIDEO, shown * FRAME)
            assert t_ns is not None
            assert t_ns <= arrived_ns
    assert clock.breaks == 0


def test_timestamps_set_back_begin_a_new_epoch_for_both() -> None:
    clock = SharedClock("cam", BOTH)
    for i in range(100):
        for modality in BOTH:
            clock.packet(modality, i * FRAME, i * FRAME + 30 * MS)
            assert clock.place(modality, i * FRAME) is not None
            clock.take_update(modality)
    # The camera started anew, a second later.
    clock.packet(VIDEO, 0, 5 * NS_PER_S)
    assert clock.breaks == 1
    stray = clock.place(VIDEO, 99 * FRAME)
    assert stray is not None  # of less than five seconds ago: nothing tells it from a new one
    for i in range(1, 200):
        clock.packet(VIDEO, i * FRAME, 5 * NS_PER_S + i * FRAME)
        clock.packet(AUDIO, i * FRAME, 5 * NS_PER_S + i * FRAME)
        placed = clock.place(AUDIO, i * FRAME)
        assert placed is not None
        assert placed == 5 * NS_PER_S + i * FRAME
    update = clock.take_update(AUDIO)
    assert update is not None
    assert update.epoch == 1
    assert clock.breaks == 1


def test_a_leap_ahead_is_a_break_and_a_pause_is_not() -> None:
    clock = SharedClock("cam", [VIDEO])
    clock.packet(VIDEO, 0, 0)
    clock.packet(VIDEO, 60 * NS_PER_S, 60 * NS_PER_S)  # a minute without pictures
    assert clock.breaks == 0
    clock.packet(VIDEO, 90 * NS_PER_S, 61 * NS_PER_S)
    assert clock.breaks == 1


def test_a_timestamp_that_goes_back_a_little_or_strays_far_is_not_placed() -> None:
    clock = SharedClock("cam", [VIDEO])
    assert clock.place(VIDEO, 0) is None  # nothing arrived yet
    for i in range(10):
        clock.packet(VIDEO, i * FRAME, i * FRAME)
    assert clock.place(VIDEO, 9 * FRAME) is not None
    assert clock.place(VIDEO, 9 * FRAME) is None
    assert clock.place(VIDEO, 8 * FRAME) is None
    assert clock.place(VIDEO, 9 * FRAME + 6 * NS_PER_S) is None
    assert clock.place(VIDEO, 10 * FRAME) is not None


def test_it_tells_how_far_the_media_is_ahead_and_how_late_a_packet_came() -> None:
    clock = SharedClock("cam", [VIDEO])
    assert clock.ahead_ns() == 0
    assert clock.late_ns(VIDEO) == 0
    for i in range(100):
        clock.packet(VIDEO, i * FRAME, i * MS)  # forty times as fast
    assert clock.ahead_ns() == 99 * (FRAME - MS)
    clock.packet(VIDEO, 100 * FRAME, 100 * MS + 3 * NS_PER_S)
    assert clock.late_ns(VIDEO) == 3 * NS_PER_S + MS - FRAME
