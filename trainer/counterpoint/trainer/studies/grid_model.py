"""The model of `studies.aligned_grid`: fitted on windows with noise, exported as a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterpoint.engine.bundle import Bundle, default_bundle_path, load_bundle
from counterpoint.engine.graphs import (
    VAD_CONTEXT_SAMPLES,
    VAD_HOP_SAMPLES,
    VAD_STATE_WIDTH,
    Widths,
)
from counterpoint.engine.manifest import MASKS
from counterpoint.engine.preprocess.audio import clip_log_mel
from counterpoint.engine.preprocess.spec import AudioSpec, ChatSpec, VideoSpec
from counterpoint.engine.preprocess.text import Tokenizer, hashed_ngrams, pad_ids
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.data.recordings import GridClip
from counterpoint.trainer.export import About, Arrays, Parts, export_bundle
from counterpoint.trainer.fit.bundle import MISSING_POLICY, FusionGraph
from counterpoint.trainer.fit.config import TextConfig
from counterpoint.trainer.fit.dropout import drop_modalities, states_of
from counterpoint.trainer.fit.words import write_tokenizer
from counterpoint.trainer.nets.fusion import make_fusion
from counterpoint.trainer.nets.model import PRESENT, Blank, Model
from counterpoint.trainer.studies.grid_data import (
    AUDIO,
    CELLS,
    FACE_PX,
    HEADS,
    HOP_NS,
    MOUTH,
    VIDEO,
    Said,
    Sights,
    draw_noise,
    spoken_span,
    stack,
    window_of,
    with_noise,
    words_of,
)

WIDTH: Final = 64
BATCH: Final = 32
RATE: Final = 1.5e-3
AUXILIARY: Final = 1.0
MODALITY_DROPOUT: Final = 0.4
CLEAN: Final = 0.2
SNR_DB: Final = (-12.0, 15.0)
"""In training one window of five is clean, the others have noise at a ratio drawn evenly."""

EASY_EPOCHS: Final = 2
EASY_DB: Final = 8.0
"""The first epochs have no ratio below: a fit that begins in noise was seen to stay at chance."""


class MouthCnn(nn.Module):
    """A mouth: (K, 1, 28, 40) -> (K, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 5, stride=3, padding=2, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.2)
        self.project = nn.Linear(32 * 5 * 7, WIDTH)

    def forward(self, mouths: Tensor) -> Tensor:
        maps = self.features(mouths)
        embedding: Tensor = torch.tanh(self.project(self.dropout(maps.flatten(1))))
        return embedding


class CutMouth(nn.Module):
    """The first layer of the exported graph: (K, 1, 80, 80) -> (K, 1, 28, 40)."""

    def forward(self, faces: Tensor) -> Tensor:
        return faces[:, :, MOUTH[0], MOUTH[1]]


class HopPerceptron(nn.Module):
    """Eight frames of log-mel as one step: (K, 8, 64) -> (K, 1, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8 * AUDIO.mel_bins, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, WIDTH)
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        step: Tensor = torch.tanh(self.layers(log_mel.flatten(1)))
        return step.unsqueeze(1)


class StackPool(nn.Module):
    """All cells of a window side by side, each with weights of its own: (N, T, W) -> (N, D).

    So it learns what is where before the word's end; a recurrence over the cells, which needs no
    fixed place, was seen to stay at chance for long on so few clips.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)
        self.project = nn.Linear(CELLS * WIDTH, WIDTH)

    def forward(self, cells: Tensor, mask: Tensor) -> Tensor:
        kept = torch.where(mask.unsqueeze(2) > 0, cells, torch.zeros_like(cells))
        pooled: Tensor = self.project(self.dropout(kept.flatten(1)))
        return pooled


