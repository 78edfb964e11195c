"""`Envelope` and `Line` against known truth."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.clock import Envelope, Line
from tests.support.rtp_sender import MS

S = 1_000 * MS


def feed(
    envelope: Envelope, *, ppm: int, offset_ns: int, jitter_ns: int, seconds: int, seed: int
) -> int:
    """Arrivals at 20 Hz of a clock that is ``ppm`` fast; returns the last media time."""
    rng = random.Random(seed)
    media_ns = 0
    for n in range(seconds * 20):
        true_ns = n * 50 * MS
        media_ns = true_ns + true_ns * ppm // 1_000_000
        envelope.add(media_ns, true_ns + offset_ns + int(rng.random() * jitter_ns))
    return media_ns


@given(
    ppm=st.integers(-500, 500),
    offset_ns=st.integers(0, 3_600 * S),
    jitter_ms=st.integers(0, 30),
    seconds=st.integers(12, 120),
    seed=st.integers(0, 1 << 32),
)
def test_it_finds_offset_and_rate_within_a_fraction_of_the_jitter(
    ppm: int, offset_ns: int, jitter_ms: int, seconds: int, seed: int
) -> None:
    envelope = Envelope()
    media_ns = feed(
        envelope,
        ppm=ppm,
        offset_ns=offset_ns,
        jitter_ns=jitter_ms * MS,
        seconds=seconds,
        seed=seed,
    )
    line = envelope.line
    assert line is not None
    true_ns = Fraction(media_ns * 1_000_000, 1_000_000 + ppm) + offset_ns
    off_ns = line.at(media_ns) - true_ns
    # 60 packets a bin: a minimum is rarely above a sixth of the jitter.
    assert abs(off_ns) <= jitter_ms * MS * 0.4 + 10_000


def test_a_few_seconds_of_delay_do_not_move_it() -> None:
    calm, stalled = Envelope(), Envelope()
    for n in range(60 * 20):
        t_ns = n * 50 * MS
        calm.add(t_ns, t_ns + 20 * MS)
        delay_ns = 420 * MS if 40 * S <= t_ns < 46 * S else 20 * MS
        stalled.add(t_ns, t_ns + delay_ns)
    assert calm.line is not None
    assert stalled.line is not None
    assert abs(stalled.line.at(60 * S) - calm.line.at(60 * S)) < MS
    assert stalled.error_ns >= 300 * MS  # but it says so
    assert calm.error_ns < MS


def test_before_the_second_bin_it_is_the_running_minimum() -> None:
    assert Envelope().line is None
    envelope = Envelope()
    assert envelope.add(0, 90 * MS)
    assert envelope.add(100 * MS, 130 * MS)
    assert not envelope.add(200 * MS, 260 * MS)
    assert envelope.line is not None
    assert envelope.line.at(S) == S + 30 * MS
    assert envelope.line.rate == 0
    assert envelope.error_ns == 50 * MS


def test_it_holds_a_bounded_number_of_minima() -> None:
    envelope = Envelope()
    feed(envelope, ppm=20, offset_ns=0, jitter_ns=MS, seconds=600, seed=1)
    assert len(envelope._minima) == 10


def test_a_lasting_change_of_the_path_is_followed() -> None:
    envelope = Envelope()
    for n in range(120 * 20):
        t_ns = n * 50 * MS
        envelope.add(t_ns, t_ns + (20 if t_ns < 60 * S else 80) * MS)
    assert envelope.line is not None
    assert envelope.line.at(120 * S) == pytest.approx(120 * S + 80 * MS, abs=MS)


@given(
    x_ns=st.integers(-(10**19), 10**19),
    y_ns=st.integers(-(10**19), 10**19),
    run_ns=st.integers(-(10**14), 10**14),
    rate=st.integers(-2_000, 2_000).map(lambda ppm: ppm / 1e6),
)
def test_a_line_is_exact_a_day_from_its_anchor(
    x_ns: int, y_ns: int, run_ns: int, rate: float
) -> None:
    line = Line(x_ns=x_ns, y_ns=y_ns, rate=rate)
    exact = y_ns + run_ns * (1 + Fraction(rate))
    assert abs(line.at(x_ns + run_ns) - exact) <= 1


def test_two_lines_in_a_row_are_one() -> None:
    first = Line(x_ns=10, y_ns=4 * 10**18, rate=3e-4)
    second = Line(x_ns=4 * 10**18 - 77, y_ns=5, rate=-1e-4)
    both = first.then(second)
    for x_ns in (10, 10**9, 10**13):
        assert abs(both.at(x_ns) - second.at(first.at(x_ns))) <= 2
