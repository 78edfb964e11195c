"""`SourceClock` and `RtpClock`: slew, steps, epochs, and what happens to real senders (G12)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.clock import Line, RtpClock, SenderOffset, SourceClock
from counterpoint.streams.types import ClockUpdate, Modality, Tier
from tests.support.rtp_sender import MS, SENDER_EPOCH_NS, ns_to_ntp

S = 1_000 * MS
TURN = 1 << 32

OFFERS = st.tuples(
    st.sampled_from(list(Tier)),
    st.integers(-2_000 * MS, 2_000 * MS) | st.integers(-300 * MS, 300 * MS),
    st.integers(-1_000, 1_000),
)


def clock() -> SourceClock:
    return SourceClock("camera", Modality.VIDEO)


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 20 * S) | st.integers(0, 100 * MS), OFFERS | st.none()),
        min_size=1,
        max_size=60,
    )
)
def test_time_goes_on_within_an_epoch_slews_within_its_bound_and_steps_only_past_250_ms(
    steps: list[tuple[int, tuple[Tier, int, int] | None]],
) -> None:
    mapping = clock()
    lines = {Tier.ARRIVAL: Line(x_ns=0, y_ns=0)}
    mapping.offer(Tier.ARRIVAL, lines[Tier.ARRIVAL])
    media_ns, last_ns, epoch = 0, mapping.map(0), 0
    for run_ns, offer in steps:
        if offer is not None:
            tier, offset_ns, ppm = offer
            lines[tier] = Line(x_ns=media_ns, y_ns=media_ns + offset_ns, rate=ppm / 1e6)
            mapping.offer(tier, lines[tier])
        media_ns += run_ns
        t_ns = mapping.map(media_ns)
        best = min(lines, key=list(Tier).index)
        assert mapping.tier is best
        line = lines[best]
        target_ns = max(0, line.at(media_ns))
        straight_ns = last_ns + run_ns + run_ns * line.rate
        correction_ns = target_ns - straight_ns
        assert t_ns >= 0
        if run_ns == 0:
            assert t_ns == last_ns
        elif mapping.epoch == epoch:
            assert t_ns >= last_ns
            # Sound and pictures from before the session's beginning all lie at its beginning.
            assert abs(correction_ns) <= 250 * MS + 2 or t_ns == last_ns == 0
            if t_ns != 0:
                assert abs(t_ns - straight_ns) <= run_ns * 5 // 1_000 + 2
                # It never passes the mapping that it follows.
                assert abs(target_ns - t_ns) <= abs(correction_ns) + 2
        else:
            assert mapping.epoch == epoch + 1
            assert abs(correction_ns) > 250 * MS - 2
            assert t_ns == target_ns
        last_ns, epoch = t_ns, mapping.epoch


@pytest.mark.parametrize("sign", [1, -1])
def test_250_ms_are_slewed_and_one_nanosecond_more_is_a_step(sign: int) -> None:
    for over_ns, epoch in ((0, 0), (1, 1)):
        mapping = clock()
        mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=S))
        assert mapping.map(0) == S
        mapping.offer(Tier.REPORTS, Line(x_ns=0, y_ns=S + sign * (250 * MS + over_ns)))
        got_ns = mapping.map(S)
        assert mapping.epoch == epoch
        assert got_ns == 2 * S + sign * (5 * MS if epoch == 0 else 250 * MS + 1)


def test_a_correction_takes_as_long_as_5_ms_a_second_need() -> None:
    mapping = clock()
    mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=S))
    mapping.map(0)
    mapping.offer(Tier.REPORTS, Line(x_ns=0, y_ns=S - 40 * MS), 2 * MS)
    off_ms = [(mapping.map(n * S // 10) - n * S // 10 - S) / MS for n in range(1, 101)]
    assert off_ms == pytest.approx([max(-0.5 * n, -40) for n in range(1, 101)])
    assert mapping.error_ns == 2 * MS
    assert mapping.epoch == 0


def test_an_older_sample_lies_before_and_corrects_nothing() -> None:
    mapping = clock()
    mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=S))
    mapping.map(10 * S)
    mapping.offer(Tier.REPORTS, Line(x_ns=0, y_ns=S + 9 * S))
    assert mapping.map(9 * S) == 10 * S
    assert mapping.epoch == 0
    assert mapping.map(10 * S + 1) == 20 * S + 1
    assert mapping.epoch == 1


def test_without_any_mapping_it_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="camera: no mapping yet"):
        clock().map(0)


def test_a_mapping_taken_away_gives_way_to_the_next_and_the_last_one_stays() -> None:
    mapping = clock()
    mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=S))
    mapping.offer(Tier.CAPTURE, Line(x_ns=0, y_ns=S))
    tiers = [mapping.tier]
    mapping.offer(Tier.CAPTURE, None)
    tiers.append(mapping.tier)
    assert tiers == [Tier.CAPTURE, Tier.ARRIVAL]
    mapping.offer(Tier.ARRIVAL, None)
    assert mapping.map(5 * S) == 6 * S


def test_an_update_comes_with_the_first_sample_and_then_only_with_changes_of_weight() -> None:
    mapping = clock()
    assert mapping.take_update() is None
    mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=S), 10 * MS)
    mapping.map(0)
    assert mapping.take_update() == ClockUpdate(
        source="camera",
        modality=Modality.VIDEO,
        t_ns=S,
        tier=Tier.ARRIVAL,
        error_ns=10 * MS,
        epoch=0,
    )
    told = []
    for n in range(1, 1_000):
        mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=S), 10 * MS + n)
        mapping.map(n * 20 * MS)
        told.append(mapping.take_update())
    assert told == [None] * 999
    mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=S), 4 * MS)
    mapping.map(30 * S)
    update = mapping.take_update()
    assert update is not None
    assert update.error_ns == 4 * MS
    mapping.reconnect()
    assert mapping.take_update() is None
    mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=40 * S), 4 * MS)
    mapping.map(0)
    update = mapping.take_update()
    assert update is not None
    assert (update.epoch, update.t_ns) == (1, 40 * S)


def test_a_reconnection_before_the_first_sample_is_no_break() -> None:
    mapping = clock()
    mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=S))
    mapping.reconnect()
    mapping.offer(Tier.ARRIVAL, Line(x_ns=0, y_ns=S))
    mapping.map(0)
    assert mapping.epoch == 0


def track() -> RtpClock:
    return RtpClock("camera", Modality.VIDEO, 90_000, SenderOffset())


def play(
    rtp: RtpClock,
    seconds: range,
    *,
    ssrc: int = 1,
    first: int = 0,
    step_s: int = 0,
    lead_ms: int = 0,
    reports: bool = True,
) -> list[tuple[int, int]]:
    """Ten packets a second and a report each second, 20 ms of path: (epoch, t less truth).

    Reports place media ``lead_ms`` later than they were.
    """
    got = []
    for n in range(seconds.start * 10, seconds.stop * 10):
        true_ns = n * 100 * MS
        timestamp = (first + n * 9_000) % TURN
        if reports and n % 10 == 0:
            ntp = ns_to_ntp(SENDER_EPOCH_NS + true_ns + step_s * S)
            reported = (timestamp - 90 * lead_ms) % TURN
            rtp.report(ssrc, ntp, reported, true_ns + 20 * MS)
        media_ns = rtp.packet(ssrc, timestamp, true_ns + 20 * MS)
        assert media_ns is not None
        t_ns = rtp.map(media_ns)
        assert t_ns >= 0
        got.append((rtp.clock.epoch, t_ns - true_ns))
    return got


def test_an_rtp_wrap_breaks_nothing() -> None:
    rtp = track()
    got = play(rtp, range(60), first=TURN - 30 * 90_000)
    assert all(epoch == 0 and abs(off - 20 * MS) < 30_000 for epoch, off in got)
    assert rtp.clock.tier is Tier.REPORTS


@pytest.mark.parametrize("step_s", [-86_400, -2, 2, 86_400])
def test_an_ntp_step_breaks_nothing(step_s: int) -> None:
    rtp = track()
    got = play(rtp, range(60)) + play(rtp, range(60, 120), step_s=step_s)
    assert all(epoch == 0 and abs(off - 20 * MS) < 30_000 for epoch, off in got)
    assert rtp.clock.tier is Tier.REPORTS


@pytest.mark.parametrize("lead_ms", [30, 600, 1_300])
def test_reports_that_place_media_ahead_of_their_arrival_are_moved_back(lead_ms: int) -> None:
    # As FFmpeg's WHIP muxer does by as long as it took to connect.
    rtp = track()
    got = play(rtp, range(150), first=TURN - 90_000, lead_ms=lead_ms)
    assert all(epoch == 0 and abs(off - 20 * MS) < 30_000 for epoch, off in got)
    assert rtp.clock.tier is Tier.REPORTS


def test_a_lead_is_that_of_all_tracks() -> None:
    offset = SenderOffset()
    camera = RtpClock("camera", Modality.VIDEO, 90_000, offset)
    other = RtpClock("screen", Modality.VIDEO, 90_000, offset)
    for second in range(60):
        seconds = range(second, second + 1)
        ahead = play(camera, seconds, lead_ms=700)
        # Its reports alone would do; those of the same sender's other track do not.
        right = play(other, seconds, ssrc=2)
        if second > 30:
            assert {off for _, off in right} == {-680 * MS}
            assert {off for _, off in ahead} == {20 * MS}
    assert offset.lead_ns == 700 * MS


def test_a_lead_is_forgotten_with_the_media_clock_that_it_was_of() -> None:
    offset = SenderOffset()
    rtp = RtpClock("camera", Modality.VIDEO, 90_000, offset)
    play(rtp, range(30))
    assert offset.lead_ns == 0
    jumped = play(rtp, range(30, 31), first=3 * 90_000)  # it seems to be ahead by as much
    assert offset.lead_ns == 3 * S
    play(rtp, range(31, 60), first=3 * 90_000)
    got = jumped + play(rtp, range(60, 90), first=3 * 90_000)
    assert offset.lead_ns == 0
    assert all(abs(off - 20 * MS) < MS for _, off in got)


@pytest.mark.parametrize("first", [0, TURN - 1, 1 << 31, 123_456_789])
def test_a_change_of_ssrc_is_one_epoch_and_time_goes_on(first: int) -> None:
    rtp = track()
    before = play(rtp, range(30))
    after = play(rtp, range(30, 60), ssrc=2, first=first)
    assert {epoch for epoch, _ in before} == {0}
    assert {epoch for epoch, _ in after} == {1}
    assert all(abs(off - 20 * MS) < 30_000 for _, off in before + after)


def test_a_packet_of_the_ssrc_before_is_told_apart_for_a_while() -> None:
    rtp = track()
    play(rtp, range(30))
    play(rtp, range(30, 31), ssrc=2, first=777)
    assert rtp.packet(1, 30 * 90_000, 31 * S) is None
    assert not rtp.report(1, ns_to_ntp(SENDER_EPOCH_NS), 0, 31 * S)
    assert {epoch for epoch, _ in play(rtp, range(31, 40), ssrc=2, first=777)} == {1}


def test_a_jump_of_the_media_clock_is_an_epoch() -> None:
    rtp = track()
    play(rtp, range(30), reports=False)
    got = play(rtp, range(30, 90), first=90_000 * 1_000, reports=False)
    # The envelope goes by the majority of thirty seconds, then once by what is left.
    assert got[-1][1] == pytest.approx(20 * MS, abs=MS)
    assert 1 <= got[-1][0] <= 4


def test_reports_that_cease_are_not_trusted_for_ever() -> None:
    rtp = track()
    play(rtp, range(30))
    tiers = [rtp.clock.tier]
    got = play(rtp, range(30, 120), reports=False)
    tiers.append(rtp.clock.tier)
    assert tiers == [Tier.REPORTS, Tier.ARRIVAL]
    assert {epoch for epoch, _ in got} == {0}


def test_a_burst_at_the_start_is_kept_out_where_it_was_seen_before_the_first_map() -> None:
    rtp = track()
    for n in range(8):  # 0.8 s of media at once
        rtp.packet(1, n * 9_000, S)
    assert rtp.map(700 * MS) == S
    assert rtp.map(0) == 300 * MS
    assert rtp.clock.epoch == 0
