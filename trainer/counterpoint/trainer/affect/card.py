"""The words of the bundle ``affect``: licence notice, policy for missing input, model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from counterpoint.engine.manifest import MASKS, Metric
from counterpoint.trainer.config import AffectConfig

LICENCE_NOTICE = (
    "Non-commercial research use only: the audio weights are trained on RAVDESS and nEMO "
    "(CC BY-NC-SA 4.0) and the vision weights on FER2013 pictures of unclear origin. "
    "Not for inferring emotions at work or in education (EU AI Act, Art. 5(1)(f)). "
    "See MODEL_CARD.md."
)

MISSING_POLICY = (
    "A modality that is missing or silent is a state and a mask, never zeros that stand for data: "
    "it adds nothing to the logits. Any subset gives a prediction, calibrated by a temperature of "
    "its own; with none present it is the shares of the classes in the calibration data."
)

_HEADLINE = (
    ("ferplus_accuracy", "FER+ accuracy"),
    ("ferplus_macro_f1", "FER+ macro F1"),
    ("ravdess_unweighted_recall", "RAVDESS unweighted recall, 7 classes"),
    ("ravdess_window_unweighted_recall", "the same for single windows of 3 s"),
    ("meld_emotion_weighted_f1", "MELD emotion weighted F1"),
    ("meld_emotion_macro_f1", "MELD emotion macro F1"),
    ("meld_sentiment_weighted_f1", "MELD sentiment weighted F1"),
    ("tweeteval_sentiment_macro_recall", "TweetEval sentiment macro recall"),
    ("goemotions_ekman_macro_f1", "GoEmotions Ekman macro F1"),
)
_CALIBRATION = (
    ("ferplus_ece", "video alone, FER+ valid"),
    ("ravdess_window_ece", "audio alone, RAVDESS 17-20, windows"),
    ("meld_emotion_ece", "chat alone, MELD dev emotion"),
    ("tweeteval_sentiment_ece", "chat alone, TweetEval sentiment"),
)


def model_card(
    metrics: Mapping[str, Metric], stages: Mapping[str, Mapping[str, Any]], config: AffectConfig
) -> str:
    """The card as Markdown.

    Args:
        metrics: of `evaluate_bundle`; empty for a draft.
        stages: ``metrics.json`` of the stages vision, audio, text and fusion.
    """
    text = stages["text"]["metrics"]
    fusion = stages["fusion"]["metrics"]
    removed = text["removed_from_training"]
    template = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    return template.format(
        licence=LICENCE_NOTICE,
        missing=MISSING_POLICY,
        removed_semeval=removed["semeval"],
        removed_goemotions=removed["goemotions"],
        removed_meld=removed["meld"],
        cosine=f"{text['minilm_int8_cosine']:.3f}",
        weights=_weights(fusion["weights"]),
        headline=_figures(metrics, _HEADLINE),
        calibration=_figures(metrics, _CALIBRATION),
        subsets=_subsets(metrics, fusion["temperatures"]),
        epochs_vision=config.vision.epochs,
        epochs_audio=config.audio.epochs,
        epochs_text=config.text.epochs,
        seed=config.seed,
        tuned_layers=config.text.tuned_layers,
        minutes="; ".join(
            f"{name} {stage['seconds']['total'] / 60:.1f} min" for name, stage in stages.items()
        ),
    )


def _figures(metrics: Mapping[str, Metric], rows: tuple[tuple[str, str], ...]) -> str:
    return "\n".join(
        f"| {title} | {metrics[name].value:.4f} | {metrics[name].split} |"
        for name, title in rows
        if name in metrics
    )


def _subsets(metrics: Mapping[str, Metric], temperatures: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for mask in MASKS:
        if f"subset_{mask}_emotion_recall" in metrics:
            names = [
                n for n, bit in zip(("video", "audio", "chat"), mask, strict=True) if bit == "1"
            ]
            rows.append(
                f"| {mask} {' + '.join(names)} "
                f"| {metrics[f'subset_{mask}_emotion_recall'].value:.3f} "
                f"| {metrics[f'subset_{mask}_emotion_ece'].value:.3f} "
                f"| {metrics[f'subset_{mask}_sentiment_recall'].value:.3f} "
                f"| {temperatures['emotion'][mask]:.2f} | {temperatures['sentiment'][mask]:.2f} |"
            )
    return "\n".join(rows)


def _weights(weights: Mapping[str, list[float]]) -> str:
    return "; ".join(
        f"{head}: video {w[0]:.2f}, audio {w[1]:.2f}, chat {w[2]:.2f}"
        for head, w in weights.items()
    )
