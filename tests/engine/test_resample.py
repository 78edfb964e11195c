"""Resampling that loses no sample and no nanosecond, and that follows a drifting clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.engine.kernels import reference
from counterpoint.engine.preprocess.resample import (
    CONTIGUOUS_TOLERANCE_NS,
    SETTLING_NS,
    TRACKING_ERROR_NS,
    StreamResampler,
)
from counterpoint.streams.types import NS_PER_S, AudioChunk, Float32Array


def noise(samples: int, seed: int = 0) -> Float32Array:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def chunks_of(
    sound: Float32Array, rate_hz: int, sizes: Sequence[int], *, t0_ns: int = 0
) -> list[AudioChunk]:
    """The sound cut into chunks of these sizes (repeated as needed), their times exact."""
    chunks: list[AudioChunk] = []
    start = 0
    while start < len(sound):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(
            AudioChunk(
                source="microphone",
                t_ns=t0_ns + start * NS_PER_S // rate_hz,
                samples=sound[start : start + size].copy(),
                rate_hz=rate_hz,
                sequence=len(chunks),
            )
        )
        start += size
    return chunks


def resampled(chunks: Sequence[AudioChunk], rate_hz: int = 16_000) -> list[AudioChunk]:
    resampler = StreamResampler(rate_hz)
    out = [given for chunk in chunks for given in resampler.push(chunk)]
    return [*out, *resampler.flush()]


def joined(chunks: Sequence[AudioChunk]) -> Float32Array:
    return np.concatenate([chunk.samples for chunk in chunks])


def assert_one_run(chunks: Sequence[AudioChunk], t0_ns: int) -> None:
    """Times follow from the first sample's, rounded down; numbers count up from 0."""
    given = 0
    for number, chunk in enumerate(chunks):
        assert chunk.t_ns == t0_ns + given * NS_PER_S // chunk.rate_hz
        assert chunk.sequence == number
        given += len(chunk.samples)


RATES = st.sampled_from([8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])


@given(
    rate_hz=RATES,
    samples=st.integers(1, 6_000),
    sizes=st.lists(st.integers(1, 2_500), min_size=1, max_size=6),
    t0_ns=st.integers(0, 10 * NS_PER_S),
)
def test_any_cutting_into_chunks_gives_the_same_samples(
    rate_hz: int, samples: int, sizes: list[int], t0_ns: int
) -> None:
    sound = noise(samples)
    # Chunks of one sample make the test slow and show nothing more than the first few do.
    sizes = [*sizes, 500]
    cut = resampled(chunks_of(sound, rate_hz, sizes, t0_ns=t0_ns))
    whole = resampled(chunks_of(sound, rate_hz, [samples], t0_ns=t0_ns))
    assert np.array_equal(joined(cut), joined(whole))
    assert len(joined(cut)) == math.ceil(samples * 16_000 / rate_hz)
    assert_one_run(cut, t0_ns)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_resampled_sound_is_the_references(rate_hz: int) -> None:
    t = np.arange(rate_hz) / rate_hz
    fade = np.minimum(1, 20 * np.minimum(t, t[::-1]))
    sound = (0.3 * fade * (np.sin(2 * np.pi * 440 * t) + np.sin(2 * np.pi * 2_900 * t))).astype(
        np.float32
    )
    out = joined(resampled(chunks_of(sound, rate_hz, [1024])))
    assert out == pytest.approx(reference.resample(sound, rate_hz, 16_000), abs=2e-4)


def test_sound_at_the_right_rate_passes_through() -> None:
    sound = noise(5_000)
    chunks = resampled(chunks_of(sound, 16_000, [777], t0_ns=31))
    assert np.array_equal(joined(chunks), sound)
    assert len(chunks) == 7
    assert_one_run(chunks, 31)


@given(jitter_ns=st.lists(st.integers(-4_999_999, 4_999_999), min_size=9, max_size=9))
def test_rounded_times_make_no_gap(jitter_ns: list[int]) -> None:
    sound = noise(9 * 480)
    exact = chunks_of(sound, 48_000, [480], t0_ns=NS_PER_S)
    rounded = [
        AudioChunk(
            source=chunk.source,
            t_ns=chunk.t_ns + (late_ns if index else 0),
            samples=chunk.samples,
            rate_hz=chunk.rate_hz,
            sequence=chunk.sequence,
        )
        for index, (chunk, late_ns) in enumerate(zip(exact, jitter_ns, strict=True))
    ]
    out = resampled(rounded)
    assert np.array_equal(joined(out), joined(resampled(exact)))
    assert_one_run(out, NS_PER_S)


