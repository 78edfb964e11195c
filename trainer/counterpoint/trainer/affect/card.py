"""The words of the bundle ``affect``: licence notice, policy for missing input, model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from counterpoint.engine.manifest import MASKS, Metric
from counterpoint.streams.types import NS_PER_S
from counterpoint.trainer.affect.text_tokens import SPEC
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

AIM_ECE = 0.03
"""At most; what the project set out for, as are the aims below."""
MARGIN = 0.01
"""By which a subset of modalities may stay below its best member."""

_HEADLINE = (
    ("ferplus_accuracy", "FER+ accuracy", 0.845),
    ("ferplus_macro_f1", "FER+ macro F1", None),
    ("ravdess_unweighted_recall", "RAVDESS unweighted recall, 7 classes", 0.68),
    ("ravdess_window_unweighted_recall", "the same for single windows of 3 s", None),
    ("meld_emotion_weighted_f1", "MELD emotion weighted F1", 0.60),
    ("meld_single_lines_emotion_weighted_f1", "the same without the lines before", None),
    ("meld_emotion_macro_f1", "MELD emotion macro F1", None),
    ("meld_sentiment_weighted_f1", "MELD sentiment weighted F1", None),
    ("tweeteval_sentiment_macro_recall", "TweetEval sentiment macro recall", 0.69),
    (
        "tweeteval_sentiment_among_others_macro_recall",
        "the same after lines that have nothing to do with it",
        None,
    ),
    ("goemotions_ekman_macro_f1", "GoEmotions Ekman macro F1", 0.61),
    (
        "goemotions_ekman_among_others_macro_f1",
        "the same after lines that have nothing to do with it",
        None,
    ),
    ("tweeteval_emotion_of_three_macro_f1", "TweetEval emotion macro F1, 3 classes", None),
)
_CALIBRATION = (
    ("ferplus_ece", "video alone, FER+ valid"),
    ("ravdess_window_ece", "audio alone, RAVDESS 17-20, windows"),
    ("ravdess_clip_ece", "audio alone, RAVDESS 17-20, means over clips"),
    ("meld_emotion_ece", "chat alone, MELD dev emotion"),
    ("goemotions_ekman_ece", "chat alone, GoEmotions dev"),
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
    started = _digests(stages)
    template = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    return template.format(
        licence=LICENCE_NOTICE,
        missing=MISSING_POLICY,
        removed_semeval=removed["semeval"],
        removed_goemotions=removed["goemotions"],
        removed_meld=removed["meld"],
        removed_tweets=removed["tweeteval_emotion"],
        cosine=f"{text['minilm_int8_cosine']:.3f}",
        weights=_weights(fusion["weights"]),
        headline=_headline(metrics),
        tweets_of_four=_tweets_of_four(text),
        calibration=_calibration(metrics),
        subsets=_subsets(metrics, fusion["temperatures"]),
        **_epochs(stages, config),
        seed=config.seed,
        tuned_layers=config.text.tuned_layers,
        before_lines=SPEC.before_lines,
        before_tokens=SPEC.before_tokens,
        before_s=SPEC.before_ns // NS_PER_S,
        strange=f"{config.text.strange_context:.0%}".replace("%", " %"),
        minutes="; ".join(f"{name} {_minutes(stage):.1f}" for name, stage in stages.items()),
        start=f" ({' and '.join(started)} with `--start BUNDLE`)" if started else "",
        started=_started(stages),
    )


def _digests(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Stages that have gone on from a bundle, and from which."""
    return {
        name: stage["metrics"]["started_from"]
        for name, stage in stages.items()
        if "started_from" in stage["metrics"]
    }


def _epochs(stages: Mapping[str, Mapping[str, Any]], config: AffectConfig) -> dict[str, int]:
    """Of these runs alone: what a stage went on from had its own."""
    started = _digests(stages)
    vision, audio, text = config.vision, config.audio, config.text
    if "vision" in started:
        vision = replace(vision, start=started["vision"])
    if "audio" in started:
        audio = replace(audio, start=started["audio"])
    if "text" in started:
        text = text.going_on(started["text"])
    return {
        "epochs_vision": vision.epochs,
        "epochs_audio": audio.epochs,
        "epochs_text": text.epochs,
    }


def _started(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """From which bundle which stages have gone on; empty where all began from nothing."""
    digests = _digests(stages)
    if not digests:
        return ""
    parts = ", ".join(f"{name} ({digest[:12]})" for name, digest in digests.items())
    return f"These went on from an earlier bundle (its digest) instead of from nothing: {parts}. "


def _minutes(stage: Mapping[str, Any]) -> float:
    return float(stage["seconds"]["cpu"]) / 60


def _aim(value: float, aim: float | None) -> str:
    if aim is None:
        return ""
    return f"{aim:.3f}, {'reached' if value >= aim else '**missed**'}"


def _headline(metrics: Mapping[str, Metric]) -> str:
    return "\n".join(
        f"| {title} | {metrics[name].value:.4f} | {_aim(metrics[name].value, aim)} "
        f"| {metrics[name].split} |"
        for name, title, aim in _HEADLINE
        if name in metrics
    )


def _tweets_of_four(text: Mapping[str, Any]) -> str:
    found = float(text["tweeteval_emotion_of_four_macro_f1"])
    return f"{found:.4f} (aim {_aim(found, 0.74)})"


def _calibration(metrics: Mapping[str, Metric]) -> str:
    rows = []
    for name, title in _CALIBRATION:
        if name in metrics:
            value = metrics[name].value
            rows.append(
                f"| {title} | {value:.4f} | {metrics[f'{name}_floor'].value:.4f} "
                f"| {'reached' if value <= AIM_ECE else '**missed**'} |"
            )
    return "\n".join(rows)


def _subsets(metrics: Mapping[str, Metric], temperatures: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for mask in MASKS:
        if f"subset_{mask}_emotion_recall" in metrics:
            names = [
                n for n, bit in zip(("video", "audio", "chat"), mask, strict=True) if bit == "1"
            ]
            rows.append(
                f"| {mask} {' + '.join(names)} "
                f"| {_recall(metrics, mask, 'emotion')} "
                f"| {metrics[f'subset_{mask}_emotion_ece'].value:.3f} "
                f"| {_recall(metrics, mask, 'sentiment')} "
                f"| {temperatures['emotion'][mask]:.2f} | {temperatures['sentiment'][mask]:.2f} |"
            )
    return "\n".join(rows)


def _recall(metrics: Mapping[str, Metric], mask: str, head: str) -> str:
    """Two cells: the recall of a subset, and that of the best single modality in it."""
    recall = metrics[f"subset_{mask}_{head}_recall"].value
    members = [
        "".join("1" if place == index else "0" for place in range(len(mask)))
        for index, bit in enumerate(mask)
        if bit == "1"
    ]
    if len(members) == 1:
        return f"{recall:.3f} | "
    best = max(metrics[f"subset_{member}_{head}_recall"].value for member in members)
    worse = ", **worse**" if recall < best - MARGIN else ""
    return f"{recall:.3f} | {best:.3f}{worse}"


def _weights(weights: Mapping[str, list[float]]) -> str:
    return "; ".join(
        f"{head}: video {w[0]:.2f}, audio {w[1]:.2f}, chat {w[2]:.2f}"
        for head, w in weights.items()
    )
