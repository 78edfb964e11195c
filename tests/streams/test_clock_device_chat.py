"""`DeviceClock` and `ChatClock`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.clock import ChatClock, DeviceClock, SourceClock, seconds_to_ns
from counterpoint.streams.types import Modality, Tier
from tests.support.rtp_sender import MS

S = 1_000 * MS


@pytest.mark.parametrize("ppm", [-500, 0, 20, 500])
def test_a_device_clock_is_followed_for_hours(ppm: int) -> None:
    rng = random.Random(ppm)
    device = DeviceClock(readout_ns=8 * MS)
    clock = SourceClock("microphone", Modality.AUDIO)
    worst_ns = 0
    for n in range(2 * 3_600 * 5):
        true_ns = n * 200 * MS
        adc_ns = seconds_to_ns(1_000 + (true_ns + true_ns * ppm // 1_000_000) / 1e9)
        if device.add(adc_ns, true_ns + 8 * MS + int(rng.random() * 3 * MS)):
            clock.offer(Tier.DEVICE, device.line, device.error_ns)
        t_ns = clock.map(adc_ns)
        if n > 150:
            worst_ns = max(worst_ns, abs(t_ns - true_ns))
    assert worst_ns < 2 * MS
    assert clock.epoch == 0
    assert clock.tier is Tier.DEVICE


def test_a_device_without_time_has_its_arrival_less_the_read_out() -> None:
    device = DeviceClock(readout_ns=33 * MS)
    assert device.without_stamp(S) == 967 * MS
    assert device.without_stamp(10 * MS) == 0
    with pytest.raises(ValueError, match="readout_ns"):
        DeviceClock(readout_ns=-1)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        seconds_to_ns(seconds)


@given(st.integers(-(10**15), 10**15))
def test_seconds_become_the_nearest_nanoseconds(t_us: int) -> None:
    assert abs(seconds_to_ns(t_us / 1e6) - t_us * 1_000) <= 100


@given(
    offset_ns=st.integers(-(10**18), 10**18),
    legs=st.lists(
        st.tuples(st.integers(0, 300 * MS), st.integers(0, 300 * MS)), min_size=1, max_size=40
    ),
)
def test_a_servers_time_is_known_within_the_stated_error(
    offset_ns: int, legs: list[tuple[int, int]]
) -> None:
    chat = ChatClock("room")
    for n, (there_ns, back_ns) in enumerate(legs):
        sent_ns = n * S
        chat.probe(sent_ns, sent_ns + there_ns - offset_ns, sent_ns + there_ns + back_ns)
    said_ns = len(legs) * S
    t_ns = chat.stamp(said_ns - offset_ns, said_ns + S)
    update = chat.take_update()
    assert update is not None
    assert update.tier is Tier.SERVER
    assert abs(t_ns - said_ns) <= update.error_ns
    shortest_ns = min(there + back for there, back in legs[-16:])
    assert update.error_ns <= shortest_ns // 2 + (len(legs) + 1) * S * 1e-4 + 2


def test_a_line_without_stamp_or_probe_has_its_arrival_and_says_so() -> None:
    chat = ChatClock("room")
    assert chat.take_update() is None
    assert chat.stamp(123, 5 * S) == 5 * S
    update = chat.take_update()
    assert update is not None
    assert (update.tier, update.t_ns) == (Tier.ARRIVAL, 5 * S)
    assert chat.stamp(456, 6 * S) == 6 * S
    assert chat.take_update() is None
    chat.probe(6 * S, 7 * S, 6 * S + 20 * MS)
    assert chat.stamp(7 * S + 500 * MS, 7 * S) == 6 * S + 510 * MS
    update = chat.take_update()
    assert update is not None
    assert update.tier is Tier.SERVER
    assert chat.stamp(None, 8 * S) == 8 * S


def test_a_line_is_never_later_than_its_arrival_nor_negative() -> None:
    chat = ChatClock("room")
    chat.probe(0, 0, 10 * MS)
    assert chat.stamp(9 * S, 2 * S) == 2 * S
    assert chat.stamp(-9 * S, 3 * S) == 0


def test_old_probes_are_forgotten_and_few_are_kept() -> None:
    chat = ChatClock("room")
    for n in range(100):
        chat.probe(n * S, n * S, n * S + MS)
    assert len(chat._probes) == 16
    assert chat.stamp(50 * S, 699 * S) == 50 * S + MS // 2
    assert chat.stamp(50 * S, 701 * S) == 701 * S
    with pytest.raises(ValueError, match="cannot be received"):
        chat.probe(10, 0, 9)