@pytest.mark.parametrize("shift_ns", [5_000_000, 40_000_000, -5_000_000])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_a_gap_starts_a_new_run_at_its_own_time(rate_hz: int, shift_ns: int) -> None:
    before, after = noise(rate_hz // 10, seed=1), noise(rate_hz // 10, seed=2)
    t1_ns = NS_PER_S // 10 + shift_ns
    first, second = chunks_of(before, rate_hz, [441]), chunks_of(after, rate_hz, [441], t0_ns=t1_ns)
    out = resampled([*first, *second])
    starts = [index for index, chunk in enumerate(out) if chunk.t_ns == t1_ns]
    assert len(starts) == 1
    runs = out[: starts[0]], out[starts[0] :]
    # Nothing of the first run leaks into the second: both are what they are alone.
    assert np.array_equal(joined(runs[0]), joined(resampled(first)))
    assert np.array_equal(joined(runs[1]), joined(resampled(second)))
    assert [chunk.sequence for chunk in out] == list(range(len(out)))


def test_a_drifting_clock_starts_a_new_run_when_it_is_5_ms_off() -> None:
    # 100 ppm slow: each 10 ms chunk is 1 µs later than its samples say.
    resampler = StreamResampler(16_000)
    starts = [
        chunk.t_ns
        for number in range(12_000)
        for chunk in resampler.push(
            AudioChunk(
                source="microphone",
                t_ns=number * 10_001_000,
                samples=np.zeros(160, np.float32),
                rate_hz=16_000,
                sequence=number,
            )
        )
    ]
    jumps = [b - a for a, b in pairwise(starts) if b - a != 10_000_000]
    assert jumps == [15_000_000, 15_000_000]


def test_a_change_of_rate_starts_a_new_run() -> None:
    first = chunks_of(noise(480), 48_000, [480])
    second = chunks_of(noise(160), 16_000, [160], t0_ns=10_000_000)
    out = resampled([*first, *second])
    assert np.array_equal(out[-1].samples, second[0].samples)
    assert sum(len(chunk.samples) for chunk in out) == 320
    assert {chunk.rate_hz for chunk in out} == {16_000}


def test_a_flushed_resampler_starts_anew() -> None:
    chunks = chunks_of(noise(4_410), 44_100, [4_410])
    resampler = StreamResampler(16_000)
    first = joined([*resampler.push(chunks[0]), *resampler.flush()])
    assert resampler.flush() == ()
    again = joined([*resampler.push(chunks[0]), *resampler.flush()])
    assert np.array_equal(first, again)


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_the_filter_holds_back_at_most_50_ms(rate_hz: int) -> None:
    resampler, taken, given, most = StreamResampler(16_000), 0, 0, 0.0
    for chunk in chunks_of(noise(rate_hz), rate_hz, [rate_hz // 100]):
        taken += len(chunk.samples)
        given += sum(len(out.samples) for out in resampler.push(chunk))
        most = max(most, taken / rate_hz - given / 16_000)
    assert most <= 0.05


def test_one_resampler_serves_one_source() -> None:
    resampler = StreamResampler(16_000)
    chunk = chunks_of(noise(160), 16_000, [160])[0]
    resampler.push(chunk)
    stranger = AudioChunk(source="other", t_ns=0, samples=chunk.samples, rate_hz=16_000, sequence=0)
    with pytest.raises(ValueError, match="other"):
        resampler.push(stranger)


# --- following a clock ---------------------------------------------------------------------

RATE_HZ = 16_000
START_NS = 10 * NS_PER_S
TONE_HZ = 200
NS_PER_MS = 1_000_000

Mapping = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""From seconds by the source's own clock to seconds of the session, both from the start."""

Sound = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""What there is to hear, by seconds of the session."""


def off_by(ppm: float) -> Mapping:
    return lambda own_s: own_s * (1 + ppm * 1e-6)


def slewing(rate: float) -> Mapping:
    """A correction of ``rate`` seconds a second from the 20th to the 40th second."""
    return lambda own_s: own_s + np.clip(own_s - 20, 0, 20) * rate


def tone(session_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * TONE_HZ * session_s)


def pulses(session_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One each half second, at 0.25 s, 0.75 s and so on, 2 ms wide."""
    return np.exp(-0.5 * (((session_s % 0.5) - 0.25) / 0.002) ** 2)


def recorded(
    sound: Sound,
    mapping: Mapping,
    *,
    rate_hz: int,
    seconds: float,
    jitter_ns: int = 0,
    chunk_s: float = 0.02,
) -> list[AudioChunk]:
    """What a source brings whose clock is off: its samples, their mapped times with jitter."""
    jitter = np.random.default_rng(7)
    samples = round(seconds * rate_hz)
    size = round(chunk_s * rate_hz)
    chunks: list[AudioChunk] = []
    for start in range(0, samples, size):
        own_s = np.arange(start, min(start + size, samples)) / rate_hz
        late_ns = int(jitter.integers(-jitter_ns, jitter_ns, endpoint=True))
        first_ns = round(float(mapping(own_s[:1])[0]) * NS_PER_S)
        chunks.append(
            AudioChunk(
                source="microphone",
                t_ns=START_NS + first_ns + late_ns,
                samples=sound(mapping(own_s)).astype(np.float32),
                rate_hz=rate_hz,
                sequence=len(chunks),
            )
        )
    return chunks


def followed(chunks: Sequence[AudioChunk], rate_hz: int = RATE_HZ) -> list[AudioChunk]:
    resampler = StreamResampler(rate_hz, variable=True)
    out = [given for chunk in chunks for given in resampler.push(chunk)]
    return [*out, *resampler.flush()]


def session_s(out: Sequence[AudioChunk]) -> npt.NDArray[np.float64]:
    """When each sample of one run lies, by the time of the run's first."""
    samples = sum(len(chunk.samples) for chunk in out)
    return (out[0].t_ns - START_NS) / NS_PER_S + np.arange(samples) / out[0].rate_hz


def lateness_of_tone_ms(out: Sequence[AudioChunk]) -> npt.NDArray[np.float64]:
    """How much too late the tone lies, at each sample: its phase against the true tone's."""
    times = session_s(out)
    beat = joined(out) * np.exp(-2j * np.pi * TONE_HZ * times)
    period = RATE_HZ // TONE_HZ
    mean = np.convolve(beat, np.full(2 * period, 1 / (2 * period)), "same")
    # sin(x) e^-ix has the mean -i/2: without an error the angle is -90 degrees.
    phase = np.unwrap(np.angle(mean * 1j))
    late: npt.NDArray[np.float64] = -phase / (2 * np.pi * TONE_HZ) * 1e3
    late[: 2 * period] = late[2 * period]
    late[-2 * period :] = late[-2 * period]
    return late


def assert_clean(out: Sequence[AudioChunk]) -> None:
    """Nothing but the tone: a click is broad-band, and bends the curve more than the tone does."""
    sound = joined(out).astype(np.float64)[RATE_HZ // 10 : -RATE_HZ // 10]
    steepest = 0.5 * (2 * np.sin(np.pi * TONE_HZ / RATE_HZ)) ** 2
    assert np.abs(np.diff(sound, 2)).max() < 1.05 * steepest
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    away = np.abs(np.fft.rfftfreq(len(sound), 1 / RATE_HZ) - TONE_HZ) > 60
    assert 10 * math.log10(power[away].sum() / power.sum()) < -70


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
@pytest.mark.parametrize("ppm", [500, -500, 100])
def test_a_drifting_clock_is_followed_without_gaps_or_clicks(rate_hz: int, ppm: int) -> None:
    mapping = off_by(ppm)
    chunks = recorded(tone, mapping, rate_hz=rate_hz, seconds=120, jitter_ns=NS_PER_MS)
    out = followed(chunks)
    assert_one_run(out, chunks[0].t_ns)
    assert_clean(out)
    late, times = lateness_of_tone_ms(out), session_s(out)
    assert np.abs(late).max() < CONTIGUOUS_TOLERANCE_NS / NS_PER_MS
    assert np.abs(late[times > 3]).max() < 1
    assert np.abs(late[times > 30]).max() < 1
    assert abs(late[times > 30].mean()) < 0.1
    # No sample too many, none too few: the run ends where the source's sound does.
    end_s = float(mapping(np.array([120.0]))[0])
    assert times[-1] + 1 / RATE_HZ == pytest.approx(end_s, abs=1e-3)


@pytest.mark.parametrize("rate_hz", [16_000, 32_000, 44_100])
@pytest.mark.parametrize("rate", [0.005, -0.005])
def test_a_slew_of_the_mapping_is_followed(rate_hz: int, rate: float) -> None:
    chunks = recorded(
        tone, slewing(rate), rate_hz=rate_hz, seconds=50, jitter_ns=NS_PER_MS, chunk_s=0.01
    )
    out = followed(chunks)
    assert_one_run(out, chunks[0].t_ns)
    assert_clean(out)
    late, times = lateness_of_tone_ms(out), session_s(out)
    settled = times > SETTLING_NS / NS_PER_S
    assert np.abs(late[settled]).max() < TRACKING_ERROR_NS / NS_PER_MS
    # Once the slew lasts, and after it, the error is gone; only the jitter's is left.
    assert np.abs(late[(times > 25) & (times < 39)]).max() < 0.6
    assert np.abs(late[times > 45]).max() < 0.6


@pytest.mark.parametrize(
    "rate_hz", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 64_000, 96_000]
)
@pytest.mark.parametrize("ppm", [0, 300, -300])
def test_what_is_heard_at_an_instant_lies_at_that_instant(rate_hz: int, ppm: int) -> None:
    out = followed(recorded(pulses, off_by(ppm), rate_hz=rate_hz, seconds=6))
    sound, times = joined(out).astype(np.float64), session_s(out)
    for number in range(11):
        true_s = 0.25 + 0.5 * number
        near = np.abs(times - true_s) < 0.05
        centre_s = (sound[near] * times[near]).sum() / sound[near].sum()
        # The filter's delay is compensated from the start, to about half a sample. A clock that
        # drifts has gone 75 us by the first pulse; the servo takes that back.
        within_s = 50e-6 if ppm == 0 else 90e-6
        assert centre_s == pytest.approx(true_s, abs=within_s)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 32_000, 44_100, 48_000])
def test_the_filters_own_delay_is_compensated_before_the_servo_could_do_it(rate_hz: int) -> None:
    out = followed(recorded(pulses, off_by(0), rate_hz=rate_hz, seconds=0.5, chunk_s=0.5))
    sound, times = joined(out).astype(np.float64), session_s(out)
    centre_s = (sound * times).sum() / sound.sum()
    assert centre_s == pytest.approx(0.25, abs=32e-6)  # half a sample
    assert len(sound) == 8_000


@given(
    rate_hz=RATES,
    samples=st.integers(1, 20_000),
    sizes=st.lists(st.integers(1, 2_500), min_size=1, max_size=6),
    t0_ns=st.integers(0, 10 * NS_PER_S),
)
def test_whatever_the_chunks_a_run_lasts_as_long_as_its_sound(
    rate_hz: int, samples: int, sizes: list[int], t0_ns: int
) -> None:
    sizes = [*sizes, 500]
    out = followed(chunks_of(noise(samples), rate_hz, sizes, t0_ns=t0_ns))
    assert_one_run(out, t0_ns)
    assert abs(len(joined(out)) - samples * 16_000 / rate_hz) < 2.5


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
@pytest.mark.parametrize("lost", [1, 3])
def test_a_lost_packet_is_a_gap_however_long_the_run_has_been_followed(
    rate_hz: int, lost: int
) -> None:
    chunks = recorded(tone, off_by(400), rate_hz=rate_hz, seconds=10, jitter_ns=NS_PER_MS)
    before, after = chunks[:300], chunks[300 + lost :]
    out = followed([*before, *after])
    starts = [index for index, chunk in enumerate(out) if chunk.t_ns == after[0].t_ns]
    assert len(starts) == 1
    runs = out[: starts[0]], out[starts[0] :]
    # Nothing of the first run leaks into the second: both are what they are alone.
    assert np.array_equal(joined(runs[0]), joined(followed(before)))
    assert np.array_equal(joined(runs[1]), joined(followed(after)))
    ended_ns = runs[0][-1].t_ns + len(runs[0][-1].samples) * NS_PER_S // RATE_HZ
    missing_ns = after[0].t_ns - ended_ns
    assert missing_ns == pytest.approx(lost * 20 * NS_PER_MS, abs=2.5 * NS_PER_MS)
    assert [chunk.sequence for chunk in out] == list(range(len(out)))


def test_a_jump_back_starts_a_new_run_at_its_own_time() -> None:
    chunks = recorded(tone, off_by(0), rate_hz=RATE_HZ, seconds=4)
    out = followed([*chunks[:150], *chunks[100:]])
    jumps = [b.t_ns for a, b in pairwise(out) if b.t_ns < a.t_ns]
    assert jumps == [chunks[100].t_ns]


def test_following_from_the_first_chunk_on_changes_nothing_else() -> None:
    chunks = recorded(tone, off_by(200), rate_hz=48_000, seconds=2)
    resampler = StreamResampler(RATE_HZ)
    assert resampler.follow() == ()
    assert resampler.variable
    out = [given for chunk in chunks for given in resampler.push(chunk)]
    assert resampler.follow() == ()
    out += resampler.flush()
    assert np.array_equal(joined(out), joined(followed(chunks)))


def test_following_in_mid_stream_ends_the_run() -> None:
    chunks = recorded(tone, off_by(0), rate_hz=48_000, seconds=2)
    resampler = StreamResampler(RATE_HZ)
    first = [given for chunk in chunks[:50] for given in resampler.push(chunk)]
    first += resampler.follow()
    assert np.array_equal(joined(first), joined(resampled(chunks[:50])))
    second = [given for chunk in chunks[50:] for given in resampler.push(chunk)]
    assert second[0].t_ns == chunks[50].t_ns
    assert second[0].sequence == first[-1].sequence + 1


def test_the_error_it_states_is_the_smaller_one_only_once_a_followed_run_has_settled() -> None:
    chunks = recorded(tone, off_by(0), rate_hz=RATE_HZ, seconds=6)
    fixed, following = StreamResampler(RATE_HZ), StreamResampler(RATE_HZ, variable=True)
    assert following.placing_error_ns == CONTIGUOUS_TOLERANCE_NS
    for chunk in chunks[:100]:
        fixed.push(chunk)
        following.push(chunk)
        assert following.placing_error_ns == CONTIGUOUS_TOLERANCE_NS
    for chunk in chunks[100:]:
        fixed.push(chunk)
        following.push(chunk)
    assert following.placing_error_ns == TRACKING_ERROR_NS
    assert fixed.placing_error_ns == CONTIGUOUS_TOLERANCE_NS
    following.flush()
    assert following.placing_error_ns == CONTIGUOUS_TOLERANCE_NS


@pytest.mark.parametrize(
    ("chunk_s", "error_ns"), [(0.1, TRACKING_ERROR_NS), (0.25, CONTIGUOUS_TOLERANCE_NS)]
)
def test_chunks_too_long_for_the_servo_have_the_larger_error(chunk_s: float, error_ns: int) -> None:
    resampler = StreamResampler(RATE_HZ, variable=True)
    for chunk in recorded(tone, off_by(0), rate_hz=RATE_HZ, seconds=6, chunk_s=chunk_s):
        resampler.push(chunk)
    assert resampler.placing_error_ns == error_ns


def test_what_the_variable_filter_holds_back_stays_below_20_ms() -> None:
    resampler, most = StreamResampler(RATE_HZ, variable=True), 0.0
    taken = given = 0
    for chunk in recorded(tone, off_by(0), rate_hz=48_000, seconds=2):
        taken += len(chunk.samples)
        given += sum(len(out.samples) for out in resampler.push(chunk))
        most = max(most, taken / 48_000 - given / RATE_HZ)
    assert 0.01 < most < 0.02


@pytest.mark.parametrize("ppm", [500, -500])
def test_eight_hours_add_up_to_no_error(ppm: int) -> None:
    # At 1 kHz, so that it takes seconds: what could add up is counted in samples and chunks.
    resampler, hours_s = StreamResampler(1_000, variable=True), 8 * 3_600
    silence, samples = np.zeros(1_000, np.float32), 0
    for number in range(hours_s):
        own_ns = number * NS_PER_S
        t_ns = own_ns + own_ns * ppm // 1_000_000
        chunk = AudioChunk(
            source="microphone", t_ns=t_ns, samples=silence, rate_hz=1_000, sequence=number
        )
        for out in resampler.push(chunk):
            assert out.t_ns == samples * NS_PER_MS
            samples += len(out.samples)
    held = sum(len(out.samples) for out in resampler.flush())
    assert 200 < held < 300
    true_ms = hours_s * (1_000 + ppm / 1_000)
    assert samples + held == pytest.approx(true_ms, abs=2)
