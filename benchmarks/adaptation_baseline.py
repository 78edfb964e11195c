"""Part (b) of `adaptation`: a baseline for each speaker of RAVDESS, one actor one session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from benchmarks.adaptation_sessions import RATE_HZ, Playlist, Take, play, whole_chunks
from counterpoint.engine.adapt.adapter import signals
from counterpoint.engine.adapt.baseline import Baseline
from counterpoint.engine.models import Models
from counterpoint.streams.types import NS_PER_S, Float32Array
from counterpoint.trainer.data.files import read_sound
from counterpoint.trainer.data.speech import RAVDESS_VALIDATION, Clip, list_ravdess
from counterpoint.trainer.labels import EMOTION

Array: TypeAlias = npt.NDArray[Any]

BASELINE_WINDOWS = 240
"""A minute, of those in which a voice is heard."""
SETTLED_S = 2.0
"""So long after a clip's start a window is mostly of this clip."""


def telephone(samples: Float32Array) -> Float32Array:
    """300 to 3,400 Hz."""
    return _filtered(samples, lambda hz: ((hz > 300) & (hz < 3_400)).astype(float))


def muffled(samples: Float32Array) -> Float32Array:
    """A hand over the microphone: 12 dB an octave less from 800 Hz on."""
    return _filtered(samples, lambda hz: 1 / (1 + (hz / 800) ** 2))


def shrill(samples: Float32Array) -> Float32Array:
    """A small microphone: lows cut, 12 dB an octave below 800 Hz."""
    return _filtered(samples, lambda hz: hz**2 / (800**2 + hz**2))


def as_recorded(samples: Float32Array) -> Float32Array:
    return samples


def _filtered(samples: Float32Array, gain: Callable[[Array], Array]) -> Float32Array:
    spectrum = np.fft.rfft(samples)
    spectrum *= gain(np.fft.rfftfreq(len(samples), 1 / RATE_HZ))
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


MICROPHONES: Mapping[str, Mapping[str, Callable[[Float32Array], Float32Array]]] = {
    "as recorded": dict.fromkeys(sorted(RAVDESS_VALIDATION), as_recorded),
    "each on another microphone": dict(
        zip(sorted(RAVDESS_VALIDATION), (telephone, muffled, shrill, as_recorded), strict=True)
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spoken:
    """A session: windows in which a voice was heard.

    Fields:
        said: (N, C) calibrated probabilities of the emotions.
        clip: (N,) number of the clip that is heard at the window's end.
        inside: (N,) bool: the window is mostly of that clip.
        truth: (clips,) positions of the emotions.
        watched: what an `Adapter` would watch of each window, those without a voice among them.
    """

    said: Array
    clip: Array
    inside: Array
    truth: Array
    watched: list[dict[str, float]]

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "said": self.said.tolist(),
            "clip": self.clip.tolist(),
            "inside": self.inside.tolist(),
            "truth": self.truth.tolist(),
            "watched": self.watched,
        }

    @classmethod
    def read(cls, document: dict[str, Any]) -> Spoken:
        """`document` backwards."""
        return cls(
            said=np.array(document["said"]),
            clip=np.array(document["clip"], np.int64),
            inside=np.array(document["inside"], np.bool_),
            truth=np.array(document["truth"], np.int64),
            watched=document["watched"],
        )


def speak(
    models: Models,
    data: Path,
    actor: str,
    microphone: Callable[[Float32Array], Float32Array],
    *,
    calm_first: bool,
) -> Spoken:
    """All clips of an actor in random order; with ``calm_first`` the neutral and calm ones lead."""
    clips = [clip for clip in list_ravdess(data) if clip.speaker == actor]
    order = np.random.default_rng(int(actor[-2:])).permutation(len(clips))
    ordered = [clips[row] for row in order]
    if calm_first:
        ordered.sort(key=lambda clip: clip.emotion != EMOTION.index("neutral"))
    starts_ns: list[int] = []

    def takes(clips: list[Clip]) -> Iterator[Take]:
        at_ns = 0
        for clip in clips:
            take = Take(samples=whole_chunks(microphone(read_sound(clip.path))))
            starts_ns.append(at_ns)
            at_ns += take.length_ns
            yield take

    played = play(models, Playlist(takes(ordered), video=False))
    heard = [
        (said.end_ns, said.heads["emotion"].probabilities)
        for said, fused in played
        if fused.mask == "010"
    ]
    ends = np.array([end_ns for end_ns, _ in heard])
    clip = np.searchsorted(starts_ns, ends, side="left") - 1
    return Spoken(
        said=np.array([probabilities for _, probabilities in heard]),
        clip=clip,
        inside=ends - np.array(starts_ns)[clip] >= SETTLED_S * NS_PER_S,
        truth=np.array([clip.emotion for clip in ordered]),
        watched=[signals(fused, said.heads) for said, fused in played],
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """Clips behind the baseline, of one session.

    Fields:
        raw: (K, C) mean log-probabilities over a clip's windows.
        deviation: (K, C) mean deviation.
        truth: (K,).
    """

    raw: Array
    deviation: Array
    truth: Array


def score(spoken: Spoken, windows: int = BASELINE_WINDOWS) -> Scores:
    """The first windows make the baseline; clips that begin after them are scored."""
    baseline = Baseline(windows)
    raw: dict[int, list[Array]] = {}
    deviation: dict[int, list[Array]] = {}
    last = int(spoken.clip[min(windows, len(spoken.clip)) - 1])
    for said, clip, inside in zip(spoken.said, spoken.clip, spoken.inside, strict=True):
        found = baseline.deviation(said.tolist())
        if found is None:
            baseline.learn(said.tolist())
        elif inside and clip > last:
            raw.setdefault(int(clip), []).append(np.log(np.maximum(said, 1e-4)))
            deviation.setdefault(int(clip), []).append(np.array(found))
    clips = sorted(raw)
    return Scores(
        raw=np.array([np.mean(raw[clip], axis=0) for clip in clips]),
        deviation=np.array([np.mean(deviation[clip], axis=0) for clip in clips]),
        truth=spoken.truth[clips],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Over all sessions together, raw and as deviation from the baseline.

    Fields:
        clips: scored.
        auc, auc_deviation: how well one class is told from all others by its score, the sessions
            put together; mean over the classes.
        recall, recall_deviation: macro recall, the class with the highest score being the answer.
    """

    clips: int
    auc: float
    auc_deviation: float
    recall: float
    recall_deviation: float


def figures(sessions: list[Scores]) -> Outcome:
    truth = np.concatenate([session.truth for session in sessions])
    raw = np.concatenate([session.raw for session in sessions])
    deviation = np.concatenate([session.deviation for session in sessions])
    return Outcome(
        clips=len(truth),
        auc=round(_auc(truth, raw), 3),
        auc_deviation=round(_auc(truth, deviation), 3),
        recall=round(_recall(truth, raw), 3),
        recall_deviation=round(_recall(truth, deviation), 3),
    )


def _auc(truth: Array, scores: Array) -> float:
    classes = [c for c in np.unique(truth) if (truth == c).sum() >= 4]
    return float(np.mean([roc_auc_score(truth == c, scores[:, c]) for c in classes]))


def _recall(truth: Array, scores: Array) -> float:
    answers = scores.argmax(axis=1)
    return float(np.mean([(answers[truth == c] == c).mean() for c in np.unique(truth)]))
