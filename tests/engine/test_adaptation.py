"""Adaptation in service: it stays within its bounds, and off it does not exist."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.engine.adapt.adapter import Adapter, base_of, signals, unheard_shares
from counterpoint.engine.adapt.baseline import LEAST_PROBABILITY, Baseline
from counterpoint.engine.adapt.drift import Drift
from counterpoint.engine.adapt.prior import PriorEstimate, bounded, chi_square_quantile, floored
from counterpoint.engine.adapt.settings import AdaptationSection
from counterpoint.engine.adapt.statement import Alarm
from counterpoint.engine.align import Part, State
from counterpoint.engine.config import ConfigError, load_config
from counterpoint.engine.fuse import Fused
from counterpoint.engine.manifest import MASKS
from counterpoint.engine.prediction import HeadResult
from counterpoint.streams.errors import UnavailableError
from counterpoint.streams.types import Modality
from tests.support.bundles import tiny_bundle
from tests.support.sessions import load_models

LABELS = ("a", "b", "c")
BASE = (0.5, 0.3, 0.2)

weights = st.lists(st.floats(0, 1), min_size=3, max_size=3)


def shares_of(values: Sequence[float]) -> tuple[float, ...]:
    """Weights as probabilities, some of which may be 0."""
    total = sum(values) or 1.0
    return tuple(value / total for value in values) if sum(values) else (1.0, 0.0, 0.0)


def outputs(
    truth: Sequence[float], count: int, seed: int, base: Sequence[float] = BASE
) -> tuple[list[tuple[float, ...]], list[int]]:
    """What a classifier calibrated to ``base`` says where classes occur with shares ``truth``.

    Evidence is one normal variable a class, raised by 1.2 for the true one, so that the posterior
    is known.
    """
    random = np.random.default_rng(seed)
    classes = random.choice(len(base), size=count, p=truth)
    evidence = random.standard_normal((count, len(base)))
    evidence[np.arange(count), classes] += 1.2
    joint = np.exp(1.2 * evidence) * np.array(base)
    found = joint / joint.sum(axis=1, keepdims=True)
    return [tuple(row) for row in found.tolist()], classes.tolist()


def estimate(
    *, bound: float = 3.0, strength: int = 20, memory: int = 400, base: Sequence[float] = BASE
) -> PriorEstimate:
    return PriorEstimate(base, bound=bound, strength=strength, memory=memory)


# -- priors ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    base=weights,
    seen=st.lists(weights, min_size=1, max_size=12),
    bound=st.floats(1.01, 10),
    strength=st.integers(1, 100),
    memory=st.integers(1, 8),
)
def test_shares_never_leave_their_bounds_and_sum_to_one(
    base: list[float], seen: list[list[float]], bound: float, strength: int, memory: int
) -> None:
    prior = estimate(base=shares_of(base), bound=bound, strength=strength, memory=memory)
    start = prior.base
    assert sum(start) == pytest.approx(1)
    for values in seen:
        said = shares_of(values)
        prior.observe(said)
        assert sum(prior.shares) == pytest.approx(1, abs=1e-9)
        for share, fixed in zip(prior.shares, start, strict=True):
            assert fixed / bound - 1e-12 <= share <= fixed * bound + 1e-12
        adjusted = prior.adjust(said)
        assert sum(adjusted) == pytest.approx(1)
        assert all(0 <= p <= 1 for p in adjusted)
        if not prior.applied:
            assert adjusted is said
    assert prior.observations == min(len(seen), memory)
    assert prior.base == start


@given(
    wanted=st.lists(st.floats(1e-6, 1), min_size=4, max_size=4),
    bound=st.floats(1.01, 20),
    other=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_bounded_shares_are_the_best_within_the_bounds(
    wanted: list[float], bound: float, other: list[float]
) -> None:
    base = np.array([0.4, 0.3, 0.2, 0.1])
    low, high = base / bound, np.minimum(base * bound, 1)
    goal = np.array(wanted)
    found = bounded(goal, low, high)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    # On the way to any other corner or point within the bounds the objective only falls.
    rival = bounded(np.array(other) + 1e-9, low, high)
    assert (goal * np.log(found)).sum() >= (goal * np.log(rival)).sum() - 1e-9


def test_shares_follow_a_shift_and_answers_get_better() -> None:
    truth = (0.15, 0.15, 0.7)
    said, classes = outputs(truth, 600, seed=3)
    prior = estimate(bound=5.0)
    right = adjusted_right = 0
    for output, actual in zip(said, classes, strict=True):
        adjusted = prior.adjust(output)
        right += output.index(max(output)) == actual
        adjusted_right += adjusted.index(max(adjusted)) == actual
        prior.observe(output)
    assert prior.applied
    assert prior.shares == pytest.approx(truth, abs=0.1)
    assert adjusted_right > right + 0.08 * len(said)


def test_without_a_shift_nothing_is_done() -> None:
    applied = 0
    for seed in range(10):
        prior = estimate()
        for output in outputs(BASE, 150, seed)[0]:
            prior.observe(output)
            applied += prior.applied
    # Of 1,500 looks; the test is at the level 0.001, and looks follow each other.
    assert applied <= 30


def test_what_is_long_past_is_forgotten() -> None:
    prior = estimate(memory=100)
    for output in outputs((0.1, 0.1, 0.8), 150, seed=1)[0]:
        prior.observe(output)
    assert prior.applied
    shifted = prior.shares
    for output in outputs(BASE, 150, seed=2)[0]:
        prior.observe(output)
    assert prior.observations == 100
    assert abs(prior.shares[2] - BASE[2]) < abs(shifted[2] - BASE[2]) / 3
    assert not prior.applied


def test_the_bundles_own_shares_count_as_observations() -> None:
    said = outputs((0.1, 0.1, 0.8), 30, seed=5)[0]
    moved = []
    for strength in (5, 50, 500):
        prior = estimate(strength=strength)
        for output in said:
            prior.observe(output)
        moved.append(prior.shares[2] - BASE[2])
    assert moved[0] > moved[1] > moved[2] > 0


def test_a_class_that_the_bundles_data_lack_has_a_small_share() -> None:
    shares = floored((0.6, 0.4, 0.0))
    assert shares.sum() == pytest.approx(1)
    assert 0 < shares[2] <= 0.001


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 10.828), (2, 13.816), (6, 22.458)])
def test_quantiles_of_chi_square_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert 1 <= chi_square_quantile(freedom) / quantile < 1.04


# -- baseline ----------------------------------------------------------------------------------


def test_a_baseline_is_fixed_after_its_windows() -> None:
    baseline = Baseline(3)
    said = outputs(BASE, 10, seed=4)[0]
    for count, output in enumerate(said[:3]):
        assert (baseline.windows, baseline.frozen) == (count, False)
        assert baseline.deviation(output) is None
        baseline.learn(output)
    fixed = baseline.deviation(said[9])
    assert fixed is not None
    assert baseline.frozen
    for output in said[3:9]:
        baseline.learn(output)
    assert baseline.deviation(said[9]) == fixed
    assert baseline.windows == 3


@given(
    said=st.lists(st.lists(st.floats(0.05, 1), min_size=3, max_size=3), min_size=3, max_size=6),
    bias=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
)
def test_what_is_constant_in_a_session_does_not_show_in_deviations(
    said: list[list[float]], bias: list[float]
) -> None:
    def biased(values: Sequence[float]) -> tuple[float, ...]:
        return shares_of([v * math.exp(b) for v, b in zip(values, bias, strict=True)])

    plain, shifted = Baseline(len(said) - 1), Baseline(len(said) - 1)
    for values in said[:-1]:
        plain.learn(shares_of(values))
        shifted.learn(biased(values))
    one = plain.deviation(shares_of(said[-1]))
    other = shifted.deviation(biased(said[-1]))
    assert one is not None
    assert other == pytest.approx(one, abs=1e-6)
    assert sum(one) == pytest.approx(0, abs=1e-9)


def test_deviations_are_bounded() -> None:
    baseline = Baseline(1)
    baseline.learn((1.0, 0.0, 0.0))
    deviation = baseline.deviation((0.0, 0.0, 1.0))
    assert deviation is not None
    assert max(map(abs, deviation)) <= -2 * math.log(LEAST_PROBABILITY)


def test_a_baseline_of_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="a window or more"):
        Baseline(0)


# -- drift -------------------------------------------------------------------------------------


def test_an_alarm_tells_the_signal_and_its_means_and_is_counted() -> None:
    random = np.random.default_rng(0)
    drift = Drift(0.002)
    alarms = []
    for step in range(200):
        level = 0.9 if step < 100 else 0.4
        noise = random.uniform(-0.1, 0.1, 2)
        values = {"steady": 0.5 + noise[0], "falling": level + noise[1]}
        alarms += [(step, alarm) for alarm in drift.update(values)]
    assert {alarm.signal for _, alarm in alarms} == {"falling"}
    step, first = alarms[0]
    assert 105 <= step < 140
    assert first.before == pytest.approx(0.9, abs=0.15)
    assert first.now == pytest.approx(0.4, abs=0.1)
    assert drift.total == len(alarms)


def test_without_river_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river.drift", None)
    with pytest.raises(UnavailableError, match=r"counterpoint\[drift\]"):
        Drift(0.002)


# -- a session's adapter -----------------------------------------------------------------------


def fused(mask: str = "110") -> Fused:
    parts = {
        modality: Part(
            start_ns=0,
            state=State.PRESENT,
            reason=None,
            coverage=0.75,
            age_ns=0,
            complete=True,
        )
        for modality in Modality
    }
    return Fused(logits={}, values={}, contributions={}, parts=parts, mask=mask)


def heads(probabilities: tuple[float, ...]) -> dict[str, HeadResult]:
    return {"mood": HeadResult(labels=LABELS, probabilities=probabilities)}


def adapter(
    *,
    prior: bool = False,
    prior_strength: int = 60,
    baseline_windows: int = 0,
    drift: bool = False,
) -> Adapter:
    section = AdaptationSection(
        prior=prior,
        prior_strength=prior_strength,
        baseline_windows=baseline_windows,
        drift=drift,
    )
    spacing = {Modality.VIDEO: 2, Modality.AUDIO: 4, Modality.CHAT: 10}
    return Adapter("test", section, base=lambda head, heard: BASE, spacing=spacing, watched_every=4)


SHIFTED = (0.02, 0.03, 0.95)


def test_priors_start_from_what_the_bundle_states_for_what_is_heard(tmp_path: Path) -> None:
    models = load_models(tiny_bundle(tmp_path / "tiny"))
    unheard = unheard_shares(models)
    stated = {"sentiment": {"100": (0.2, 0.5, 0.3)}}
    manifest = replace(models.bundle.manifest, shares=stated)
    with_shares = replace(models, bundle=replace(models.bundle, manifest=manifest))
    base = base_of(with_shares)
    assert base("sentiment", "100") == (0.2, 0.5, 0.3)
    assert base("sentiment", "101") == unheard["sentiment"]
    assert base("emotion", "100") == unheard["emotion"]
    assert base_of(models)("sentiment", "100") == unheard["sentiment"]
    everything = {
        head: dict.fromkeys(MASKS, unheard[head]) for head in models.bundle.manifest.heads
    }
    manifest = replace(manifest, shares=everything)
    no_graph = replace(models, bundle=replace(models.bundle, manifest=manifest), graphs={})
    assert base_of(no_graph)("emotion", "011") == unheard["emotion"]


def test_windows_that_share_data_count_once() -> None:
    follows = adapter(prior=True)
    counted = {}
    for mask in ("100", "010", "110", "001"):
        for index in range(1, 41):
            _, said = follows.adapt(index, fused(mask), heads(SHIFTED), learn=True)
        counted[mask] = said.prior["mood"].observations
    # Every 2, 4, 4 and 10 windows: the longest context of what was heard.
    assert counted == {"100": 20, "010": 10, "110": 10, "001": 4}


def test_probabilities_are_adapted_by_what_came_before_and_say_how() -> None:
    follows = adapter(prior=True, prior_strength=5)
    for index in range(1, 81):
        adapted, said = follows.adapt(index, fused(), heads((0.3, 0.3, 0.4)), learn=index < 1)
    assert adapted["mood"].probabilities == (0.3, 0.3, 0.4)
    assert said.prior["mood"].observations == 0
    for index in range(81, 200):
        follows.adapt(index, fused(), heads(SHIFTED), learn=True)
    adapted, said = follows.adapt(200, fused(), heads((0.3, 0.3, 0.4)), learn=False)
    used = said.prior["mood"]
    assert used.applied
    assert used.base == pytest.approx(BASE)
    assert used.shares[2] == pytest.approx(3 * BASE[2], rel=0.01)  # at its bound
    assert adapted["mood"].probabilities[2] > 0.6
    # As documented, the unadapted probabilities can be had back.
    undone = shares_of(
        [
            p * base / share
            for p, base, share in zip(
                adapted["mood"].probabilities, used.base, used.shares, strict=True
            )
        ]
    )
    assert undone == pytest.approx((0.3, 0.3, 0.4))


def test_a_revision_teaches_nothing_and_neither_does_silence() -> None:
    follows = adapter(prior=True, baseline_windows=5)
    for index in range(1, 50):
        _, said = follows.adapt(index, fused(), heads(SHIFTED), learn=False)
        silent, unsaid = follows.adapt(index, fused("000"), heads(BASE), learn=True)
        assert silent["mood"].probabilities is BASE
        assert unsaid.prior == {}
        assert unsaid.baseline is not None
        assert (unsaid.baseline.windows, unsaid.baseline.deviations) == (0, {})
    assert said.prior["mood"].observations == 0
    assert said.baseline is not None
    assert said.baseline.windows == 0


def test_baselines_are_apart_by_what_was_heard_and_change_no_probability() -> None:
    follows = adapter(baseline_windows=3)
    for index in range(1, 4):
        follows.adapt(index, fused("100"), heads((0.2, 0.2, 0.6)), learn=True)
    adapted, video = follows.adapt(4, fused("100"), heads((0.2, 0.2, 0.6)), learn=True)
    _, both = follows.adapt(5, fused("110"), heads((0.2, 0.2, 0.6)), learn=True)
    assert adapted["mood"].probabilities == (0.2, 0.2, 0.6)
    assert video.baseline is not None
    assert video.baseline.deviations["mood"] == pytest.approx((0, 0, 0))
    assert both.baseline is not None
    assert (both.baseline.windows, both.baseline.deviations) == (1, {})
    assert video.prior == {}
    assert video.drift is None


def test_alarms_are_told_once_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    watches = adapter(drift=True)
    alarms: list[Alarm] = []
    with caplog.at_level(logging.WARNING):
        for index in range(1, 321):
            mask = "110" if index <= 160 else "010"
            adapted, said = watches.adapt(index, fused(mask), heads(BASE), learn=True)
            assert adapted["mood"].probabilities is BASE
            assert said.drift is not None
            alarms += said.drift.alarms
            assert said.drift.total == len(alarms)
    assert [alarm.signal for alarm in alarms] == ["video.heard"]
    assert [r.getMessage() for r in caplog.records] == [
        f"session test: drift: video.heard was {alarms[0].before:.2f} and is 0.00"
    ]
    assert alarms[0].before > 0.6


def test_what_is_watched_lies_between_0_and_1_and_has_a_name() -> None:
    assert signals(fused("101"), heads((0.25, 0.5, 0.25))) == {
        "video.heard": 1.0,
        "video.coverage": 0.75,
        "audio.heard": 0.0,
        "audio.coverage": 0.75,
        "mood.confidence": 0.5,
    }
    assert "mood.confidence" not in signals(fused("000"), heads(BASE))


# -- configuration -----------------------------------------------------------------------------


def test_by_default_all_is_off() -> None:
    section = load_config().adaptation
    assert section.off
    for pair in ("prior=true", "baseline_windows=1", "drift=true"):
        assert not load_config(None, [f"adaptation.{pair}"]).adaptation.off


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("prior_bound = 1.0", "prior_bound is above 1, at most 10"),
        ("prior_bound = 11", "prior_bound is above 1, at most 10"),
        ("prior_strength = 0", "prior_strength is 1 or more"),
        ("prior_memory = 5001", "prior_memory is 1 to 5000"),
        ("baseline_windows = -1", "baseline_windows is 0 to 100000"),
        ("drift_delta = 0", "drift_delta lies between 0 and 1"),
        ("drift = 1", "must be bool"),
        ("priors = true", "unknown key 'priors'"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[adaptation]\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert words in str(caught.value)
