"""Stage ``audio``: the log-mel encoder, its sequence model and emotion head on RAVDESS and nEMO.

Speakers of the validation and calibration splits are never trained on. Augmentation works on the
cached log-mel: a gain is an offset, uncorrelated noise adds in power, tempo and pitch are a warp
of the time and the frequency axis; all of it once for a batch.

A first phase learns all from nothing in one cycle of the learning rate; a second goes on at a level
rate, and a running mean of its weights is the result: with so few speakers the weights of single
steps differ by points. The first may be replaced by what a bundle has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from counterpoint.engine.preprocess.spec import HOP_NS, AudioSpec
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.affect.audio_start import start_from
from counterpoint.trainer.config import AffectConfig, AudioConfig, AudioPhase
from counterpoint.trainer.data.speech import (
    CALIBRATION,
    RAVDESS_VALIDATION,
    SpokenClips,
    read_noise,
    read_speech,
)
from counterpoint.trainer.labels import EMOTION
from counterpoint.trainer.metrics import accuracy, macro_recall
from counterpoint.trainer.models import AudioEncoder, AudioSequence
from counterpoint.trainer.records import StageRecord, save_arrays, save_weights, seed_everything

CLASSES = len(EMOTION)
SPEC = AudioSpec()
HOP_FRAMES = SPEC.frames_per(HOP_NS)
WINDOW_FRAMES = SPEC.context_frames + SPEC.frames_per(SPEC.context_ns)
STEP_FRAMES = HOP_FRAMES // SPEC.steps_per_hop
STEPS = SPEC.frames_per(SPEC.context_ns) // STEP_FRAMES
SILENCE = math.log(1e-10)
NATS_PER_DB = math.log(10) / 10


class AudioModel(nn.Module):
    """Encoder, sequence and linear head: (N, 314, 64), mask (N, 60) -> logits (N, 7)."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.encoder = AudioEncoder(SPEC.mel_bins)
        self.sequence = AudioSequence(config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.emotion = nn.Linear(2 * AudioSequence.HIDDEN, CLASSES)

    def forward(self, log_mel: Tensor, mask: Tensor) -> Tensor:
        pooled = self.sequence(self.encoder(log_mel), mask)
        logits: Tensor = self.emotion(self.dropout(pooled))
        return logits


class Track:
    """Many clips one after another in one tensor, so that a batch of crops is one gather."""

    def __init__(self, parts: tuple[Float32Array, ...]) -> None:
        margin = np.full((2 * WINDOW_FRAMES, SPEC.mel_bins), SILENCE, np.float32)
        pieces: list[Float32Array] = [margin]
        starts, at = [], len(margin)
        for part in parts:
            starts.append(at)
            pieces += [part, margin]
            at += len(part) + len(margin)
        self.frames = torch.from_numpy(np.concatenate(pieces))
        self.starts = torch.tensor(starts)
        self.counts = torch.tensor([len(part) for part in parts])

    def crops(self, clips: Tensor, ends: Tensor, length: int) -> Tensor:
        """(N, length, mel_bins): the ``length`` frames before frame ``ends`` of each clip.

        Outside a clip there is silence.
        """
        last = self.starts[clips] + ends
        return self.frames[last[:, None] + torch.arange(-length, 0)[None, :]]


def augment(
    crops: Tensor, noise: Tensor, mean: Tensor, std: Tensor, pitch: float, config: AudioConfig,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Raw log-mel crops (N, longer, 64) -> normalised inputs (N, 314, 64).

    Args:
        noise: (N, longer, 64) raw log-mel of background noise.
        pitch: greatest stretch of the frequency axis.
    """
    count, frames, bins = crops.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    # Noise at a random ratio to the crop's mean power; where it is not wanted, 200 dB below.
    snr_db = torch.where(uniform(0, 1) < config.noise_share, uniform(*config.snr_db), 200.0)
    level = _mean_log_power(crops) - _mean_log_power(noise) - snr_db * NATS_PER_DB
    mixed = torch.logaddexp(crops, noise + level[:, None, None])
    mixed = mixed + (uniform(-1, 1) * config.gain_db * NATS_PER_DB)[:, None, None]
    scaled = ((mixed - mean) / std).clamp(-4, 4)

    zoom_time = (1 + uniform(-1, 1) * config.tempo) * WINDOW_FRAMES / frames
    zoom_bins = 1 + uniform(-1, 1) * pitch
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = zoom_bins
    theta[:, 0, 2] = zoom_bins - 1  # bin 0 stays where it is
    theta[:, 1, 1] = zoom_time
    grid = F.affine_grid(theta, [count, 1, WINDOW_FRAMES, bins], align_corners=False)
    warped = F.grid_sample(
        scaled.unsqueeze(1), grid, padding_mode="border", align_corners=False
    ).squeeze(1)

    keep = torch.ones(count, WINDOW_FRAMES, bins, dtype=torch.bool)
    for _ in range(config.masks):  # SpecAugment, Park et al. 2019, arXiv:1904.08779
        keep &= ~_spans(uniform, config.mask_bins, bins)[:, None, :]
        keep &= ~_spans(uniform, config.mask_frames, WINDOW_FRAMES)[:, :, None]
    return warped * keep


def _mean_log_power(log_mel: Tensor) -> Tensor:
    return torch.logsumexp(log_mel.flatten(1), dim=1) - math.log(log_mel[0].numel())


def _spans(uniform: Callable[[float, float], Tensor], longest: int, size: int) -> Tensor:
    """(N, size) bool: one random span of up to ``longest`` positions in each row."""
    length = uniform(0, 1) * longest
    start = uniform(0, 1) * (size - length)
    at = torch.arange(size)[None, :]
    inside: Tensor = (at >= start[:, None]) & (at < (start + length)[:, None])
    return inside


def train_audio(data: Path, out: Path, config: AffectConfig) -> None:
    """Train on all but the held-out speakers; write weights and metrics to ``out``/audio."""
    audio = config.audio
    record = StageRecord(out / "audio", "audio")
    generator = seed_everything(config.seed + 1)

    with record.timed("read"):
        clips = read_speech(data, out / "cache", SPEC)
        noise = Track(read_noise(data, SPEC))
    training = clips.chosen(clips.speakers - RAVDESS_VALIDATION - CALIBRATION)
    frames = np.concatenate(training.log_mel)
    mean_bins, std_bins = frames.mean(axis=0), frames.std(axis=0)
    save_arrays(out / "audio" / "normalisation.npz", mean=mean_bins, std=std_bins)
    mean, std = torch.from_numpy(mean_bins), torch.from_numpy(std_bins)

    model = AudioModel(audio)
    size = sum(parameter.numel() for parameter in model.parameters())
    record.say(
        f"{len(training.clips)} clips of {len(training.speakers)} speakers, {size} parameters"
    )
    lesson = Lesson(track=Track(training.log_mel), noise=noise, clips=training, mean=mean, std=std)
    if audio.start:
        record.metrics["started_from"] = start_from(Path(audio.start), model)
    else:
        with record.timed("first"):
            run_phase(model, audio.first, lesson, audio, generator, record)
    # Seeded anew, so that the finish does not depend on whether the first phase ran just now.
    generator = seed_everything(config.seed + 1)
    with record.timed("finish"):
        model = run_phase(model, audio.finish, lesson, audio, generator, record)
    with record.timed("score"):
        record.metrics |= score_audio(model, clips, mean, std)
    record.say(f"RAVDESS actors 17-20: {record.metrics}")
    record.finish()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """What a phase learns from.

    Fields:
        track: the clips of ``clips``, not normalised.
        noise: what is mixed in.
        mean, std: (64,) of the log-mel.
    """

    track: Track
    noise: Track
    clips: SpokenClips
    mean: Tensor
    std: Tensor


def run_phase(
    model: AudioModel, phase: AudioPhase, lesson: Lesson, config: AudioConfig,
    generator: torch.Generator, record: StageRecord,
) -> AudioModel:  # fmt: skip
    """Train ``model`` in place; the running mean of its weights, or itself if there is none.

    What it would give so far is in the record's folder after every epoch.
    """
    model.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = config.clips_per_epoch // phase.batch_size
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=phase.learning_rate, weight_decay=config.weight_decay
    )
    schedule: torch.optim.lr_scheduler.LRScheduler
    if phase.average:
        # Nothing depends on how many epochs follow: a shorter run is the start of a longer one.
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1.0, 2 * (step + 1) / batches)
        )
    else:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, phase.learning_rate, total_steps=batches * phase.epochs, pct_start=0.2
        )
    mean_of = get_ema_multi_avg_fn(phase.average)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(model, multi_avg_fn=mean_of, use_buffers=True)
    result = cast("AudioModel", averaged.module) if phase.average else model
    weights = _clip_weights(lesson.clips, phase.ravdess_share)
    for epoch in range(phase.epochs):
        model.train()
        if phase.still:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        total = 0.0
        drawn = torch.multinomial(
            weights, batches * phase.batch_size, replacement=True, generator=generator
        )
        for chosen in drawn.split(phase.batch_size):  # type: ignore[no-untyped-call]
            inputs, target, mask = _batch(chosen, lesson, phase.pitch, config, generator)
            loss = F.cross_entropy(
                model(inputs, mask), target, label_smoothing=config.label_smoothing
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            averaged.update_parameters(model)
            total += float(loss.detach())
        record.say(f"epoch {epoch + 1}/{phase.epochs} loss {total / batches:.4f}")
        save_weights(record.folder / "model.safetensors", result)
    return result


def _batch(
    chosen: Tensor, lesson: Lesson, pitch: float, config: AudioConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (N, 314, 64), targets (N, 7), masks (N, 60): windows into the clips ``chosen``."""
    count = len(chosen)
    longest = math.ceil(WINDOW_FRAMES * (1 + config.tempo)) + 1
    # A window may end anywhere from the middle of the clip to half a second after it.
    counts = lesson.track.counts[chosen]
    ends = counts * 0.6 + torch.rand(count, generator=generator) * (counts * 0.4 + 50)
    crops = lesson.track.crops(chosen, ends.long(), longest)
    which = torch.randint(len(lesson.noise.counts), (count,), generator=generator)
    room = lesson.noise.counts[which] - longest
    at = longest + (torch.rand(count, generator=generator) * room).long()
    noise = lesson.noise.crops(which, at, longest)
    inputs = augment(crops, noise, lesson.mean, lesson.std, pitch, config, generator)
    emotions = torch.from_numpy(lesson.clips.emotions)[chosen]
    target = F.one_hot(emotions, CLASSES).to(torch.float32)
    inputs, target = _mixup(inputs, target, config, generator)
    return inputs, target, _session_start_mask(count, config, generator)


def score_audio(
    model: AudioModel, clips: SpokenClips, mean: Tensor, std: Tensor
) -> dict[str, float]:
    """Figures of whole clips of RAVDESS actors 17-20 and of the calibration speakers."""
    metrics = {}
    for prefix, speakers in (("", RAVDESS_VALIDATION), ("calibration_", CALIBRATION)):
        heard = clips.chosen(speakers)
        predicted = clip_probabilities(model, heard, mean, std).argmax(axis=1)
        metrics[f"{prefix}unweighted_recall"] = macro_recall(heard.emotions, predicted, CLASSES)
        metrics[f"{prefix}accuracy"] = accuracy(heard.emotions, predicted)
    return metrics


def _clip_weights(clips: SpokenClips, ravdess_share: float) -> Tensor:
    """How often each clip is drawn: sets by ``ravdess_share``, classes by 1 / sqrt(count)."""
    ravdess = np.array([clip.speaker.startswith("ravdess") for clip in clips.clips])
    weights = np.zeros(len(clips.clips))
    for inside, share in ((ravdess, ravdess_share), (~ravdess, 1 - ravdess_share)):
        if inside.any():
            counts = np.bincount(clips.emotions[inside], minlength=CLASSES)
            part = 1 / np.sqrt(counts[clips.emotions[inside]])
            weights[inside] = share * part / part.sum()
    return torch.from_numpy(weights)


def _session_start_mask(count: int, config: AudioConfig, generator: torch.Generator) -> Tensor:
    """(N, 60): in some rows the left part is not there yet, as in a session's first windows."""
    starting = torch.rand(count, generator=generator) < config.start_share
    first = (torch.rand(count, generator=generator) * 0.7 * STEPS).long() * starting
    return (torch.arange(STEPS)[None, :] >= first[:, None]).to(torch.float32)


def _mixup(
    inputs: Tensor, target: Tensor, config: AudioConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup of a share of the batch (Zhang et al. 2018, arXiv:1710.09412)."""
    count = len(inputs)
    # Beta(a, a) with small a: a power of a uniform number toward one end has the same shape.
    share = torch.rand(count, generator=generator) ** (1 / config.mixup_alpha) / 2
    share *= torch.rand(count, generator=generator) < config.mixup_share
    partner = torch.randperm(count, generator=generator)
    share = share.view(-1, 1)
    mixed = inputs + share.unsqueeze(2) * (inputs[partner] - inputs)
    return mixed, target + share * (target[partner] - target)


def clip_windows(count: int) -> list[int]:
    """Ends (frames) of the windows that tell of a clip: each hop from 3 s on, or the clip's end."""
    context = SPEC.frames_per(SPEC.context_ns)
    return list(range(min(count, context), count + 1, HOP_FRAMES))


def clip_probabilities(
    model: AudioModel, clips: SpokenClips, mean: Tensor, std: Tensor
) -> np.ndarray:
    """(N, 7): the mean over each clip's windows of the emotion probabilities."""
    model.eval()
    track = Track(clips.log_mel)
    rows = []
    with torch.inference_mode():
        for index, count in enumerate(track.counts.tolist()):
            ends = torch.tensor(clip_windows(count))
            crops = track.crops(torch.full_like(ends, index), ends, WINDOW_FRAMES)
            mask = inside_mask(ends)
            logits = model((crops - mean) / std, mask)
            rows.append(torch.softmax(logits, dim=1).mean(dim=0))
    probabilities: np.ndarray = torch.stack(rows).numpy()
    return probabilities


def inside_mask(ends: Tensor) -> Tensor:
    """(N, 60): 1 for steps after the start of the clip."""
    steps = torch.arange(STEPS)[None, :]
    return (steps >= STEPS - ends[:, None] // STEP_FRAMES).to(torch.float32)
