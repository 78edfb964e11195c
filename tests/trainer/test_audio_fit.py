"""The audio stage goes on from a bundle as that was, and its finish keeps a mean of the weights."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from counterpoint.engine.bundle import default_bundle_path, load_bundle
from counterpoint.streams.errors import UsageError
from counterpoint.trainer.affect.audio import STEPS, AudioModel, Lesson, Track, run_phase
from counterpoint.trainer.affect.audio_start import start_from
from counterpoint.trainer.config import AudioConfig, AudioPhase
from counterpoint.trainer.data.speech import Clip, SpokenClips
from counterpoint.trainer.export import run_onnx
from counterpoint.trainer.records import StageRecord, load_weights
from tests.support.bundles import tiny_bundle

pytestmark = pytest.mark.trainer

PHASE = AudioPhase(
    epochs=2, batch_size=4, learning_rate=1e-3, average=0.5, still=True, ravdess_share=0.5,
    pitch=0.05,
)  # fmt: skip


def lesson() -> Lesson:
    random = np.random.default_rng(0)
    sounds = tuple(random.normal(-8, 3, (200, 64)).astype(np.float32) for _ in range(6))
    clips = tuple(
        Clip(path=Path(), speaker=("ravdess-01", "nemo-A")[index % 2], emotion=index)
        for index in range(len(sounds))
    )
    noise = random.normal(-12, 1, (2_000, 64)).astype(np.float32)
    return Lesson(
        track=Track(sounds),
        noise=Track((noise,)),
        clips=SpokenClips(clips=clips, log_mel=sounds),
        mean=torch.full((64,), -8.0),
        std=torch.full((64,), 3.0),
    )


@torch.inference_mode()
def test_what_a_bundle_says_is_where_the_stage_begins() -> None:
    bundle = load_bundle(default_bundle_path())
    model = AudioModel(AudioConfig())
    assert start_from(bundle.root, model) == bundle.digest
    model.eval()
    sound = torch.randn(3, 39, 64, generator=torch.Generator().manual_seed(0))
    graph = run_onnx(bundle.graph_path("audio"), {"logmel": sound.numpy()})
    np.testing.assert_allclose(model.encoder(sound).numpy(), graph["embedding"], atol=1e-4)

    steps = torch.tanh(torch.randn(2, STEPS, 96, generator=torch.Generator().manual_seed(1)))
    mask = (torch.arange(STEPS) >= 20).float().repeat(2, 1)
    inputs = {"audio": steps.numpy(), "audio_mask": mask.numpy()}
    inputs["state"] = np.array([[0, 1, 0]] * 2, np.int64)
    for name, width in (("vision", 128), ("text", 416)):
        inputs[name] = np.zeros((2, 8, width), np.float32)
        inputs[f"{name}_mask"] = np.zeros((2, 8), np.float32)
    said = run_onnx(bundle.graph_path("fusion"), inputs)["emotion_logits"]
    own = model.emotion(model.sequence(steps, mask))
    own = (own - own.mean(dim=1, keepdim=True)).numpy()
    # With sound alone the fusion's answer is the audio head's, times one weight.
    factor = (said * own).sum() / np.square(own).sum()
    assert factor > 0.1
    np.testing.assert_allclose(said, factor * own, atol=1e-4)


def test_a_bundle_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "other").root
    with pytest.raises(UsageError, match="other: its audio part is no start"):
        start_from(bundle, AudioModel(AudioConfig()))


def test_the_mean_of_the_weights_is_kept_and_a_shorter_run_begins_a_longer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AudioConfig(clips_per_epoch=8)
    start = AudioModel(config)
    given = lesson()
    record = StageRecord(tmp_path, "audio")
    seen: list[nn.Module] = []
    real = AveragedModel.update_parameters

    def watch(self: AveragedModel, model: nn.Module) -> None:
        seen.append(copy.deepcopy(model))
        real(self, model)

    monkeypatch.setattr(AveragedModel, "update_parameters", watch)

    def fit(epochs: int) -> AudioModel:
        seen.clear()
        torch.manual_seed(0)
        phase = dataclasses.replace(PHASE, epochs=epochs)
        generator = torch.Generator().manual_seed(0)
        return run_phase(copy.deepcopy(start), phase, given, config, generator, record)

    short = fit(1).emotion.weight
    long = fit(2)
    kept = AudioModel(config)
    load_weights(tmp_path / "model.safetensors", kept)
    torch.testing.assert_close(kept.state_dict(), long.state_dict())
    steps = [model.state_dict() for model in seen]
    assert len(steps) == 4
    mean = steps[0]["emotion.weight"]
    for index, step in enumerate(steps):
        mean = 0.5 * mean + 0.5 * step["emotion.weight"] if index else mean
        if index == 1:
            torch.testing.assert_close(short, mean)
    torch.testing.assert_close(long.emotion.weight, mean)
    assert not torch.equal(long.emotion.weight, steps[-1]["emotion.weight"])
    # What batch normalisation measures stays as it was.
    norm = "encoder.convolutions.1.running_mean"
    assert torch.equal(long.state_dict()[norm], start.state_dict()[norm])
    learned = "encoder.convolutions.0.weight"
    assert not torch.equal(long.state_dict()[learned], start.state_dict()[learned])
