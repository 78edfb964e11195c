"""The recipe of the bundle ``affect`` as data: every number that training depends on.

Saved with each run as ``config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    epochs: int = 26
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    dropout: float = 0.25
    calibration_share: float = 0.1
    rotation_degrees: float = 14.0
    zoom: float = 0.14
    shift: float = 0.10
    degrade_share: float = 0.3
    bfloat16: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    epochs: int = 50
    clips_per_epoch: int = 4096
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    dropout: float = 0.35
    label_smoothing: float = 0.05
    ravdess_share: float = 0.45
    gain_db: float = 10.0
    noise_share: float = 0.5
    snr_db: tuple[float, float] = (0.0, 30.0)
    tempo: float = 0.15
    pitch: float = 0.06
    mixup_share: float = 0.5
    mixup_alpha: float = 0.3
    masks: int = 2
    mask_bins: int = 10
    mask_frames: int = 25
    start_share: float = 0.2
    bfloat16: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    epochs: int = 2
    lines_per_epoch: int = 60_000
    batch_size: int = 64
    tuned_layers: int = 3
    encoder_learning_rate: float = 2e-4
    learning_rate: float = 1e-3
    ngram_learning_rate: float = 2e-3
    weight_decay: float = 0.02
    dropout: float = 0.3
    ngram_dropout: float = 0.3
    shares: dict[str, float] = field(
        default_factory=lambda: {"semeval": 0.25, "goemotions": 0.35, "meld": 0.4}
    )
    sentiment_balance: float = 0.5
    emotion_balance: float = 0.25
    bfloat16: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    steps: int = 2100
    batch_size: int = 256
    learning_rate: float = 0.02
    prior_decay: float = 1e-3
    samples: int = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class AffectConfig:
    seed: int = 0
    vision: VisionConfig = field(default_factory=VisionConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    text: TextConfig = field(default_factory=TextConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
