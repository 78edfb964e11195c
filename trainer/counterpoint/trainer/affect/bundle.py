"""Stage ``export``: the bundle from the stages' weights, validated through its own graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoint.engine.bundle import Bundle
from counterpoint.engine.device import open_device
from counterpoint.engine.golden import check_golden
from counterpoint.engine.graphs import (
    VAD_CONTEXT_SAMPLES,
    VAD_HOP_SAMPLES,
    VAD_STATE_WIDTH,
)
from counterpoint.engine.manifest import Metric
from counterpoint.engine.preprocess.audio import windows_of
from counterpoint.engine.preprocess.spec import AudioSpec, ChatSpec, VideoSpec
from counterpoint.engine.preprocess.text import Tokenizer, hashed_ngrams, normalise, pad_ids
from counterpoint.trainer.affect.audio import STEPS
from counterpoint.trainer.affect.card import LICENCE_NOTICE, MISSING_POLICY, model_card
from counterpoint.trainer.affect.fusion import load_encoders
from counterpoint.trainer.affect.text_tokens import SPEC
from counterpoint.trainer.config import AffectConfig
from counterpoint.trainer.data.speech import read_noise
from counterpoint.trainer.evaluate import evaluate_bundle
from counterpoint.trainer.export import About, Arrays, Parts, export_bundle
from counterpoint.trainer.models import AUDIO_DIM, TEXT_DIM, VISION_DIM
from counterpoint.trainer.pretrained import minilm_folder, silero_vad_file
from counterpoint.trainer.records import (
    StageRecord,
    load_arrays,
    load_weights,
    read_json,
    seed_everything,
)

GOLDEN_LINES = (
    "That was wonderful, thank you so much!",
    "I am not sure what to think of this.",
    "No. Stop it, this is terrible :(",
    "See you at 8, usual place?",
)


def export_affect(data: Path, out: Path, config: AffectConfig, target: Path) -> Bundle:
    """Export, validate, and write the bundle with its figures and card to ``target``."""
    record = StageRecord(out / "export", "export")
    seed_everything(config.seed + 4)
    encoders = load_encoders(out, config)
    load_weights(out / "fusion" / "sentiment.safetensors", encoders.fusion.sentiment)
    load_weights(out / "fusion" / "emotion.safetensors", encoders.fusion.emotion)
    for module in (encoders.vision, encoders.audio):
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    face = load_arrays(out / "vision" / "split.npz")
    sound = load_arrays(out / "audio" / "normalisation.npz")
    video = VideoSpec(mean=round(float(face["mean"]), 6), std=round(float(face["std"]), 6))
    audio = AudioSpec(
        mean=tuple(round(float(value), 5) for value in sound["mean"]),
        std=tuple(round(float(value), 5) for value in sound["std"]),
    )
    chat = SPEC
    tokenizer = minilm_folder() / "tokenizer.json"
    parts = Parts(
        modules={
            "vision": encoders.vision.encoder,
            "audio": encoders.audio.encoder,
            "ngrams": encoders.text.ngrams,
            "fusion": encoders.fusion,
        },
        text_model=out / "text" / "model.int8.onnx",
        vad_model=silero_vad_file(),
        tokenizer=tokenizer,
        samples=golden_inputs(audio, chat, tokenizer, data, config.seed),
        video=video,
        audio=audio,
        chat=chat,
    )

    def write(metrics: dict[str, Metric], directory: Path) -> Bundle:
        about = About(
            id="affect",
            licence_notice=LICENCE_NOTICE,
            missing_policy=MISSING_POLICY,
            model_card=model_card(metrics, _stages(out), config),
            temperatures=read_json(out / "fusion" / "temperatures.json"),
            shares=read_json(out / "fusion" / "shares.json"),
            metrics=metrics,
        )
        return export_bundle(parts, about, directory, out / "export")

    with record.timed("export"):
        draft = write({}, out / "draft")
    with record.timed("validate"):
        metrics = evaluate_bundle(draft.root, data, out / "cache")
    bundle = write(metrics, target)
    device = open_device("cpu")
    try:
        check_golden(bundle, device)
    finally:
        device.close()
    record.metrics = {name: metric.value for name, metric in metrics.items()}
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    record.say(f"{target}: {size / 1e6:.1f} MB, digest {bundle.digest[:12]}")
    record.finish()
    return bundle


def golden_inputs(
    audio: AudioSpec, chat: ChatSpec, tokenizer: Path, data: Path, seed: int
) -> dict[str, Arrays]:
    """Inputs for golden vectors that may be shipped: noise, own sentences, seeded numbers.

    No picture or voice of the training sets is among them: their terms do not allow it.
    """
    random = np.random.default_rng(seed)
    rows = 4
    noise = read_noise(data, audio)[0]
    encode = Tokenizer(tokenizer, chat).encode
    lines = [normalise(line) for line in GOLDEN_LINES]
    read = [encode(line, lines[:place]) for place, line in enumerate(lines)]
    ids, mask = (pad_ids([pair[part][0] for pair in read]) for part in (0, 1))
    states = np.array(
        [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 1], [2, 1, 0], [0, 0, 0], [2, 2, 2]],
        np.int64,
    )
    return {
        "vision": {"faces": random.standard_normal((rows, 1, 48, 48)).astype(np.float32)},
        "audio": {"logmel": windows_of(noise, audio)[8 : 8 + rows]},
        "text": {"input_ids": ids, "attention_mask": mask},
        "ngrams": {"buckets": pad_ids([hashed_ngrams(line, chat) for line in lines])},
        "fusion": _golden_fusion(states, random),
        "vad": {
            "input": (
                0.1 * random.standard_normal((rows, VAD_CONTEXT_SAMPLES + VAD_HOP_SAMPLES))
            ).astype(np.float32),
            "state": np.zeros((2, rows, VAD_STATE_WIDTH), np.float32),
            "sr": np.array(audio.rate_hz, np.int64),
        },
    }


def _golden_fusion(states: np.ndarray[Any, Any], random: np.random.Generator) -> Arrays:
    inputs: Arrays = {"state": states}
    for column, (name, places, width) in enumerate(
        (("vision", 8, VISION_DIM), ("audio", STEPS, AUDIO_DIM), ("text", 8, TEXT_DIM))
    ):
        there = random.random((len(states), places)) < 0.7
        there[:, -1] = True
        there &= (states[:, column] == 1)[:, None]
        values = np.tanh(random.standard_normal((len(states), places, width)))
        inputs[name] = (values * there[:, :, None]).astype(np.float32)
        inputs[f"{name}_mask"] = there.astype(np.float32)
    return inputs


def _stages(out: Path) -> dict[str, dict[str, Any]]:
    return {
        stage: read_json(out / stage / "metrics.json")
        for stage in ("vision", "audio", "text", "fusion")
    }
