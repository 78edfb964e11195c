"""One session's adaptation: what its windows said so far, and what that does to the next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np

from counterpoint.engine.adapt.baseline import Baseline
from counterpoint.engine.adapt.drift import Drift
from counterpoint.engine.adapt.prior import PriorEstimate
from counterpoint.engine.adapt.settings import AdaptationSection
from counterpoint.engine.adapt.statement import Adaptation, BaselineSaid, DriftSaid, PriorUsed
from counterpoint.engine.calibrate import probabilities
from counterpoint.engine.fuse import MODALITIES, Fused
from counterpoint.engine.manifest import MASKS
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import HeadResult
from counterpoint.streams.types import NS_PER_S, Modality

log = logging.getLogger(__name__)

NOTHING = "0" * len(MODALITIES)
WATCHED_EVERY_NS = NS_PER_S
"""Of drift. Shorter than a context: values then resemble each other a little, which ADWIN does not
expect, but at one value a context it takes a minute to notice that a camera is covered."""


class Adapter:
    """Sees each window's calibrated probabilities before anybody else does.

    Windows overlap, and what they share is no news: for priors a window counts once a whole context
    has passed since the last that counted. Windows in which nothing was heard say nothing of the
    session: only drift takes note of them.

    Args:
        session: its name, for the log.
        section: what is on; something is.
        base: head and what was heard -> (C,) the classes' shares that its outputs are calibrated
            to.
        spacing: modality -> its context, in hops.
        watched_every: hops from one window that drift looks at to the next.

    Raises:
        UnavailableError: drift is on and river is not installed.
    """

    def __init__(
        self,
        session: str,
        section: AdaptationSection,
        *,
        base: Callable[[str, str], tuple[float, ...]],
        spacing: Mapping[Modality, int],
        watched_every: int,
    ) -> None:
        self._session = session
        self._section = section
        self._base = base
        self._spacing = spacing
        self._watched_every = watched_every
        # By what was heard: outputs with other inputs are biased otherwise.
        self._priors: dict[tuple[str, str], PriorEstimate] = {}
        self._counted: dict[str, int] = {}
        self._baselines: dict[tuple[str, str], Baseline] = {}
        self._drift = Drift(section.drift_delta) if section.drift else None
        self._watched: int | None = None

    def adapt(
        self, index: int, fused: Fused, heads: Mapping[str, HeadResult], *, learn: bool
    ) -> tuple[Mapping[str, HeadResult], Adaptation]:
        """A window's heads, adapted, and what is to be said of it.

        Args:
            index: of the window, in the bundle's hops.
            fused: what the models said.
            heads: with calibrated probabilities.
            learn: whether it is the first statement about the window. A revision is adapted by
                what is known when it is made, and teaches nothing: its window did already.
        """
        heard = fused.mask
        adapted, prior = heads, dict[str, PriorUsed]()
        if self._section.prior and heard != NOTHING:
            adapted, prior = self._by_prior(index, heard, heads, learn=learn)
        baseline = None
        if self._section.baseline_windows:
            baseline = self._beside_baseline(heard, heads, learn=learn)
        drift = None
        if self._drift is not None:
            drift = self._watch(self._drift, index, fused, heads, learn=learn)
        return adapted, Adaptation(prior=prior, baseline=baseline, drift=drift)

    def _by_prior(
        self, index: int, heard: str, heads: Mapping[str, HeadResult], *, learn: bool
    ) -> tuple[Mapping[str, HeadResult], dict[str, PriorUsed]]:
        spacing = max(
            self._spacing[modality]
            for modality, bit in zip(MODALITIES, heard, strict=True)
            if bit == "1"
        )
        counts = learn and index - self._counted.get(heard, index - spacing) >= spacing
        if counts:
            self._counted[heard] = index
        adapted: dict[str, HeadResult] = {}
        used: dict[str, PriorUsed] = {}
        for head, result in heads.items():
            estimate = self._priors.get((head, heard))
            if estimate is None:
                estimate = self._priors[head, heard] = PriorEstimate(
                    self._base(head, heard),
                    bound=self._section.prior_bound,
                    strength=self._section.prior_strength,
                    memory=self._section.prior_memory,
                )
            if counts:
                estimate.observe(result.probabilities)
            adapted[head] = HeadResult(
                labels=result.labels, probabilities=estimate.adjust(result.probabilities)
            )
            used[head] = PriorUsed(
                base=estimate.base,
                shares=estimate.shares,
                observations=estimate.observations,
                applied=estimate.applied,
            )
        return adapted, used

    def _beside_baseline(
        self, heard: str, heads: Mapping[str, HeadResult], *, learn: bool
    ) -> BaselineSaid:
        windows, deviations = 0, dict[str, tuple[float, ...]]()
        if heard != NOTHING:
            for head, result in heads.items():
                baseline = self._baselines.get((head, heard))
                if baseline is None:
                    baseline = Baseline(self._section.baseline_windows)
                    self._baselines[head, heard] = baseline
                deviation = baseline.deviation(result.probabilities)
                if deviation is not None:
                    deviations[head] = deviation
                elif learn:
                    baseline.learn(result.probabilities)
                windows = baseline.windows
        return BaselineSaid(
            windows=windows, of=self._section.baseline_windows, deviations=deviations
        )

    def _watch(
        self,
        drift: Drift,
        index: int,
        fused: Fused,
        heads: Mapping[str, HeadResult],
        *,
        learn: bool,
    ) -> DriftSaid:
        last = self._watched
        if not learn or (last is not None and index - last < self._watched_every):
            return DriftSaid(total=drift.total)
        self._watched = index
        alarms = drift.update(signals(fused, heads))
        for alarm in alarms:
            log.warning(
                "session %s: drift: %s was %.2f and is %.2f",
                *(self._session, alarm.signal, alarm.before, alarm.now),
            )
        return DriftSaid(alarms=alarms, total=drift.total)


def signals(fused: Fused, heads: Mapping[str, HeadResult]) -> dict[str, float]:
    """What is watched of a window, each in [0, 1].

    ``MODALITY.heard``: whether the model got something of it (a face, a voice);
    ``MODALITY.coverage``: the share of its context with data; for video and sound, since chat comes
    as it likes. ``HEAD.confidence``: the highest probability, where anything was heard.
    """
    values: dict[str, float] = {}
    for modality, bit in zip(MODALITIES, fused.mask, strict=True):
        if modality is not Modality.CHAT:
            values[f"{modality}.heard"] = float(bit == "1")
            values[f"{modality}.coverage"] = fused.parts[modality].coverage
    if fused.mask != NOTHING:
        for head, result in heads.items():
            values[f"{head}.confidence"] = max(result.probabilities)
    return values


def unheard_shares(models: Models) -> dict[str, tuple[float, ...]]:
    """Head -> (C,) what the bundle answers when nothing is heard: the shares of its own data."""
    graph = models.graphs["fusion"]
    nothing = {
        spec.name: np.zeros(
            [1 if isinstance(size, str) else size for size in spec.shape], spec.dtype
        )
        for spec in graph.spec.inputs
    }
    outputs = graph.run(nothing)
    return {
        head: probabilities(outputs[f"{head}_logits"][0], 1.0)
        for head in models.bundle.manifest.heads
    }


def base_of(models: Models) -> Callable[[str, str], tuple[float, ...]]:
    """What prior adaptation starts from: the shares that the bundle states for what was heard, else
    `unheard_shares`."""
    bundle = models.bundle
    heads = bundle.manifest.heads
    # Now, and not where an answer waits for it; a bundle that states all needs no graph to run.
    states_all = all(bundle.shares(head, mask) for head in heads for mask in MASKS)
    unheard = {} if states_all else unheard_shares(models)
    return lambda head, heard: bundle.shares(head, heard) or unheard[head]


def open_adapter(session: str, section: AdaptationSection, models: Models) -> Adapter | None:
    """A session's adapter; None where nothing is on.

    Raises:
        UnavailableError: drift is on and river is not installed.
    """
    if section.off:
        return None
    modalities, hop_ns = models.bundle.manifest.modalities, models.bundle.manifest.hop_ns
    contexts_ns = {
        Modality.VIDEO: modalities.video.context_ns,
        Modality.AUDIO: modalities.audio.context_ns,
        Modality.CHAT: modalities.chat.context_ns,
    }
    return Adapter(
        session,
        section,
        base=base_of(models),
        spacing={modality: -(-ns // hop_ns) for modality, ns in contexts_ns.items()},
        watched_every=-(-WATCHED_EVERY_NS // hop_ns),
    )