def make_model(kind: str) -> Model:
    """The trainer's own model with a `StackPool` of each modality.

    Args:
        kind: of `nets.fusion`.
    """
    tasks = {head: len(names) for head, names in HEADS.items()}
    fusion = make_fusion(
        kind, {}, modalities=2, width=WIDTH, tasks=tasks, hidden=WIDTH, dropout=0.2
    )
    return Model(
        {"video": MouthCnn(), "audio": HopPerceptron()},
        {name: StackPool() for name in ("video", "audio")},
        fusion,
        width=WIDTH,
        tasks=tasks,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Clips of one split with what is seen and heard in them."""

    clips: Sequence[GridClip]
    sights: Sequence[Sights]


def measure(part: Part) -> tuple[VideoSpec, AudioSpec]:
    """Preprocessing with means and deviations over the training part, sound as recorded."""
    pixels = np.concatenate([sights.faces[sights.seen][::8].ravel() for sights in part.sights])
    frames = np.concatenate(
        [clip_log_mel(sights.sound, AUDIO, hop_ns=HOP_NS * 5) for sights in part.sights[::2]]
    )
    return (
        dataclasses.replace(
            VIDEO,
            mean=round(float(pixels.mean() / 255), 6),
            std=round(float(pixels.std() / 255), 6),
        ),
        dataclasses.replace(
            AUDIO,
            mean=tuple(round(float(value), 5) for value in frames.mean(axis=0)),
            std=tuple(round(float(value), 5) for value in np.maximum(frames.std(axis=0), 1e-2)),
        ),
    )


def fit(
    part: Part,
    noises: Sequence[Float32Array],
    specs: tuple[VideoSpec, AudioSpec],
    *,
    kind: str,
    epochs: int,
    seed: int,
) -> Model:
    """A model fitted on all words of a part, in inference mode; the last epoch counts.

    Each epoch has every word once, in noise drawn anew, its window ending with the word or a hop
    later.

    Args:
        noises: of the training share.
        specs: as `measure` gives them.
    """
    torch.manual_seed(seed)
    model = make_model(kind)
    words = [(place, said) for place, clip in enumerate(part.clips) for said in words_of(clip)]
    for head, names in HEADS.items():
        counts = np.bincount(
            [said.label for _, said in words if said.head == head], minlength=len(names)
        )
        share = torch.from_numpy(counts / counts.sum()).float()
        model.set_prior(head, torch.log(share.clamp(min=1e-6)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.02, fused=True)
    steps = epochs * -(-len(words) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=RATE, total_steps=steps, pct_start=0.15
    )
    for epoch in range(epochs):
        random = np.random.default_rng([seed, epoch])
        model.train()
        losses = []
        order = random.permutation(len(words))
        for at in range(0, len(order), BATCH):
            chosen = [words[place] for place in order[at : at + BATCH]]
            windows = []
            for place, said in chosen:
                clip, sights = part.clips[place], part.sights[place]
                sound = sights.sound
                if random.random() >= CLEAN:
                    noise = draw_noise(noises, len(sound), random)
                    lowest = EASY_DB if epoch < EASY_EPOCHS else SNR_DB[0]
                    snr_db = float(random.uniform(lowest, SNR_DB[1]))
                    sound = with_noise(sound, spoken_span(clip), noise, snr_db)
                last = said.last + int(random.integers(2))
                windows.append(window_of(sights, sound, last, *specs, random))
            batch = stack(windows)
            masks, state = drop_modalities(
                {name: batch[f"{name}_mask"] for name in model.modalities}, MODALITY_DROPOUT
            )
            batch |= {f"{name}_mask": mask for name, mask in masks.items()}
            loss = _loss(model, batch, state, [said for _, said in chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}", flush=True)
    return model.eval()


def _loss(model: Model, batch: Mapping[str, Tensor], state: Tensor, said: Sequence[Said]) -> Tensor:
    """Each row counts for the head of its word: the fused answer, and each modality's own."""
    answers = model(model.encode(batch), state)
    total = torch.zeros(())
    for head in HEADS:
        rows = torch.tensor([word.head == head for word in said])
        if not rows.any():
            continue
        label = torch.tensor([word.label for word in said])
        share = rows.sum() / len(rows)
        fused = F.cross_entropy(answers.fused[head][rows], label[rows], label_smoothing=0.05)
        total = total + share * fused
        for place in range(state.shape[1]):
            there = rows & (state[:, place] == PRESENT)
            if there.any():
                own = F.cross_entropy(answers.single[head][there, place], label[there])
                total = total + AUXILIARY * share * own / state.shape[1]
    return total


def accuracy(
    model: Model,
    part: Part,
    noises: Sequence[Float32Array],
    specs: tuple[VideoSpec, AudioSpec],
    snr_db: float | None,
    *,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Head -> what is heard -> share that is right, without the engine: for watching a fit."""
    right: dict[str, dict[str, list[bool]]] = {head: {} for head in HEADS}
    for place, (clip, sights) in enumerate(zip(part.clips, part.sights, strict=True)):
        sound = sights.sound
        if snr_db is not None:
            noise = draw_noise(noises, len(sound), np.random.default_rng([seed, place]))
            sound = with_noise(sound, spoken_span(clip), noise, snr_db)
        words = words_of(clip)
        batch = stack([window_of(sights, sound, said.last, *specs) for said in words])
        with torch.inference_mode():
            cells = model.encode(batch)
            for heard in (("video", "audio"), ("video",), ("audio",)):
                masks = {
                    name: mask if name in heard else torch.zeros_like(mask)
                    for name, (_, mask) in cells.items()
                }
                given = {name: (values, masks[name]) for name, (values, _) in cells.items()}
                answers = model(given, states_of(masks)).fused
                for row, said in enumerate(words):
                    found = int(answers[said.head][row].argmax())
                    right[said.head].setdefault("+".join(heard), []).append(found == said.label)
    return {
        head: {heard: float(np.mean(values)) for heard, values in by_heard.items()}
        for head, by_heard in right.items()
    }


def export(
    model: Model, specs: tuple[VideoSpec, AudioSpec], target: Path, work: Path, *, card: str
) -> Bundle:
    """The model as a bundle of the documented format, on a grid of 40 ms.

    Raises:
        FailedError: torch and ONNX disagree.
    """
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = work / "tokenizer.json"
    write_tokenizer(tokenizer, TextConfig(), ())
    parts = Parts(
        modules={
            "vision": nn.Sequential(CutMouth(), model.encoders["video"]).eval(),
            "audio": model.encoders["audio"].eval(),
            "text": Blank(),
            "ngrams": Blank(),
            "fusion": FusionGraph(model, tuple(HEADS)).eval(),
        },
        text_model=None,
        vad_model=load_bundle(default_bundle_path()).graph_path("vad"),
        tokenizer=tokenizer,
        samples=_samples(tokenizer),
        video=specs[0],
        audio=specs[1],
        chat=ChatSpec(),
        heads=HEADS,
        widths=Widths(vision=WIDTH, audio=WIDTH, text=1, ngrams=1),
        hop_ns=HOP_NS,
    )
    about = About(
        id="aligned-grid",
        licence_notice="Trained on GRID (CC BY 4.0) and Speech Commands' noise (CC BY 4.0).",
        missing_policy=MISSING_POLICY,
        model_card=card,
        temperatures={head: dict.fromkeys(MASKS, 1.0) for head in HEADS},
        metrics={},
    )
    return export_bundle(parts, about, target, work)


def _samples(tokenizer: Path) -> dict[str, Arrays]:
    """Inputs for golden vectors: seeded noise and a line of our own."""
    random = np.random.default_rng(0)

    def noise(*shape: int) -> Float32Array:
        return random.standard_normal(shape).astype(np.float32)

    chat = ChatSpec()
    lines = ["bin blue at f two now", "set red by a nine please", "lay white in z one soon"]
    encoded = [Tokenizer(tokenizer, chat).encode(line)[0][0] for line in lines]
    ids = pad_ids(encoded)
    states = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 2, 0], [2, 1, 2], [0, 0, 0]], np.int64)
    fusion: Arrays = {"state": states}
    places = {"vision": (CELLS, WIDTH), "audio": (CELLS, WIDTH), "text": (chat.max_lines, 2)}
    for column, (name, (cells, width)) in enumerate(places.items()):
        there = random.random((len(states), cells)) < 0.8
        there[:, -1] = True
        there &= (states[:, column] == PRESENT)[:, None]
        fusion[name] = np.tanh(noise(len(states), cells, width)) * there[:, :, None]
        fusion[f"{name}_mask"] = there.astype(np.float32)
    return {
        "vision": {"faces": noise(4, 1, FACE_PX, FACE_PX)},
        "audio": {"logmel": noise(4, 8, AUDIO.mel_bins)},
        "text": {"input_ids": ids, "attention_mask": np.ones_like(ids)},
        "ngrams": {"buckets": pad_ids([hashed_ngrams(line, chat) for line in lines])},
        "fusion": fusion,
        "vad": {
            "input": 0.1 * noise(4, VAD_CONTEXT_SAMPLES + VAD_HOP_SAMPLES),
            "state": np.zeros((2, 4, VAD_STATE_WIDTH), np.float32),
            "sr": np.array(AUDIO.rate_hz, np.int64),
        },
    }
