"""The stage ``vision`` on a small made-up FER+: faces as they are learned from, and resuming."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch
from torch import Tensor

from counterpoint.trainer.affect import vision
from counterpoint.trainer.affect.vision import (
    Training,
    VisionModel,
    augment,
    learning_rate,
    train_vision,
)
from counterpoint.trainer.config import AffectConfig, VisionConfig
from counterpoint.trainer.data.ferplus import Faces
from counterpoint.trainer.models import VisionEncoder
from counterpoint.trainer.records import load_weights, read_json

pytestmark = pytest.mark.trainer

STILL = VisionConfig(rotation_degrees=0, zoom=0, shift=0, degrade_share=0, erase_share=0, dropout=0)
SHORT = AffectConfig(
    seed=3, vision=dataclasses.replace(STILL, sizes=((16, 2), (48, 2)), batch_size=32, average=0.5)
)


def made_up_faces(count: int, seed: int) -> Faces:
    """Noise with a bright bar: its height tells which of two classes."""
    random = np.random.default_rng(seed)
    hard = random.integers(0, 2, count)
    images = random.integers(60, 120, (count, 48, 48)).astype(np.uint8)
    for picture, label in zip(images, hard, strict=True):
        picture[6 + 24 * label : 14 + 24 * label, 8:40] += 100
    return Faces(images=images, soft=np.eye(7, dtype=np.float32)[hard], hard=hard, left_out={})


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"Train": (160, 0), "Valid": (60, 1)}
    monkeypatch.setattr(vision, "read_ferplus", lambda _, split: made_up_faces(*sizes[split]))


def result(folder: Path) -> dict[str, Tensor]:
    model = VisionModel(SHORT.vision)
    load_weights(folder / "vision" / "model.safetensors", model)
    return model.state_dict()


@pytest.mark.usefixtures("made_up")
def test_learns_and_an_interrupted_fit_ends_at_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_vision(Path(), whole, SHORT)
    assert read_json(whole / "vision" / "metrics.json")["metrics"]["accuracy"] > 0.9

    save = Training.save

    def save_and_stop(self: Training, path: Path) -> None:
        save(self, path)
        if self.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_vision(Path(), cut, SHORT)
    monkeypatch.setattr(Training, "save", save)
    assert any((result(whole)[name] != value).any() for name, value in result(cut).items())
    train_vision(Path(), cut, SHORT)
    log = (cut / "vision" / "log.txt").read_text()
    assert "goes on after epoch 2" in log
    assert "epoch 2/4" not in log
    for name, value in result(cut).items():
        assert torch.equal(value, result(whole)[name]), name
    assert not (cut / "vision" / "progress.safetensors").exists()


def test_another_recipe_does_not_go_on(tmp_path: Path) -> None:
    path = tmp_path / "progress.safetensors"
    fit = Training(SHORT, torch.Generator())
    assert not fit.restore(path)
    fit.epoch = 1
    fit.save(path)
    assert Training(SHORT, torch.Generator()).restore(path)
    for other in (
        dataclasses.replace(SHORT, seed=4),
        dataclasses.replace(SHORT, vision=dataclasses.replace(SHORT.vision, weight_decay=0.5)),
    ):
        fresh = Training(other, torch.Generator())
        assert not fresh.restore(path)
        assert fresh.epoch == 0


def test_augment_mirrors_what_is_asked_and_gives_the_size() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(2, 1, 48, 48)
    pictures[:, :, :, :24] = 0.6
    mirrored = torch.tensor([False, True])
    for size in (24, 32, 48):
        found = augment(pictures, mirrored, size, STILL, generator)
        assert found.shape == (2, 1, size, size)
        left, right = (
            found[..., : size // 2].mean((1, 2, 3)),
            found[..., size // 2 :].mean((1, 2, 3)),
        )
        assert ((left > right) == ~mirrored).all()


def test_augment_covers_a_part_of_each_face_where_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(16, 1, 48, 48, generator=generator)
    covering = dataclasses.replace(STILL, erase_share=1.0)
    found = augment(pictures, torch.zeros(16, dtype=torch.bool), 48, covering, generator)
    for picture in found:  # one value over a whole rectangle; elsewhere hardly two are equal
        values, counts = picture.unique(return_counts=True)
        inside = values[(values > 0) & (values < 1)]
        most = counts[(values > 0) & (values < 1)].max()
        assert len(inside) > 100
        assert 0.005 * 48**2 < most < 0.25 * 48**2


def test_the_rate_rises_to_its_highest_and_falls_to_nearly_nothing() -> None:
    config = VisionConfig(learning_rate=1.0, warm_up=0.2)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert max(rates) == rates[19] == 1.0
    assert rates[:20] == sorted(rates[:20])
    assert rates[19:] == sorted(rates[19:], reverse=True)
    assert 0 < rates[-1] < 0.02


@torch.inference_mode()
def test_embedding_has_no_side_and_knows_neither_light_nor_contrast() -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder().eval()
    faces = torch.randn(3, 1, 48, 48)
    expected = encoder(faces)
    torch.testing.assert_close(encoder(faces.flip(3)), expected)
    torch.testing.assert_close(encoder(1.5 * faces + 0.7), expected, atol=2e-3, rtol=0)
    assert not torch.allclose(encoder(faces.flip(2)), expected, atol=1e-3)
    assert encoder(torch.full((1, 1, 48, 48), 0.3)).isfinite().all()
