"""Lines of text with emotion and sentiment labels: SemEval 2017, GoEmotions, MELD, TweetEval.

A label that a set lacks is absent (`UNLABELLED`, or a row of zeros), never guessed. Lines that
also stand in a validation set are taken out of training (`read_text`).
"""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from counterpoint.engine.preprocess.text import normalise
from counterpoint.trainer.data.files import need
from counterpoint.trainer.data.recordings import TWEET_EMOTIONS
from counterpoint.trainer.data.recordings import read_tweeteval_emotion as read_tweets
from counterpoint.trainer.labels import (
    EMOTION,
    GOEMOTIONS,
    MELD,
    SENTIMENT,
    UNLABELLED,
    index_of,
)

Said: TypeAlias = tuple[str, tuple[str, ...]]
"""A normalised line, and the lines before it from the oldest to the newest."""

SAME_TEXT_MIN: Final = 12
"""Shorter lines ("What?") are shared by all dialogue and no sign of a copied example."""

TWEET_EMOTION_IS: Final = {"anger": "angry", "joy": "happy", "optimism": "happy", "sadness": "sad"}
"""TweetEval's emotions as those of the bundle; GoEmotions' authors count optimism as joy, too."""

TWEET_CHOICE: Final = tuple(
    sorted({EMOTION.index(emotion) for emotion in TWEET_EMOTION_IS.values()})
)
"""What TweetEval's annotators chose from, in the bundle's emotions: its labels say which of these
three, not that a tweet is neither neutral nor afraid."""

BEFORE_LINES: Final = 3
"""Lines of a dialogue before a line that are read with it."""

