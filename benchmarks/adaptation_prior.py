"""Part (a) of `adaptation`: priors, on held-out faces and lines drawn with other class shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from counterpoint.engine.adapt.prior import PriorEstimate
from counterpoint.engine.adapt.settings import AdaptationSection
from counterpoint.engine.bundle import Bundle
from counterpoint.engine.device import Device
from counterpoint.trainer.data.ferplus import read_ferplus
from counterpoint.trainer.data.text import read_meld
from counterpoint.trainer.evaluate import Evaluator
from counterpoint.trainer.labels import EMOTION, SENTIMENT

Array: TypeAlias = npt.NDArray[Any]

SHIFTS: dict[tuple[str, ...], dict[str, tuple[float, ...] | None]] = {
    EMOTION: {  # neutral, happy, sad, angry, fear, disgust, surprise
        "none": None,
        "sad": (0.20, 0.10, 0.40, 0.15, 0.05, 0.02, 0.08),
        "angry": (0.20, 0.10, 0.10, 0.50, 0.04, 0.02, 0.04),
        "happy": (0.15, 0.70, 0.03, 0.03, 0.02, 0.01, 0.06),
        "all alike": (1 / 7,) * 7,
    },
    SENTIMENT: {"none": None, "negative": (0.7, 0.2, 0.1), "positive": (0.1, 0.2, 0.7)},
}
"""Shares of the classes in a session, written down before anything was measured; None: as in the
set."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Held:
    """A held-out set.

    Fields:
        name: of the set.
        labels: of the classes.
        said: (N, C) calibrated probabilities.
        truth: (N,) positions of the classes.
        unheard: (C,) what the bundle answers when nothing is heard.
        stated: (C,) shares that the bundle states for this modality alone; None where it does not.
    """

    name: str
    labels: tuple[str, ...]
    said: Array
    truth: Array
    unheard: tuple[float, ...]
    stated: tuple[float, ...] | None

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        arrays = {"said": self.said.tolist(), "truth": self.truth.tolist()}
        return {
            "name": self.name,
            "labels": self.labels,
            "unheard": self.unheard,
            "stated": self.stated,
            **arrays,
        }

    @classmethod
    def read(cls, document: dict[str, Any]) -> Held:
        """`document` backwards."""
        stated = document["stated"]
        return cls(
            name=document["name"],
            labels=tuple(document["labels"]),
            said=np.array(document["said"]),
            truth=np.array(document["truth"], np.int64),
            unheard=tuple(document["unheard"]),
            stated=None if stated is None else tuple(stated),
        )


def read_held(
    bundle: Bundle, device: Device, data: Path, unheard: dict[str, tuple[float, ...]]
) -> list[Held]:
    """FER+ valid and MELD dev through the bundle's graphs, each face and each line by itself.

    Raises:
        UsageError: a set is missing.
    """
    evaluator = Evaluator(bundle, device)
    faces = read_ferplus(data, "Valid")
    lines = read_meld(data, "dev")
    said = evaluator.fuse({"chat": evaluator.lines([line.said for line in lines])})
    return [
        Held(
            name="FER+ valid, a face a context",
            labels=EMOTION,
            said=evaluator.fuse({"video": evaluator.faces(faces.images)})["emotion"],
            truth=faces.hard,
            unheard=unheard["emotion"],
            stated=bundle.shares("emotion", "100"),
        ),
        Held(
            name="MELD dev, a line a context, emotion",
            labels=EMOTION,
            said=said["emotion"],
            truth=np.array([line.emotion[0] for line in lines]),
            unheard=unheard["emotion"],
            stated=bundle.shares("emotion", "001"),
        ),
        Held(
            name="MELD dev, a line a context, sentiment",
            labels=SENTIMENT,
            said=said["sentiment"],
            truth=np.array([line.sentiment for line in lines]),
            unheard=unheard["sentiment"],
            stated=bundle.shares("sentiment", "001"),
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Sessions of one kind.

    Fields:
        accuracy: of the unadapted answers, mean over the sessions.
        gain: mean change of it by adaptation.
        worst: the least change of a session.
        recall, recall_gain: the same of macro recall.
        applied: share of the observations that were adapted.
    """

    accuracy: float
    gain: float
    worst: float
    recall: float
    recall_gain: float
    applied: float


def simulate(
    held: Held,
    shares: Sequence[float] | None,
    base: Sequence[float],
    section: AdaptationSection,
    *,
    sessions: int,
    length: int,
) -> Outcome:
    """Sessions of ``length`` observations, drawn with those shares, one after another.

    Each answer is adapted by what came before it, so the time that it takes to notice counts.
    """
    plain, adapted, applied = [], [], 0
    for seed in range(sessions):
        rows = _draw(held, shares, length, np.random.default_rng(seed))
        prior = PriorEstimate(
            base,
            bound=section.prior_bound,
            strength=section.prior_strength,
            memory=section.prior_memory,
        )
        answers = np.zeros((2, length), np.int64)
        for place, row in enumerate(rows):
            said = tuple(held.said[row].tolist())
            answers[:, place] = np.argmax(said), np.argmax(prior.adjust(said))
            applied += prior.applied
            prior.observe(said)
        truth = held.truth[rows]
        plain.append(_figures(truth, answers[0]))
        adapted.append(_figures(truth, answers[1]))
    before, after = np.array(plain), np.array(adapted)
    change = after - before
    return Outcome(
        accuracy=round(float(before[:, 0].mean()), 3),
        gain=round(float(change[:, 0].mean()), 3),
        worst=round(float(change[:, 0].min()), 3),
        recall=round(float(before[:, 1].mean()), 3),
        recall_gain=round(float(change[:, 1].mean()), 3),
        applied=round(applied / (sessions * length), 2),
    )


def _draw(
    held: Held, shares: Sequence[float] | None, length: int, random: np.random.Generator
) -> Array:
    if shares is None:
        return random.integers(len(held.truth), size=length)
    classes = random.choice(len(shares), size=length, p=shares)
    return np.array([random.choice(np.flatnonzero(held.truth == wanted)) for wanted in classes])


def _figures(truth: Array, answers: Array) -> tuple[float, float]:
    """Accuracy, and the mean of the recalls of the classes that occur."""
    right = answers == truth
    recalls = [right[truth == found].mean() for found in np.unique(truth)]
    return float(right.mean()), float(np.mean(recalls))
