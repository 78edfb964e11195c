"""The two heads of the bundle ``affect`` and how every set's own labels map to them."""

from __future__ import annotations

from typing import Final

SENTIMENT: Final = ("negative", "neutral", "positive")
EMOTION: Final = ("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise")
HEADS: Final[dict[str, tuple[str, ...]]] = {"sentiment": SENTIMENT, "emotion": EMOTION}
MODALITIES: Final = ("video", "audio", "chat")
UNLABELLED: Final = -1

FERPLUS: Final = {
    "neutral": "neutral",
    "happiness": "happy",
    "surprise": "surprise",
    "sadness": "sad",
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
}
# RAVDESS code 02, calm, was made as a second neutral baseline: merged into neutral.
RAVDESS: Final = {
    "01": "neutral",
    "02": "neutral",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
NEMO: Final = {
    "neutral": "neutral",
    "happiness": "happy",
    "sadness": "sad",
    "anger": "angry",
    "fear": "fear",
    "surprised": "surprise",
}
MELD: Final = {
    "neutral": "neutral",
    "joy": "happy",
    "sadness": "sad",
    "anger": "angry",
    "fear": "fear",
    "disgust": "disgust",
    "surprise": "surprise",
}
# The Ekman grouping that the authors of GoEmotions publish with the set (`ekman_mapping.json`).
GOEMOTIONS: Final = {
    "angry": ("anger", "annoyance", "disapproval"),
    "disgust": ("disgust",),
    "fear": ("fear", "nervousness"),
    "happy": (
        "joy",
        "amusement",
        "approval",
        "excitement",
        "gratitude",
        "love",
        "optimism",
        "relief",
        "pride",
        "admiration",
        "desire",
        "caring",
    ),
    "sad": ("sadness", "disappointment", "embarrassment", "grief", "remorse"),
    "surprise": ("surprise", "realization", "confusion", "curiosity"),
    "neutral": ("neutral",),
}


def index_of(head: tuple[str, ...], table: dict[str, str]) -> dict[str, int]:
    """From a set's own label names to positions in ``head``."""
    return {name: head.index(label) for name, label in table.items()}
