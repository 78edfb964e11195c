"""Specifications refuse what cannot be computed and name the key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from counterpoint.engine.preprocess.spec import AudioSpec, ChatSpec, VideoSpec


def test_the_defaults_are_valid() -> None:
    for spec in (VideoSpec(), AudioSpec(), ChatSpec()):
        spec.validate()


def test_derived_counts() -> None:
    audio = AudioSpec()
    assert (audio.frame_samples, audio.overlap_samples) == (160, 240)
    assert (audio.frames_per(250_000_000), audio.samples_per(250_000_000)) == (25, 4000)
    assert VideoSpec().steps == 8


@pytest.mark.parametrize(
    ("spec", "changes", "key"),
    [
        (VideoSpec(), {"std": 0.0}, "video.std"),
        (VideoSpec(), {"mean": float("nan")}, "video.mean"),
        (VideoSpec(), {"image_size_px": 0}, "video.image_size_px"),
        (VideoSpec(), {"sample_period_ns": 300_000_000}, "video.context_ns"),
        (AudioSpec(), {"rate_hz": 0}, "audio.rate_hz"),
        (AudioSpec(), {"frame_ns": 10_000_001}, "audio.frame_ns"),
        (AudioSpec(), {"context_ns": 3_000_000_001}, "audio.context_ns"),
        (AudioSpec(), {"window_samples": 159}, "audio.window_samples"),
        (AudioSpec(), {"fft_size": 399}, "audio.fft_size"),
        (AudioSpec(), {"f_max_hz": 8001.0}, "audio.f_min_hz and f_max_hz"),
        (AudioSpec(), {"f_min_hz": 7600.0}, "audio.f_min_hz and f_max_hz"),
        (AudioSpec(), {"context_frames": -1}, "audio.context_frames"),
        (AudioSpec(), {"mean": (0.0,) * 63}, "audio.mean"),
        (AudioSpec(), {"mean": (float("inf"),) * 64}, "audio.mean"),
        (AudioSpec(), {"std": (1.0,) * 63 + (0.0,)}, "audio.std"),
        (ChatSpec(), {"max_lines": 0}, "chat.max_lines"),
        (ChatSpec(), {"ngram_buckets": -1}, "chat.ngram_buckets"),
        (ChatSpec(), {"before_lines": -1}, "chat.before_lines"),
        (ChatSpec(), {"before_tokens": 0}, "chat.before_tokens"),
        (ChatSpec(), {"before_ns": 0}, "chat.before_ns"),
    ],
)
def test_what_is_wrong_is_named(
    spec: VideoSpec | AudioSpec | ChatSpec, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(ValueError, match=key):
        replace(spec, **changes).validate()