CALIBRATION_PART: Final = 20
"""One line (or dialogue) of this many goes to calibration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLine:
    """One line.

    Fields:
        source: ``semeval``, ``goemotions``, ``meld``, ``tweeteval`` (sentiment) or
            ``tweeteval_emotion``.
        text: normalised.
        emotion: positions in ``labels.EMOTION``, equally likely; empty where there is no label.
        sentiment: position in ``labels.SENTIMENT`` or ``UNLABELLED``.
        tweet_emotion: position in ``TWEET_EMOTIONS`` or ``UNLABELLED``; then ``emotion`` is its
            nearest, out of `TWEET_CHOICE`.
        group: what must stay on one side of a split: the dialogue, or the text itself.
        before: MELD: the lines of the dialogue before it, at most `BEFORE_LINES`, from the oldest
            to the newest; normalised.
    """

    source: str
    text: str
    emotion: tuple[int, ...] = ()
    sentiment: int = UNLABELLED
    tweet_emotion: int = UNLABELLED
    group: str
    before: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.emotion and self.sentiment == UNLABELLED:
            raise ValueError(f"a line without any label: {self.text!r}")

    @property
    def said(self) -> Said:
        return self.text, self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSets:
    """All lines by their use.

    Fields:
        training, calibration: disjoint parts of the training files.
        validation: by source: ``goemotions``, ``meld``, ``tweeteval``, ``tweeteval_emotion``.
        removed: lines of each source taken out of training because a validation set has them.
    """

    training: tuple[TextLine, ...]
    calibration: tuple[TextLine, ...]
    validation: dict[str, tuple[TextLine, ...]]
    removed: dict[str, int]


def same_text_key(text: str) -> str:
    """What two copies of one tweet share: letters and digits, without handles and links."""
    words = [word for word in text.casefold().split() if "@" not in word and "http" not in word]
    return re.sub(r"[\W_]+", "", "".join(words))


def read_semeval(data: Path) -> list[TextLine]:
    """SemEval-2017 task 4A, training text for sentiment; a tweet in two files counts once."""
    folder = need(data / "text" / "semeval2017_task4a", "SemEval-2017 task 4A")
    lines: dict[str, TextLine] = {}
    for path in sorted(folder.glob("*.tsv")):
        for row in path.read_text(encoding="utf-8").split("\n"):
            fields = row.rstrip("\r").split("\t")
            if len(fields) >= 3:
                text = normalise(fields[2])
                lines.setdefault(
                    fields[0],
                    TextLine(
                        source="semeval",
                        text=text,
                        sentiment=SENTIMENT.index(fields[1]),
                        group=same_text_key(text),
                    ),
                )
    return list(lines.values())


def read_goemotions(data: Path, split: str) -> list[TextLine]:
    """GoEmotions ``train`` or ``dev``; its 28 labels as the Ekman groups its authors publish.

    Several labels of one line that fall into different groups are equally likely.
    """
    folder = need(data / "text" / "goemotions", "GoEmotions")
    names = need(folder / "original_labels.txt", "GoEmotions").read_text().split()
    group_of = {
        name: EMOTION.index(emotion) for emotion, group in GOEMOTIONS.items() for name in group
    }
    lines = []
    table = need(folder / f"{split}.tsv", "GoEmotions").read_text(encoding="utf-8")
    for row in table.split("\n"):
        if row:
            raw, labels, _ = row.rstrip("\r").split("\t")
            text = normalise(raw)
            emotion = sorted({group_of[names[int(label)]] for label in labels.split(",")})
            lines.append(
                TextLine(
                    source="goemotions",
                    text=text,
                    emotion=tuple(emotion),
                    group=same_text_key(text),
                )
            )
    return lines


def read_meld(data: Path, split: str) -> list[TextLine]:
    """MELD ``train`` or ``dev`` (Poria et al. 2019): each utterance has both labels."""
    folder = need(data / "text" / "meld", "MELD")
    emotions = index_of(EMOTION, MELD)
    path = need(folder / f"{split}_sent_emo.csv", "MELD")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = []
    dialogue: list[str] = []
    for row, previous in zip(rows, [None, *rows], strict=False):
        if previous is None or row["Dialogue_ID"] != previous["Dialogue_ID"]:
            dialogue = []
        text = normalise(row["Utterance"])
        lines.append(
            TextLine(
                source="meld",
                text=text,
                emotion=(emotions[row["Emotion"]],),
                sentiment=SENTIMENT.index(row["Sentiment"]),
                group=f"dialogue {row['Dialogue_ID']}",
                before=tuple(dialogue[-BEFORE_LINES:]),
            )
        )
        if text:
            dialogue.append(text)
    return lines


def read_tweeteval_sentiment(data: Path) -> list[TextLine]:
    """TweetEval sentiment (Barbieri et al. 2020), validation only."""
    folder = need(data / "text" / "tweeteval_sentiment", "TweetEval sentiment")
    texts = need(folder / "val_text.txt", "TweetEval").read_text(encoding="utf-8").split("\n")
    labels = need(folder / "val_labels.txt", "TweetEval").read_text().split()
    return [
        TextLine(source="tweeteval", text=normalise(text), sentiment=int(label), group=text)
        for text, label in zip(texts[: len(labels)], labels, strict=True)
    ]


def read_tweeteval_emotion(data: Path, split: str) -> list[TextLine]:
    """TweetEval emotion (Barbieri et al. 2020), ``train`` or ``val``: which of three emotions."""
    return [
        TextLine(
            source="tweeteval_emotion",
            text=text,
            emotion=(EMOTION.index(TWEET_EMOTION_IS[TWEET_EMOTIONS[label]]),),
            tweet_emotion=label,
            group=same_text_key(text),
        )
        for text, label in read_tweets(data, split)
    ]


def read_text(data: Path) -> TextSets:
    """All sets, split: validation files whole, training files 19 : 1 into training, calibration.

    Raises:
        UsageError: a set is missing.
    """
    validation = {
        "goemotions": read_goemotions(data, "dev"),
        "meld": read_meld(data, "dev"),
        "tweeteval": read_tweeteval_sentiment(data),
        "tweeteval_emotion": read_tweeteval_emotion(data, "val"),
    }
    seen = {same_text_key(line.text) for lines in validation.values() for line in lines}
    seen = {key for key in seen if len(key) >= SAME_TEXT_MIN}
    training: list[TextLine] = []
    calibration: list[TextLine] = []
    removed: dict[str, int] = {}
    for lines in (
        read_semeval(data),
        read_goemotions(data, "train"),
        read_meld(data, "train"),
        read_tweeteval_emotion(data, "train"),
    ):
        kept = [line for line in lines if line.text and same_text_key(line.text) not in seen]
        removed[lines[0].source] = len(lines) - len(kept)
        for line in kept:
            # A hash of the group, so that copies of a line never stand on both sides.
            part = zlib.crc32(line.group.encode()) % CALIBRATION_PART
            (training if part else calibration).append(line)
    return TextSets(
        training=tuple(training),
        calibration=tuple(calibration),
        validation={name: tuple(lines) for name, lines in validation.items()},
        removed=removed,
    )


def emotion_targets(lines: Iterable[TextLine]) -> np.ndarray:
    """(N, 7) float32: shares over the emotions, a row of zeros where there is no label."""
    lines = list(lines)
    targets = np.zeros((len(lines), len(EMOTION)), np.float32)
    for row, line in zip(targets, lines, strict=True):
        if line.emotion:
            row[list(line.emotion)] = 1 / len(line.emotion)
    return targets


def sentiment_targets(lines: Iterable[TextLine]) -> np.ndarray:
    """(N,) int64 with ``UNLABELLED`` where there is no label."""
    return np.array([line.sentiment for line in lines], np.int64)
