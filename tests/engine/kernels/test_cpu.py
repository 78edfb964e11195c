"""The fast kernels against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.engine.kernels import cpu, reference
from counterpoint.engine.kernels.reference import Rectangle
from counterpoint.engine.preprocess.spec import AudioSpec, VideoSpec
from counterpoint.streams.types import Float32Array
from tests.support.media import grid_face, grid_speech

SPEC = AudioSpec()
LOG_MEL = cpu.LogMel(SPEC)


def loud_and_quiet(samples: int) -> Float32Array:
    """A full-scale low tone over sound 80 dB below it: hard for a float32 transform."""
    t = np.arange(samples) / 16_000
    noise = np.random.default_rng(5).standard_normal(samples)
    return (0.9 * np.sin(2 * np.pi * 110 * t) + 1e-4 * noise).astype(np.float32)


@pytest.mark.parametrize(
    "sound", [grid_speech()[: 240 + 190 * 160], loud_and_quiet(240 + 50 * 160)]
)
def test_log_mel_agrees_with_the_reference(sound: Float32Array) -> None:
    assert LOG_MEL(sound) == pytest.approx(reference.log_mel(sound, SPEC), abs=1e-5)


@given(frames=st.integers(0, 7), gain_db=st.floats(-120, 0), seed=st.integers(0, 2**16))
def test_log_mel_agrees_with_the_reference_at_any_level(
    frames: int, gain_db: float, seed: int
) -> None:
    noise = np.random.default_rng(seed).standard_normal(240 + 160 * frames)
    sound = (noise * 10 ** (gain_db / 20)).astype(np.float32)
    assert LOG_MEL(sound) == pytest.approx(reference.log_mel(sound, SPEC), abs=1e-5)


def test_log_mel_follows_the_specification() -> None:
    spec = AudioSpec(
        rate_hz=8_000,
        window_samples=200,
        fft_size=256,
        mel_bins=20,
        f_max_hz=3_800.0,
        mean=(0.0,) * 20,
        std=(1.0,) * 20,
    )
    sound = loud_and_quiet(120 + 80 * 9)
    assert cpu.LogMel(spec)(sound) == pytest.approx(reference.log_mel(sound, spec), abs=1e-5)


@pytest.mark.parametrize("samples", [0, 239, 241])
def test_log_mel_refuses_a_broken_frame(samples: int) -> None:
    with pytest.raises(ValueError, match="240"):
        LOG_MEL(np.zeros(samples, np.float32))


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_the_resampler_agrees_with_the_reference(rate_hz: int) -> None:
    rng = np.random.default_rng(rate_hz)
    samples = rate_hz // 2 + 7
    t = np.arange(samples) / rate_hz
    highest_hz = 0.9 * min(rate_hz, 16_000) / 2
    sound = sum(
        0.05 * np.sin(2 * np.pi * hz * t + phase)
        for hz, phase in rng.uniform((50, 0), (highest_hz, 6), (20, 2))
    )
    # Faded in and out: how a filter starts on a step is its own affair.
    faded = (sound * np.minimum(1, 20 * np.minimum(t, t[::-1]))).astype(np.float32)
    fast = cpu.resampler(rate_hz, 16_000).resample_chunk(faded, last=True)
    expected = reference.resample(faded, rate_hz, 16_000)
    common = min(len(fast), len(expected))
    assert len(expected) - common <= 1
    assert fast[:common] == pytest.approx(expected[:common], abs=2e-4)


@given(
    shape=st.tuples(st.integers(2, 90), st.integers(2, 90)),
    x=st.integers(-30, 90),
    y=st.integers(-30, 90),
    side=st.integers(1, 120),
    seed=st.integers(0, 2**16),
)
def test_crops_agree_with_the_reference(
    shape: tuple[int, int], x: int, y: int, side: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    rectangle = Rectangle(x=x, y=y, width=side, height=side)
    fast = cpu.crop_resize(image, rectangle, 48).astype(np.int16)
    assert np.abs(fast - reference.crop_resize(image, rectangle, 48)).max() <= 1


def test_a_real_face_is_cropped_as_by_the_reference() -> None:
    image = grid_face()
    for rectangle in (
        Rectangle(x=97, y=95, width=141, height=141),
        Rectangle(x=250, y=-20, width=131, height=131),
        Rectangle(x=150, y=150, width=31, height=31),
    ):
        fast = cpu.crop_resize(image, rectangle, 48).astype(np.int16)
        assert np.abs(fast - reference.crop_resize(image, rectangle, 48)).max() <= 1


def test_crops_must_be_square() -> None:
    with pytest.raises(ValueError, match="square"):
        cpu.crop_resize(np.zeros((9, 9), np.uint8), Rectangle(x=0, y=0, width=4, height=5), 48)


def test_tables_give_what_the_formulas_give() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    spec = VideoSpec(mean=0.507, std=0.255)
    assert np.array_equal(cpu.to_full_range(levels), reference.to_full_range(levels))
    assert np.array_equal(cpu.normalise_face(levels, spec), reference.normalise_face(levels, spec))
