"""`Unwrap` and NTP time."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.clock.rtp import Unwrap, ntp_to_ns, ticks_to_ns

TURN = 1 << 32


@given(
    first=st.integers(0, TURN - 1),
    steps=st.lists(st.integers(0, 1 << 28), min_size=1, max_size=60),
    window=st.integers(1, 6),
    rng=st.randoms(use_true_random=False),
)
def test_unwrap_is_the_inverse_of_wrap_under_reordering(
    first: int, steps: list[int], window: int, rng: object
) -> None:
    true = [first]
    for step in steps:
        true.append(true[-1] + step)
    order = true[1:]
    for at in range(0, len(order), window):
        part = order[at : at + window]
        rng.shuffle(part)  # type: ignore[attr-defined]
        order[at : at + window] = part
    unwrap = Unwrap()
    assert unwrap.add(first) == first
    assert [unwrap.add(value % TURN) for value in order] == order


def test_a_timestamp_across_the_wrap_goes_on_and_one_from_before_it_goes_back() -> None:
    unwrap = Unwrap()
    assert unwrap.add(TURN - 10) == TURN - 10
    assert unwrap.add(5) == TURN + 5
    assert unwrap.add(TURN - 3) == TURN - 3
    assert unwrap.near(TURN - 1) == TURN - 1
    assert unwrap.add(6) == TURN + 6


@pytest.mark.parametrize("value", [-1, TURN])
def test_what_is_not_32_bits_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 4294967295"):
        Unwrap().add(value)


@given(st.integers(0, (1 << 64) - 1))
def test_ntp_time_is_right_to_the_nanosecond(ntp: int) -> None:
    exact = Fraction(ntp * 1_000_000_000, 1 << 32)
    assert abs(ntp_to_ns(ntp) - exact) <= Fraction(1, 2)


def test_ticks_lose_nothing_over_a_year() -> None:
    year = 365 * 86_400
    assert ticks_to_ns(90_000 * year + 9, 90_000) == year * 1_000_000_000 + 100_000
