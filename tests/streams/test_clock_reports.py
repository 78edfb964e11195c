"""Sender Reports: regression, what is refused, resets, and the offset they share."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.clock import SenderOffset, SenderReports
from tests.support.rtp_sender import MS, SENDER_EPOCH_NS, ns_to_ntp

S = 1_000 * MS


def ntp(sender_ns: int) -> int:
    return ns_to_ntp(SENDER_EPOCH_NS + sender_ns)


def fed(count: int, offset: SenderOffset | None = None, *, every_ns: int = 5 * S) -> SenderReports:
    reports = SenderReports(offset or SenderOffset())
    for n in range(count):
        assert reports.add(ntp(n * every_ns), n * every_ns, n * every_ns + 20 * MS)
    return reports


@given(
    ppm=st.integers(-900, 900),
    count=st.integers(3, 40),
    media_from_ns=st.integers(0, 8 * 3_600 * S),
    seed=st.integers(0, 1 << 32),
)
def test_its_line_is_that_of_polyfit_over_the_last_20(
    ppm: int, count: int, media_from_ns: int, seed: int
) -> None:
    rng = random.Random(seed)
    reports = SenderReports(SenderOffset())
    points = []
    for n in range(count):
        media_ns = n * 5 * S
        sender_ns = media_ns + media_ns * ppm // 1_000_000 + rng.randrange(MS // 2)
        points.append((media_ns, sender_ns))
        assert reports.add(ntp(sender_ns), media_from_ns + media_ns, sender_ns + 20 * MS)
    last = np.array(points[-20:], np.float64)
    slope, intercept = np.polyfit(last[:, 0], last[:, 1] - last[:, 0], 1)
    line = reports.sender_line
    assert line is not None
    assert line.rate == pytest.approx(slope, abs=1e-8)
    at_ns = points[-1][0]
    got_ns = line.at(media_from_ns + at_ns) - SENDER_EPOCH_NS - at_ns
    assert got_ns == pytest.approx(intercept + slope * at_ns, abs=50)


def test_there_is_no_line_before_two_reports_a_second_apart() -> None:
    reports = SenderReports(SenderOffset())
    lines = []
    for t_ns in (0, 500 * MS, 999 * MS):
        assert reports.add(ntp(t_ns), t_ns, t_ns)
        lines.append(reports.line)
    assert reports.add(ntp(S), S, S)
    assert lines == [None] * 3
    assert reports.line is not None


def test_reports_at_twice_the_rate_never_give_a_line() -> None:
    reports = SenderReports(SenderOffset())
    for n in range(100):
        reports.add(ntp(n * 10 * S), n * 5 * S, n * 5 * S + 20 * MS)
        assert reports.line is None


def test_a_slope_more_than_a_thousandth_off_gives_no_line() -> None:
    reports = SenderReports(SenderOffset())
    for n in range(50):
        reports.add(ntp(n * 5 * S + n * 10 * MS), n * 5 * S, n * 5 * S)
        assert reports.line is None


def test_repeats_and_older_reports_are_passed_over() -> None:
    reports = fed(10)
    before = reports.line
    for at_ns in (50 * S, 60 * S, 70 * S, 80 * S):
        assert not reports.add(ntp(45 * S), 45 * S, at_ns)
        assert not reports.add(ntp(40 * S), 40 * S, at_ns)
    assert reports.line == before
    assert reports.resets == 0


@pytest.mark.parametrize("garbage", [0, 0xFFFFFFFF_00000000, 0xFFFFFFFF_FFFFFFFF])
def test_garbage_is_passed_over_even_as_the_first(garbage: int) -> None:
    reports = SenderReports(SenderOffset())
    assert not reports.add(garbage, 0, 20 * MS)
    for n in range(1, 4):
        assert reports.add(ntp(n * S), n * S, n * S + 20 * MS)
        assert not reports.add(garbage, n * S + 1, n * S + 20 * MS)
    assert reports.line is not None
    assert reports.resets == 0


def test_one_or_two_outliers_leave_the_line_as_it_is() -> None:
    reports = fed(10)
    before = reports.line
    assert not reports.add(ntp(50 * S + 300 * MS), 50 * S, 50 * S)
    assert not reports.add(ntp(55 * S - 900 * MS), 55 * S, 55 * S)
    assert reports.line == before
    assert reports.add(ntp(60 * S), 60 * S, 60 * S + 20 * MS)
    assert reports.resets == 0


def test_a_jump_of_the_media_clock_is_learned_anew_and_the_offset_is_kept() -> None:
    offset = SenderOffset()
    reports = fed(30, offset)
    shared = offset.line
    jump_ns = 3_000 * S
    for n in range(30, 33):
        taken = reports.add(ntp(n * 5 * S), n * 5 * S + jump_ns, n * 5 * S + 20 * MS)
        assert taken == (n == 32)
    assert reports.resets == 1
    lines = [reports.line]
    assert offset.line == shared
    assert reports.add(ntp(165 * S), 165 * S + jump_ns, 165 * S + 20 * MS)
    lines.append(reports.line)
    assert lines[0] is None
    assert lines[1] is not None
    assert lines[1].at(165 * S + jump_ns) == pytest.approx(165 * S + 20 * MS, abs=MS)


@pytest.mark.parametrize("step_s", [-3_600, -5, -1, 1, 5, 3_600])
def test_when_the_senders_clock_is_set_the_mapping_stays(step_s: int) -> None:
    offset = SenderOffset()
    audio, video = SenderReports(offset), SenderReports(offset)
    for n in range(60):
        t_ns = n * 5 * S
        step_ns = step_s * S if n >= 30 else 0
        for reports, ahead_ns in ((audio, 0), (video, 77 * S)):
            reports.add(ntp(100_000 * S + t_ns + step_ns), t_ns + ahead_ns, t_ns + 20 * MS)
            if n >= 2:
                line = reports.line
                assert line is not None
                assert line.at(t_ns + ahead_ns) == pytest.approx(t_ns + 20 * MS, abs=MS)
    assert audio.resets == video.resets == 1


def test_a_sender_that_drifts_is_followed_for_hours() -> None:
    offset = SenderOffset()
    reports = SenderReports(offset)
    for n in range(8 * 720):
        t_ns = n * 5 * S
        reports.add(ntp(t_ns + t_ns // 2_000), t_ns, t_ns + 20 * MS)
        if n > 30:
            line = reports.line
            assert line is not None
            assert line.at(t_ns) == pytest.approx(t_ns + 20 * MS, abs=MS)


def test_the_offset_goes_by_the_least_delayed_report() -> None:
    offset = SenderOffset()
    assert offset.delay_ns(SENDER_EPOCH_NS, 0) == 0
    for n, delay_ms in enumerate((70, 25, 40, 90)):
        offset.add(SENDER_EPOCH_NS + n * S, n * S + delay_ms * MS)
    assert offset.line is not None
    assert offset.line.at(SENDER_EPOCH_NS) == 25 * MS
    assert offset.delay_ns(SENDER_EPOCH_NS + 9 * S, 9 * S + 40 * MS) == 15 * MS
