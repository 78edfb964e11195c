"""Log-mel hop by hop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.engine.kernels import reference
from counterpoint.engine.preprocess.audio import (
    LogMelHop,
    clip_hops,
    clip_log_mel,
    windows_of,
)
from counterpoint.engine.preprocess.spec import AudioSpec
from counterpoint.streams.types import Float32Array
from tests.support.media import grid_speech

SPEC = AudioSpec(
    mean=tuple(float(m) for m in np.linspace(-9.0, -4.0, 64)),
    std=tuple(float(s) for s in np.linspace(1.5, 3.0, 64)),
)
SILENCE = math.log(1e-10)
HOP = 4000


def noise(samples: int, seed: int = 0) -> Float32Array:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def test_hops_are_what_the_reference_gives_for_the_whole_clip() -> None:
    speech = grid_speech()
    padded = np.concatenate([np.zeros(240 + 14 * 160, np.float32), speech])
    whole = (reference.log_mel(padded, SPEC) - np.array(SPEC.mean)) / np.array(SPEC.std)
    hops = clip_hops(speech, SPEC)
    assert hops.shape == (12, 39, 64)
    assert hops.dtype == np.float32
    for index, hop in enumerate(hops):
        assert hop == pytest.approx(whole[25 * index : 25 * index + 39], abs=1e-4)


@given(samples=st.integers(0, 3 * HOP))
def test_a_clip_ends_in_silence_up_to_a_whole_hop(samples: int) -> None:
    sound = noise(samples)
    log_mel = clip_log_mel(sound, SPEC)
    hops = -(-samples // HOP)
    filled = np.concatenate([sound, np.zeros(hops * HOP - samples, np.float32)])
    assert log_mel.shape == (25 * hops, 64)
    assert np.array_equal(log_mel, clip_log_mel(filled, SPEC))


def test_windows_made_from_raw_frames_equal_the_hops_bit_for_bit() -> None:
    speech = grid_speech()
    assert np.array_equal(windows_of(clip_log_mel(speech, SPEC), SPEC), clip_hops(speech, SPEC))


def test_a_live_stream_equals_the_clip_bit_for_bit() -> None:
    speech = grid_speech()
    live = LogMelHop(SPEC)
    hops = [live.push(cell, np.ones(HOP, np.bool_)) for cell in speech.reshape(-1, HOP)]
    assert np.array_equal(np.stack(hops), clip_hops(speech, SPEC))


def test_before_the_first_hop_there_was_silence() -> None:
    plain = AudioSpec()
    first = LogMelHop(plain).push(noise(HOP))
    assert first[:14] == pytest.approx(SILENCE)
    assert (first[14:] > SILENCE + 1).all()


def test_samples_that_are_not_valid_count_as_silence_whatever_they_hold() -> None:
    sound, valid = noise(HOP), np.ones(HOP, np.bool_)
    valid[1000:3000] = False
    zeroed = np.where(valid, sound, 0).astype(np.float32)
    broken = np.where(valid, sound, np.nan).astype(np.float32)
    pushed = LogMelHop(SPEC).push(broken, valid)
    assert np.array_equal(pushed, LogMelHop(SPEC).push(zeroed))


def test_a_hop_depends_on_nothing_before_the_context() -> None:
    last = [noise(HOP, seed=7), noise(HOP, seed=8)]
    one, other = LogMelHop(SPEC), LogMelHop(SPEC)
    one.push(noise(HOP, seed=1))
    other.push(noise(HOP, seed=2))
    one.push(last[0])
    other.push(last[0])
    assert np.array_equal(one.push(last[1]), other.push(last[1]))


def test_reset_forgets_the_previous_hop() -> None:
    log_mel = LogMelHop(SPEC)
    first = log_mel.push(noise(HOP))
    assert not np.array_equal(log_mel.push(noise(HOP)), first)
    log_mel.reset()
    assert np.array_equal(log_mel.push(noise(HOP)), first)


def test_a_pushed_hop_keeps_no_hold_of_the_callers_array() -> None:
    sound, log_mel, expected = noise(HOP), LogMelHop(SPEC), LogMelHop(SPEC)
    log_mel.push(sound)
    expected.push(sound.copy())
    sound[:] = 0
    assert np.array_equal(log_mel.push(noise(HOP, seed=3)), expected.push(noise(HOP, seed=3)))


def test_one_hop_at_a_time() -> None:
    with pytest.raises(ValueError, match="4000"):
        LogMelHop(SPEC).push(noise(3999))


def test_hop_and_context_must_fit_the_frames() -> None:
    with pytest.raises(ValueError, match="hop_ns"):
        LogMelHop(SPEC, hop_ns=255_000_000)
    with pytest.raises(ValueError, match="context_frames"):
        LogMelHop(SPEC, hop_ns=100_000_000)


def test_no_context_is_possible() -> None:
    spec = AudioSpec(context_frames=0)
    sound = noise(2 * HOP)
    hops = clip_hops(sound, spec)
    assert hops.shape == (2, 25, 64)
    assert np.array_equal(hops.reshape(-1, 64), clip_log_mel(sound, spec))
    assert np.array_equal(windows_of(clip_log_mel(sound, spec), spec), hops)
