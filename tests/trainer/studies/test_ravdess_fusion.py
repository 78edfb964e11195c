"""The study of fusion on RAVDESS, on clips made here."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch

from counterpoint.trainer.nets.model import Model
from counterpoint.trainer.studies import ravdess_fusion as study
from counterpoint.trainer.studies.ravdess_report import over_folds

pytestmark = pytest.mark.trainer


def job(seed: int) -> study.Job:
    """Each modality tells half of the eight classes apart, both together all."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 8, 320)
    noise = 0.3 * random.standard_normal((2, 320, 4)).astype(np.float32)
    video = np.eye(4, dtype=np.float32)[label % 4] + noise[0]
    audio = np.eye(4, dtype=np.float32)[label // 2] + noise[1]
    inputs = {"video": torch.from_numpy(2 * video), "audio": torch.from_numpy(2 * audio)}
    return study.Job(inputs=inputs, label=torch.from_numpy(label), seed=seed)


def recall(model: Model, on: study.Job, heard: list[str]) -> float:
    return study.figures(study.logits(model, on.inputs, heard), on.label)["recall"]


@pytest.mark.parametrize("kind", ["concat", "late"])
def test_models_trained_at_once_each_learn_their_own_clips(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "EPOCHS", 25)
    other = job(1)
    swapped = study.Job(inputs=other.inputs, label=7 - other.label, seed=1)
    first, second = study.train([job(0), swapped], kind, dropout=study.MODALITY_DROPOUT)
    assert recall(first, job(2), ["video", "audio"]) > 0.9
    assert recall(second, job(2), ["video", "audio"]) < 0.1
    # One modality alone leaves two classes that cannot be told apart.
    assert 0.35 < recall(first, job(2), ["audio"]) < 0.7


def test_every_actor_is_held_out_once_and_every_fold_has_women_and_men() -> None:
    actor = np.arange(1, 21)
    folds = np.stack([study.held_out(actor, fold) for fold in range(study.FOLDS)])
    assert (folds.sum(axis=0) == 1).all()
    assert all((actor[away] % 2).sum() == 2 and away.sum() == 4 for away in folds)


def test_statistics_of_sound_do_not_hear_the_pauses() -> None:
    random = np.random.default_rng(0)
    spoken = random.standard_normal((80, 64)).astype(np.float32)
    pause = np.full((40, 64), -20, np.float32)
    found = study.sound_statistics(np.concatenate((pause, spoken, pause)))
    assert found.shape == (401,)
    # All but the peak, a quantile of the whole clip, which is third from the end.
    same = np.delete(np.arange(401), -3)
    expected = study.sound_statistics(spoken)
    np.testing.assert_allclose(found[same], expected[same], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="3 frames are too few"):
        study.sound_statistics(spoken[:3])


def test_a_figure_is_the_mean_over_folds_of_the_mean_over_seeds() -> None:
    def one(fold: int, value: float) -> dict[str, object]:
        return {"fold": fold, "models": {"late": {"both": {"recall": value}}}}

    runs = [one(0, 0.2), one(0, 0.4), one(1, 0.5), one(1, 0.7)]
    assert over_folds(runs, "late", "both", "recall") == pytest.approx((0.45, 0.2121), abs=1e-4)
