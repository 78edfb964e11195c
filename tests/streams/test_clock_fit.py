"""A line through reports, where some are stray and where the track lost something."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.clock import SenderOffset, SenderReports
from counterpoint.streams.clock.fit import STRAY_NS, fit, relevelled
from tests.support.rtp_sender import MS, SENDER_EPOCH_NS, ns_to_ntp

S = 1_000 * MS
EVERY_NS = 5_300 * MS
NOISE_NS = MS // 2


def series(
    count: int, *, ppm: int = 0, seed: int = 0, noise_ns: int = NOISE_NS
) -> list[tuple[int, int]]:
    """Reports as a sender gives them that is busy with other things now and then."""
    rng = random.Random(seed)
    times_ns = [n * EVERY_NS for n in range(count)]
    return [(t, t + t * ppm // 1_000_000 + rng.randrange(noise_ns)) for t in times_ns]


def off_ns(points: list[tuple[int, int]], true_ns: int) -> int:
    """How far the line through the points lies from the truth at the last one."""
    found = fit(points)
    assert found is not None
    return found[0].at(points[-1][0]) - true_ns


@given(
    ppm=st.integers(-500, 500),
    count=st.integers(6, 20),
    stray_ms=st.integers(-19, 19),
    data=st.data(),
)
def test_one_stray_report_does_not_bend_the_line(
    ppm: int, count: int, stray_ms: int, data: st.DataObject
) -> None:
    points = series(count, ppm=ppm)
    true_ns = points[-1][1]
    at = data.draw(st.integers(0, count - 2))
    points[at] = (points[at][0], points[at][1] + stray_ms * MS)
    # Below the bound for strays a report counts; that much it may do.
    bound_ns = 2 * NOISE_NS if abs(stray_ms) * MS > STRAY_NS + NOISE_NS else STRAY_NS + NOISE_NS
    assert abs(off_ns(points, true_ns)) <= bound_ns


@given(
    ppm=st.integers(-500, 500),
    before=st.integers(3, 18),
    lost_ms=st.integers(6, 19),
    sign=st.sampled_from([-1, 1]),
)
def test_lost_sound_is_followed_within_two_reports(
    ppm: int, before: int, lost_ms: int, sign: int
) -> None:
    reports = SenderReports(SenderOffset())
    true_ns = 0
    for n, (media_ns, sender_ns) in enumerate(series(before + 2, ppm=ppm)):
        true_ns = sender_ns + (sign * lost_ms * MS if n >= before else 0)
        ntp = ns_to_ntp(SENDER_EPOCH_NS + true_ns)
        assert reports.add(ntp, media_ns, media_ns + 20 * MS)
        if n == before:
            # What may be a stray is not followed; that it does not fit is stated.
            assert reports.error_ns >= (lost_ms * MS - NOISE_NS) // 2
    line = reports.sender_line
    assert line is not None
    assert abs(line.at(media_ns) - SENDER_EPOCH_NS - true_ns) <= 2 * NOISE_NS


def test_the_first_report_may_be_the_odd_one() -> None:
    # As Chromium's first one of sound was, on a busy machine.
    points = series(3)
    points[0] = (points[0][0], points[0][1] - 20 * MS)
    assert relevelled(points[:2]) == 0
    assert relevelled(points) == pytest.approx(20 * MS, abs=2 * NOISE_NS)


@given(seed=st.integers(0, 1 << 32), count=st.integers(5, 20))
def test_a_sender_that_is_always_late_by_chance_is_not_followed_about(
    seed: int, count: int
) -> None:
    points = series(count, seed=seed, noise_ns=19 * MS)
    assert abs(relevelled(points)) <= 19 * MS
    assert -19 * MS <= off_ns(points, points[-1][0]) <= 2 * 19 * MS


def test_drift_alone_moves_nothing() -> None:
    for ppm in (-900, 900):
        for count in range(3, 20):
            assert relevelled(series(count, ppm=ppm)) == 0
