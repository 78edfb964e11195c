"""The model card says which aims were missed, and where a modality too many does harm."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.engine.manifest import MASKS, Metric
from counterpoint.trainer.affect.card import model_card
from counterpoint.trainer.config import AffectConfig

pytestmark = pytest.mark.trainer


def stages() -> dict[str, dict[str, Any]]:
    temperatures = {head: dict.fromkeys(MASKS, 1.25) for head in ("sentiment", "emotion")}
    metrics: dict[str, dict[str, Any]] = {
        "vision": {},
        "audio": {},
        "text": {
            "removed_from_training": dict.fromkeys(
                ("semeval", "goemotions", "meld", "tweeteval_emotion"), 7
            ),
            "minilm_int8_cosine": 0.99,
            "tweeteval_emotion_of_four_macro_f1": 0.7,
        },
        "fusion": {
            "weights": {key: [1.0, 0.5, 0.25] for key in ("sentiment", "emotion")},
            "temperatures": temperatures,
        },
    }
    return {name: {"metrics": found, "seconds": {"cpu": 90.0}} for name, found in metrics.items()}


def figures(values: dict[str, float]) -> dict[str, Metric]:
    return {
        name: Metric(value=value, split="here", kind="validation") for name, value in values.items()
    }


def test_aims_are_reached_or_missed() -> None:
    metrics = figures(
        {
            "ferplus_accuracy": 0.845,
            "ravdess_unweighted_recall": 0.6799,
            "ferplus_macro_f1": 0.6,
            "ferplus_ece": 0.03,
            "ferplus_ece_floor": 0.01,
            "meld_emotion_ece": 0.0301,
            "meld_emotion_ece_floor": 0.02,
        }
    )
    card = model_card(metrics, stages(), AffectConfig())
    assert "| FER+ accuracy | 0.8450 | 0.845, reached | here |" in card
    assert "| RAVDESS unweighted recall, 7 classes | 0.6799 | 0.680, **missed** | here |" in card
    assert "| FER+ macro F1 | 0.6000 |  | here |" in card
    assert "| video alone, FER+ valid | 0.0300 | 0.0100 | reached |" in card
    assert "| chat alone, MELD dev emotion | 0.0301 | 0.0200 | **missed** |" in card
    assert "0.7000 (aim 0.740, **missed**)" in card
    assert "vision 1.5; audio 1.5; text 1.5; fusion 1.5" in card


def test_what_went_on_from_another_bundle_is_said() -> None:
    given = stages()
    assert "--start" not in model_card({}, given, AffectConfig())
    given["audio"]["metrics"]["started_from"] = "0123456789abcdef"
    card = model_card({}, given, AffectConfig())
    assert "--out DIR` (audio with `--start BUNDLE`), seed 0; epochs: vision 105,\naudio 8," in card
    assert "instead of from nothing: audio (0123456789ab)." in card


def test_a_subset_worse_than_its_best_member_is_marked() -> None:
    recall = {"100": 0.6, "010": 0.7, "001": 0.4, "110": 0.685, "101": 0.595, "011": 0.7}
    values = {}
    for mask in MASKS:
        values[f"subset_{mask}_emotion_recall"] = recall.get(mask, 0.9)
        values[f"subset_{mask}_sentiment_recall"] = 0.5
        values[f"subset_{mask}_emotion_ece"] = 0.1
    rows = {
        line.split()[1]: [cell.strip() for cell in line.split("|")]
        for line in model_card(figures(values), stages(), AffectConfig()).splitlines()
        if line.startswith(("| 0", "| 1"))
    }
    assert sorted(rows) == sorted(MASKS)
    assert rows["110"][2:4] == ["0.685", "0.700, **worse**"]
    assert rows["101"][2:4] == ["0.595", "0.600"]  # within what chance does
    assert rows["111"][2:4] == ["0.900", "0.700"]
    assert rows["100"][2:4] == ["0.600", ""]
