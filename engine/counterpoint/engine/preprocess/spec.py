"""Preprocessing as data: what a bundle's manifest says about each modality.

Trainer and engine read the same three specifications, so a model never meets inputs made in
another way than those it was fitted on. Field names are the manifest's keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from counterpoint.engine.strict import OPTIONAL
from counterpoint.streams.types import NS_PER_S

HOP_NS = 250_000_000
"""The grid on which all modalities meet; the manifest repeats it as ``hop_ns``."""


def _positive(section: str, **values: float) -> None:
    for key, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{section}.{key} must be positive, not {value}")


def _whole_number(section: str, key: str, value_ns: int, unit_ns: int) -> None:
    if value_ns % unit_ns:
        raise ValueError(f"{section}.{key} must be a multiple of {unit_ns} ns, not {value_ns}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """Faces: grey squares, one at each sample instant.

    Fields:
        context_ns: how far back a window looks.
        sample_period_ns: distance of sample instants.
        tolerance_ns: how much older than its instant a frame may be.
        image_size_px: side of the square crop given to the encoder.
        mean, std: of full-range luma / 255; the input is ``(x / 255 - mean) / std``.
    """

    context_ns: int = 2_000_000_000
    sample_period_ns: int = 250_000_000
    tolerance_ns: int = 250_000_000
    image_size_px: int = 48
    mean: float = 0.0
    std: float = 1.0

    @property
    def steps(self) -> int:
        """Sample instants in one window."""
        return self.context_ns // self.sample_period_ns

    def validate(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: naming the key.
        """
        _positive(
            "video",
            context_ns=self.context_ns,
            sample_period_ns=self.sample_period_ns,
            tolerance_ns=self.tolerance_ns,
            image_size_px=self.image_size_px,
            std=self.std,
        )
        if not math.isfinite(self.mean):
            raise ValueError(f"video.mean must be finite, not {self.mean}")
        _whole_number("video", "context_ns", self.context_ns, self.sample_period_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSpec:
    """Sound: log-mel frames, computed once for each hop.

    Fields:
        context_ns: how far back a window looks.
        rate_hz: samples a second after resampling.
        frame_ns: distance of frames.
        window_samples: length of the Hann window; each frame's window ends with the frame.
        fft_size: length of the transform; the windowed frame is padded with zeros behind.
        mel_bins: triangular filters between ``f_min_hz`` and ``f_max_hz``.
        context_frames: frames of the previous hop put before those of this hop.
        steps_per_hop: embeddings that the encoder gives for each hop.
        mean, std: (mel_bins,) of the log-mel; the input is ``(x - mean) / std``.
        voice_threshold: probability of speech from which on a hop has a voice; 0.5 is the
            detector's own advice. Sound without one is kept from the model; one
            that learned from loud noise may want less. A manifest may leave it out.
    """

    context_ns: int = 3_000_000_000
    rate_hz: int = 16_000
    frame_ns: int = 10_000_000
    window_samples: int = 400
    fft_size: int = 512
    mel_bins: int = 64
    f_min_hz: float = 60.0
    f_max_hz: float = 7600.0
    context_frames: int = 14
    steps_per_hop: int = 5
    mean: tuple[float, ...] = (0.0,) * 64
    std: tuple[float, ...] = (1.0,) * 64
    voice_threshold: float = field(default=0.5, metadata=OPTIONAL)

    @property
    def frame_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.rate_hz * self.frame_ns // NS_PER_S

    @property
    def overlap_samples(self) -> int:
        """Samples before a run of frames that the first frame's window reaches back to."""
        return self.window_samples - self.frame_samples

    def frames_per(self, span_ns: int) -> int:
        """Frames in a span of time."""
        return span_ns // self.frame_ns

    def samples_per(self, span_ns: int) -> int:
        """Samples in a span of time."""
        return self.rate_hz * span_ns // NS_PER_S

    def validate(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: naming the key.
        """
        _positive(
            "audio",
            context_ns=self.context_ns,
            rate_hz=self.rate_hz,
            frame_ns=self.frame_ns,
            window_samples=self.window_samples,
            fft_size=self.fft_size,
            mel_bins=self.mel_bins,
            steps_per_hop=self.steps_per_hop,
        )
        if not 0 <= self.voice_threshold <= 1:
            raise ValueError(
                f"audio.voice_threshold must lie in [0, 1], not {self.voice_threshold}"
            )
        if self.rate_hz * self.frame_ns % NS_PER_S:
            raise ValueError(
                f"audio.frame_ns must hold a whole number of samples at {self.rate_hz} Hz, "
                f"not {self.frame_ns}"
            )
        _whole_number("audio", "context_ns", self.context_ns, self.frame_ns)
        if self.window_samples < self.frame_samples:
            raise ValueError(
                f"audio.window_samples must be at least a frame ({self.frame_samples}), "
                f"not {self.window_samples}"
            )
        if self.fft_size < self.window_samples:
            raise ValueError(
                f"audio.fft_size must be at least window_samples ({self.window_samples}), "
                f"not {self.fft_size}"
            )
        if not 0 <= self.f_min_hz < self.f_max_hz <= self.rate_hz / 2:
            raise ValueError(
                f"audio.f_min_hz and f_max_hz must rise within 0..{self.rate_hz / 2}, "
                f"not {self.f_min_hz}, {self.f_max_hz}"
            )
        if self.context_frames < 0:
            raise ValueError(f"audio.context_frames must not be negative: {self.context_frames}")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.mel_bins:
                raise ValueError(
                    f"audio.{key} must have {self.mel_bins} values (mel_bins), not {len(values)}"
                )
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"audio.{key} must be finite")
        if min(self.std) <= 0:
            raise ValueError(f"audio.std must be positive, not {min(self.std)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSpec:
    """Chat: the newest lines of a window.

    Fields:
        context_ns: how far back a window looks.
        max_lines: newest lines kept.
        max_tokens: longer lines are cut.
        ngram_buckets: size of the hash table; ids are 1..ngram_buckets, 0 is padding.
        max_ngrams: n-grams of one line.
        before_lines: lines before a line that the encoder reads with it; 0: none. The line alone
            is encoded, in the light of what was said before. A manifest may leave these three out.
        before_tokens: of the lines before; the oldest are cut.
        before_ns: what was said longer before the line is not read with it.
    """

    context_ns: int = 10_000_000_000
    max_lines: int = 8
    max_tokens: int = 64
    ngram_buckets: int = 32_768
    max_ngrams: int = 512
    before_lines: int = field(default=0, metadata=OPTIONAL)
    before_tokens: int = field(default=60, metadata=OPTIONAL)
    before_ns: int = field(default=60_000_000_000, metadata=OPTIONAL)

    def validate(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: naming the key.
        """
        _positive(
            "chat",
            context_ns=self.context_ns,
            max_lines=self.max_lines,
            max_tokens=self.max_tokens,
            ngram_buckets=self.ngram_buckets,
            max_ngrams=self.max_ngrams,
            before_tokens=self.before_tokens,
            before_ns=self.before_ns,
        )
        if self.before_lines < 0:
            raise ValueError(f"chat.before_lines must not be negative: {self.before_lines}")
