"""Resampling that loses no sample and no nanosecond, and that follows a drifting clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.engine.kernels import reference
from counterpoint.engine.preprocess.resample import StreamResampler
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
