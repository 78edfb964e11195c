"""`SampleClock`: a count for the seams, stamps for the place."""

from __future__ import annotations

import numpy as np
import pytest

from counterpoint.streams.clock.samples import SampleClock
from counterpoint.streams.types import Tier

RATE = 48_000
BLOCK = 960
MS = 1_000_000
PERIOD = 20 * MS


def ends(clock: SampleClock, count: int, *, late_ms: list[float] | None = None) -> list[int]:
    """Session times of ``count`` buffers whose stamps are late by so much."""
    return [
        clock.buffer(
            BLOCK,
            i * PERIOD + round((late_ms[i] if late_ms else 0.0) * MS),
            i * PERIOD + 30 * MS,
        )
        for i in range(count)
    ]


def test_buffers_follow_one_another_without_a_seam_however_their_stamps_shake() -> None:
    rng = np.random.default_rng(1)
    late = [0.0, *rng.exponential(3.0, 1_500)]
    clock = SampleClock("mic", RATE)
    times = ends(clock, 1_501, late_ms=late)
    assert np.abs(np.diff(times) - PERIOD).max() <= 0.1 * MS + 1  # 5 ms a second at most
    assert np.abs(np.array(times) - np.arange(1_501) * PERIOD).max() < 1 * MS
    assert clock.gaps == 0


def test_it_states_the_devices_tier_once() -> None:
    clock = SampleClock("mic", RATE)
    ends(clock, 1)
    update = clock.take_update()
    assert update is not None
    assert (update.tier, update.epoch, update.t_ns) == (Tier.DEVICE, 0, 0)
    clock.buffer(BLOCK, PERIOD, PERIOD + 30 * MS)
    assert clock.take_update() is None


def test_a_crystal_that_runs_fast_is_followed() -> None:
    clock = SampleClock("mic", RATE)
    fast = 200e-6
    times = []
    for i in range(3_000):  # a minute
        captured_ns = round(i * PERIOD * (1 - fast))
        times.append(clock.buffer(BLOCK, captured_ns, captured_ns + 30 * MS))
    assert abs(times[-1] - round(2_999 * PERIOD * (1 - fast))) < 3 * MS
    assert clock.gaps == 0


def test_one_late_stamp_is_not_a_loss_and_a_lasting_one_is() -> None:
    clock = SampleClock("mic", RATE)
    late = [0.0] * 200
    late[50] = 90.0
    late[100:] = [60.0] * 100
    times = ends(clock, 200, late_ms=late)
    seams = np.diff(times) - PERIOD
    assert clock.gaps == 1
    (gap,) = np.flatnonzero(seams > MS)
    # Known after at least one window that saw nothing but late stamps, and then exactly.
    assert 100 <= gap <= 125
    assert abs(times[-1] - (199 * PERIOD + 60 * MS)) < MS
    assert (np.diff(times) > 0).all()
    update = clock.take_update()
    assert update is not None
    assert update.epoch == 0  # time went on, not back


def test_what_the_device_says_it_lost_is_skipped_at_once() -> None:
    clock = SampleClock("mic", RATE)
    ends(clock, 30)
    lost = 8 * MS
    assert clock.buffer(BLOCK, 30 * PERIOD + lost, 31 * PERIOD, lost=True) == 30 * PERIOD + lost
    assert clock.gaps == 1
    # A flag without a loss that can be seen moves nothing.
    assert clock.buffer(BLOCK, 31 * PERIOD + lost, 32 * PERIOD, lost=True) == 31 * PERIOD + lost
    assert clock.gaps == 1


def test_without_a_stamp_it_goes_by_arrivals_from_then_on() -> None:
    clock = SampleClock("mic", RATE)
    ends(clock, 50)
    assert clock.take_update() is not None
    times = []
    for i in range(50, 400):
        # Arrivals in pairs, as sound servers hand them over; its end arrives at the earliest now.
        arrived_ns = (i + 1 + i % 2) * PERIOD
        times.append(clock.buffer(BLOCK, i * PERIOD if i > 60 else None, arrived_ns))
    update = clock.take_update()
    assert update is not None
    assert update.tier is Tier.ARRIVAL
    assert np.abs(np.array(times) - np.arange(50, 400) * PERIOD).max() <= MS
    assert clock.gaps == 0


def test_before_the_session_began_it_is_zero() -> None:
    clock = SampleClock("mic", RATE)
    assert clock.buffer(BLOCK, -5 * MS, 10 * MS) == 0


def test_a_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        SampleClock("mic", 0)
