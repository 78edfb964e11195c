"""The definitions themselves, against values known from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.engine.kernels import reference
from counterpoint.engine.kernels.reference import Rectangle
from counterpoint.engine.preprocess.spec import AudioSpec, VideoSpec
from counterpoint.streams.types import Float32Array

SPEC = AudioSpec()


def tone(hz: float, rate_hz: int, samples: int) -> Float32Array:
    return np.sin(2 * np.pi * hz * np.arange(samples) / rate_hz).astype(np.float32)


def test_hann_window_is_periodic() -> None:
    assert reference.hann_window(4) == pytest.approx([0.0, 0.5, 1.0, 0.5])


def test_mel_filters_overlap_to_one_between_the_first_and_the_last_peak() -> None:
    filters = reference.mel_filterbank(SPEC)
    assert filters.shape == (64, 257)
    assert (filters > 0).any(axis=1).all()
    bins_hz = np.arange(257) * 16_000 / 512
    assert not filters[:, (bins_hz <= SPEC.f_min_hz) | (bins_hz >= SPEC.f_max_hz)].any()
    inside = (bins_hz > 90) & (bins_hz < 7300)
    assert filters.sum(axis=0)[inside] == pytest.approx(1.0)


def test_mel_scale_puts_1000_hz_at_1000_mel() -> None:
    # The scale is made so; one filter between 0 and a frequency peaks at half its mel.
    spec = AudioSpec(
        mel_bins=1, f_min_hz=0.0, f_max_hz=1000.0, fft_size=16_000, mean=(0.0,), std=(1.0,)
    )
    peak_hz = int(reference.mel_filterbank(spec)[0].argmax())
    assert 2595 * math.log10(1 + 1000 / 700) == pytest.approx(1000, abs=0.1)
    assert peak_hz == round(700 * (10 ** (500 / 2595) - 1))


@pytest.mark.parametrize("hz", [200.0, 1000.0, 4000.0, 7000.0])
def test_log_mel_of_a_tone_peaks_in_the_filter_around_it(hz: float) -> None:
    frames = reference.log_mel(tone(hz, 16_000, 240 + 160 * 3), SPEC)
    assert frames.shape == (3, 64)
    filters = reference.mel_filterbank(SPEC)
    expected = int(filters[:, round(hz / 31.25)].argmax())
    assert abs(int(frames[1].argmax()) - expected) <= 1


def test_log_mel_power_obeys_parseval() -> None:
    # Filters add up to one, so mel powers add up to the power between f_min and f_max.
    frame = tone(1000.0, 16_000, 400)
    mel = np.exp(reference.log_mel(frame, SPEC)[0]).sum()
    energy = np.sum((frame.astype(np.float64) * reference.hann_window(400)) ** 2)
    assert mel == pytest.approx(energy * 512 / 2, rel=1e-3)


def test_log_mel_of_silence_is_the_logarithm_of_the_floor() -> None:
    frames = reference.log_mel(np.zeros(240 + 160, np.float32), SPEC)
    assert frames == pytest.approx(math.log(1e-10))


@pytest.mark.parametrize("samples", [239, 241, 399])
def test_log_mel_refuses_a_broken_frame(samples: int) -> None:
    with pytest.raises(ValueError, match="240"):
        reference.log_mel(np.zeros(samples, np.float32), SPEC)


def test_log_mel_of_no_frames_is_empty() -> None:
    assert reference.log_mel(np.zeros(240, np.float32), SPEC).shape == (0, 64)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_keeps_a_tone_where_it_is(rate_hz: int) -> None:
    resampled = reference.resample(tone(1000.0, rate_hz, rate_hz // 4), rate_hz, 16_000)
    assert len(resampled) == 4000
    # Away from the ends, where the tone breaks off.
    assert resampled[600:-600] == pytest.approx(tone(1000.0, 16_000, 4000)[600:-600], abs=1e-5)


def test_resampling_lets_nothing_above_the_lower_nyquist_frequency_through() -> None:
    resampled = reference.resample(tone(9000.0, 48_000, 12_000), 48_000, 16_000)
    assert np.abs(resampled[600:-600]).max() < 10 ** (-110 / 20)


@given(
    samples=st.integers(0, 40),
    rates=st.tuples(*[st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000])] * 2),
)
def test_resampling_covers_exactly_the_time_of_the_input(
    samples: int, rates: tuple[int, int]
) -> None:
    resampled = reference.resample(np.ones(samples), *rates)
    assert len(resampled) == math.ceil(samples * rates[1] / rates[0])


def test_cropping_repeats_the_border() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    cut = reference.crop(image, Rectangle(x=-1, y=1, width=5, height=3))
    assert cut.tolist() == [[3, 3, 4, 5, 5]] * 3


def test_shrinking_averages_boxes() -> None:
    image = np.array([[0, 4, 8], [0, 4, 8], [2, 4, 6]], np.uint8)
    # Boxes are 1.5 pixels wide: (0 + 4/2) / 1.5 in the upper left, rows alike.
    upper_left = (0 * 1.0 + 4 * 0.5) / 1.5
    assert reference.resize(image, 2)[0, 0] == round(upper_left)
    assert reference.resize(image, 1)[0, 0] == round(image.mean())
    assert np.array_equal(reference.resize(image, 3), image)


def test_growing_is_bilinear_between_pixel_centres() -> None:
    image = np.array([[0, 100], [0, 100]], np.uint8)
    assert reference.resize(image, 4)[0].tolist() == [0, 25, 75, 100]


@given(value=st.integers(0, 255), side=st.integers(1, 70), size=st.integers(1, 60))
def test_resizing_keeps_a_flat_picture_flat(value: int, side: int, size: int) -> None:
    resized = reference.resize(np.full((side, side), value, np.uint8), size)
    assert resized.shape == (size, size)
    assert (resized == value).all()


def test_resizing_refuses_what_is_not_square() -> None:
    with pytest.raises(ValueError, match="square"):
        reference.resize(np.zeros((3, 4), np.uint8), 2)


def test_limited_range_luma_is_expanded_and_clipped() -> None:
    luma = np.array([0, 16, 125, 126, 235, 255], np.uint8)
    assert reference.to_full_range(luma).tolist() == [0, 0, 127, 128, 255, 255]


def test_faces_are_normalised_by_the_manifests_mean_and_std() -> None:
    face = reference.normalise_face(np.array([[0, 255]], np.uint8), VideoSpec(mean=0.5, std=0.25))
    assert face.dtype == np.float32
    assert face.tolist() == [[-2.0, 2.0]]
