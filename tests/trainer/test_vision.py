"""The stage ``vision`` on a small made-up FER+: faces as they are learned from, and resuming."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import onnx
import torch
from torch import Tensor, nn

from counterpoint.engine.bundle import default_bundle_path, load_bundle
from counterpoint.streams.errors import UsageError
from counterpoint.trainer.affect import vision
from counterpoint.trainer.affect.vision import (
    Training,
    VisionModel,
    augment,
    one_cycle,
    size_at,
    train_vision,
)
from counterpoint.trainer.affect.vision_start import load_encoder, start_from
from counterpoint.trainer.config import AffectConfig, VisionConfig
from counterpoint.trainer.data.ferplus import Faces
from counterpoint.trainer.export import run_onnx
from counterpoint.trainer.models import AUDIO_DIM, TEXT_DIM, VISION_DIM, VisionEncoder
from counterpoint.trainer.onnx_export import export_graph
from counterpoint.trainer.records import load_weights, read_json
from tests.support.bundles import tiny_bundle

pytestmark = pytest.mark.trainer

STILL = dataclasses.replace(
    VisionConfig().second, rotation_degrees=0, zoom=0, shift=0, degrade_share=0, erase_share=0,
    dropout=0.0,
)  # fmt: skip
LEARN = dataclasses.replace(STILL, epochs=2, learning_rate=3e-3, average=0, still=False)
FINISH = dataclasses.replace(STILL, epochs=2, average=0.5)
AGAIN = dataclasses.replace(LEARN, epochs=1, dropout=0.1)
SHORT = AffectConfig(
    seed=3, vision=VisionConfig(batch_size=32, first=LEARN, second=FINISH, third=AGAIN)
)


def made_up_faces(count: int, seed: int) -> Faces:
    """Noise with a bright bar: its height tells which of two classes."""
    random = np.random.default_rng(seed)
    hard = random.integers(0, 2, count)
    images = random.integers(60, 120, (count, 48, 48)).astype(np.uint8)
    for picture, label in zip(images, hard, strict=True):
        picture[6 + 24 * label : 14 + 24 * label, 8:40] += 100
    return Faces(images=images, soft=np.eye(7, dtype=np.float32)[hard], hard=hard, left_out={})


def use_made_up(patch: pytest.MonkeyPatch) -> None:
    sizes = {"Train": (160, 0), "Valid": (60, 1)}
    patch.setattr(vision, "read_ferplus", lambda _, split: made_up_faces(*sizes[split]))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    use_made_up(monkeypatch)


def result(folder: Path) -> dict[str, Tensor]:
    model = VisionModel()
    load_weights(folder / "vision" / "model.safetensors", model)
    return model.state_dict()


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("saves", [1, 2, 3, 4])
def test_an_interrupted_fit_ends_at_the_same_weights(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    save = Training.save
    left = [saves]

    def save_and_stop(self: Training, path: Path) -> None:
        save(self, path)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_vision(Path(), tmp_path, SHORT)
    monkeypatch.setattr(Training, "save", save)
    assert any((result(whole)[name] != value).any() for name, value in result(tmp_path).items())
    train_vision(Path(), tmp_path, SHORT)
    log = (tmp_path / "vision" / "log.txt").read_text()
    assert "goes on after epoch" in log
    assert "first 1/2" not in log
    for name, value in result(tmp_path).items():
        assert torch.equal(value, result(whole)[name]), name
    assert not list((tmp_path / "vision").glob("*progress*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        use_made_up(patch)
        train_vision(Path(), folder, SHORT)
    return folder


def test_it_learns(whole: Path) -> None:
    assert read_json(whole / "vision" / "metrics.json")["metrics"]["accuracy"] > 0.9


def test_the_second_phase_leaves_the_early_blocks_and_what_they_measured() -> None:
    torch.manual_seed(0)
    fit = Training(VisionModel(), FINISH, torch.Generator(), "")
    before = {name: value.clone() for name, value in fit.model.state_dict().items()}
    fit.step(torch.randn(8, 1, 48, 48), torch.eye(7)[[0, 1, 2, 3, 4, 5, 6, 0]], 1e-3, 0.9)
    after = fit.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {
        name
        for name, _ in fit.model.named_parameters()
        if not name.startswith(tuple(f"encoder.features.{index}." for index in range(16)))
    }
    for name in moved:  # the mean goes half of the way with an average of 0.5
        middle = (before[name] + after[name]) / 2
        torch.testing.assert_close(fit.mean.state_dict()[name], middle)


def test_another_recipe_does_not_go_on(tmp_path: Path) -> None:
    path = tmp_path / "progress.safetensors"

    def fresh(recipe: str) -> Training:
        return Training(VisionModel(), LEARN, torch.Generator(), recipe)

    fit = fresh("a")
    assert not fit.restore(path)
    fit.epoch = 1
    fit.save(path)
    other = fresh("b")
    assert not other.restore(path)
    assert other.epoch == 0
    same = fresh("a")
    assert same.restore(path)
    assert same.epoch == 1


def test_augment_mirrors_about_half_of_the_faces() -> None:
    pictures = torch.zeros(64, 1, 48, 48)
    pictures[:, :, :, :24] = 0.6
    found = augment(pictures, STILL, torch.Generator().manual_seed(0))
    assert found.shape == pictures.shape
    mirrored = found[..., :24].mean((1, 2, 3)) < found[..., 24:].mean((1, 2, 3))
    assert 16 < int(mirrored.sum()) < 48


def test_augment_covers_a_part_of_each_face_where_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(16, 1, 48, 48, generator=generator)
    covering = dataclasses.replace(STILL, erase_share=1.0)
    for picture in augment(pictures, covering, generator):
        # One value over a whole rectangle; elsewhere hardly two are equal.
        values, counts = picture.unique(return_counts=True)
        inside = (values > 0) & (values < 1)
        assert int(inside.sum()) > 100
        assert 0.005 * 48**2 < int(counts[inside].max()) < 0.25 * 48**2


def test_pictures_grow_over_a_phase() -> None:
    phase = dataclasses.replace(STILL, smallest=32)
    assert [size_at(epoch / 6, phase, 48) for epoch in range(6)] == [32, 32, 40, 40, 48, 48]
    assert {size_at(epoch / 6, STILL, 48) for epoch in range(6)} == {48}
    pictures = torch.zeros(4, 1, 48, 48)
    pictures[:, :, :, 24:] = 1
    found = augment(pictures, STILL, torch.Generator().manual_seed(0), 32)
    assert found.shape == (4, 1, 32, 32)
    # Each half of it is of one brightness, as before, whichever side the bright one is on now.
    for picture in found:
        assert abs(float(picture[0, :, :15].mean() - picture[0, :, 17:].mean())) > 0.5


def test_the_schedule_is_torchs_one_cycle() -> None:
    phase, steps = dataclasses.replace(LEARN, warm_up=0.2), 50
    optimiser = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=phase.learning_rate)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, phase.learning_rate, total_steps=steps, pct_start=phase.warm_up
    )
    for step in range(steps):
        group = optimiser.param_groups[0]
        assert one_cycle(step, steps, phase) == pytest.approx((group["lr"], group["betas"][0]))
        optimiser.step()
        if step + 1 < steps:
            theirs.step()


@torch.inference_mode()
def test_an_exported_encoder_is_read_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, other = VisionEncoder(), VisionEncoder().eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    faces = torch.randn(3, 1, 48, 48)
    expected = encoder.eval()(faces)
    axes = {"faces": {0: "N"}, "embedding": {0: "N"}}
    path = tmp_path / "model.onnx"
    export_graph(encoder, {"faces": faces}, ["embedding"], path, dynamic=axes)
    load_encoder(onnx.load(path).graph, other)
    torch.testing.assert_close(other(faces), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_head_of_a_bundle_is_where_the_stage_begins() -> None:
    bundle = load_bundle(default_bundle_path())
    model = VisionModel()
    assert start_from(bundle.root, model) == bundle.digest
    embedding = torch.tanh(torch.randn(6, 1, VISION_DIM)).repeat(1, 8, 1)
    inputs = {"vision": embedding.numpy(), "vision_mask": np.ones((6, 8), np.float32)}
    inputs["state"] = np.array([[1, 0, 0]] * 6, np.int64)
    for name, places, width in (("audio", 60, AUDIO_DIM), ("text", 8, TEXT_DIM)):
        inputs[name] = np.zeros((6, places, width), np.float32)
        inputs[f"{name}_mask"] = np.zeros((6, places), np.float32)
    said = run_onnx(bundle.graph_path("fusion"), inputs)["emotion_logits"]
    own = model.emotion(embedding[:, 0])
    own = (own - own.mean(dim=1, keepdim=True)).numpy()
    # With a face alone the fusion's answer is the head's, times one weight.
    factor = (said * own).sum() / np.square(own).sum()
    assert factor > 0.1
    np.testing.assert_allclose(said, factor * own, atol=1e-4)


def test_a_bundle_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "other").root
    with pytest.raises(UsageError, match="other: its vision part is no start"):
        start_from(bundle, VisionModel())


@pytest.mark.usefixtures("made_up")
def test_a_start_stands_in_place_of_the_first_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(FINISH, epochs=1)
    config = dataclasses.replace(
        SHORT, vision=dataclasses.replace(SHORT.vision, start="given", second=short)
    )
    monkeypatch.setattr(vision, "start_from", lambda bundle, model: f"digest of {bundle}")
    train_vision(Path(), tmp_path, config)
    assert config.vision.epochs == 1
    metrics = read_json(tmp_path / "vision" / "metrics.json")["metrics"]
    assert metrics["started_from"] == "digest of given"
    assert "first" not in (tmp_path / "vision" / "log.txt").read_text()


@torch.inference_mode()
def test_an_expression_has_no_side() -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder().eval()
    faces = torch.randn(3, 1, 48, 48)
    expected = encoder(faces)
    torch.testing.assert_close(encoder(faces.flip(3)), expected)
    torch.testing.assert_close((encoder.embed(faces) + encoder.embed(faces.flip(3))) / 2, expected)
    assert not torch.allclose(encoder(faces.flip(2)), expected, atol=1e-4)
