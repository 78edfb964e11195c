"""From trained weights to a bundle: ONNX graphs, parity gates, golden vectors, manifest, card."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.engine.bundle import Bundle, write_bundle
from counterpoint.engine.golden import golden_bytes
from counterpoint.engine.graphs import GraphSpec, Precision, Tolerance, Widths
from counterpoint.engine.manifest import (
    MODEL_CARD_FILE,
    TOKENIZER_FILE,
    HeadSpec,
    Manifest,
    Metric,
    Modalities,
    NumberSpec,
    tensor_contract,
)
from counterpoint.engine.preprocess.spec import HOP_NS, AudioSpec, ChatSpec, VideoSpec
from counterpoint.streams.errors import FailedError
from counterpoint.trainer.labels import HEADS
from counterpoint.trainer.models import AUDIO_DIM, MINILM_DIM, NGRAM_DIM, VISION_DIM
from counterpoint.trainer.onnx_export import check_parity, export_graph
from counterpoint.trainer.sentence import open_session

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]

MAX_BUNDLE_BYTES = 40 * 10**6
PARITY_ATOL = 1e-4
TOLERANCES: dict[str, Tolerance] = {
    "vision": Tolerance(atol=1e-3, rtol=1e-3),
    "audio": Tolerance(atol=1e-3, rtol=1e-3),
    # Dynamic quantisation rounds activations: one step of difference upstream is allowed for.
    "text": Tolerance(atol=2e-2, rtol=1e-2),
    "ngrams": Tolerance(atol=1e-4, rtol=1e-3),
    "fusion": Tolerance(atol=1e-3, rtol=1e-3),
    "vad": Tolerance(atol=1e-3, rtol=1e-3),
}
PRECISIONS: dict[str, Precision] = {
    "vision": "fp32",
    "audio": "fp32",
    "text": "int8",
    "ngrams": "fp32",
    "fusion": "fp32",
    "vad": "fp32",
}

AFFECT_WIDTHS = Widths(vision=VISION_DIM, audio=AUDIO_DIM, text=MINILM_DIM, ngrams=NGRAM_DIM)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Everything a bundle is made of.

    Fields:
        modules: role -> torch module for vision, audio, ngrams, fusion (and text, where there is
            no ``text_model``), in inference mode.
        text_model: ONNX of the sentence encoder, int8; None: it is among ``modules``, fp32.
        vad_model: ONNX of the voice activity detector.
        tokenizer: ``tokenizer.json``.
        samples: role -> golden inputs by name, of at least 3 rows where the batch is dynamic.
        video, audio: preprocessing with its measured means and deviations.
        heads: labels of each head, in the order of its logits.
        numbers: tasks whose answers are numbers; behind the heads in the fusion's outputs.
        widths: of the encoders' embeddings.
        hop_ns: the grid of all modalities and windows.
    """

    modules: Mapping[str, nn.Module]
    text_model: Path | None
    vad_model: Path
    tokenizer: Path
    samples: Mapping[str, Arrays]
    video: VideoSpec
    audio: AudioSpec
    chat: ChatSpec
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: HEADS)
    numbers: Mapping[str, NumberSpec] = field(default_factory=dict)
    widths: Widths = AFFECT_WIDTHS
    hop_ns: int = HOP_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a bundle says of itself."""

    id: str
    licence_notice: str
    missing_policy: str
    model_card: str
    temperatures: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, Metric]
    shares: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)


def export_bundle(parts: Parts, about: About, target: Path, work: Path) -> Bundle:
    """Export every graph, hold it against torch, record golden outputs, write the bundle.

    Args:
        target: directory of the bundle; one that is there is replaced.
        work: directory for the single ONNX files.

    Raises:
        FailedError: torch and ONNX disagree, or the bundle is too large.
        BundleError: the bundle would not load.
    """
    modalities = Modalities(video=parts.video, audio=parts.audio, chat=parts.chat)
    heads = {name: HeadSpec(labels=labels) for name, labels in parts.heads.items()}
    contract = tensor_contract(
        hop_ns=parts.hop_ns,
        modalities=modalities,
        heads=heads,
        widths=parts.widths,
        numbers=parts.numbers,
    )
    models = {"vad": parts.vad_model}
    precisions = dict(PRECISIONS)
    if parts.text_model is None:
        precisions["text"] = "fp32"
    else:
        models["text"] = parts.text_model
    for role, module in parts.modules.items():
        inputs, outputs = contract[role]
        models[role] = work / f"{role}.onnx"
        dynamic = {
            spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
            for spec in (*inputs, *outputs)
        }
        sample = {spec.name: torch.from_numpy(parts.samples[role][spec.name]) for spec in inputs}
        names = [spec.name for spec in outputs]
        export_graph(module, sample, names, models[role], dynamic=dynamic)
        _gate(role, module, sample, names, models[role])

    files: dict[str, bytes | Path] = {
        TOKENIZER_FILE: parts.tokenizer,
        MODEL_CARD_FILE: about.model_card.encode(),
    }
    graphs = {}
    for role, (inputs, outputs) in contract.items():
        file = f"models/{role}/model.{precisions[role]}.onnx"
        golden = f"golden/{role}.npz"
        files[file] = models[role]
        files[golden] = golden_bytes(
            parts.samples[role], run_onnx(models[role], parts.samples[role])
        )
        graphs[role] = GraphSpec(
            file=file,
            precision=precisions[role],
            inputs=inputs,
            outputs=outputs,
            golden=golden,
            tolerance=TOLERANCES[role],
        )
    size = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in files.values())
    if size > MAX_BUNDLE_BYTES:
        raise FailedError(f"the bundle has {size} bytes, more than {MAX_BUNDLE_BYTES}")
    manifest = Manifest(
        id=about.id,
        created=dt.datetime.now(dt.UTC).date().isoformat(),
        engine_min_version="0.1.0",
        licence_notice=about.licence_notice,
        hop_ns=parts.hop_ns,
        modalities=modalities,
        graphs=graphs,
        heads=heads,
        numbers=parts.numbers,
        missing_policy=about.missing_policy,
        temperatures=about.temperatures,
        metrics=about.metrics,
        shares={
            head: {mask: tuple(shares) for mask, shares in by_mask.items()}
            for head, by_mask in about.shares.items()
        },
    )
    return write_bundle(target, manifest, files=files, replace=True)


def run_onnx(model: Path, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
    """One run in ONNX Runtime: outputs by name."""
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _gate(
    role: str, module: nn.Module, sample: Mapping[str, Tensor], names: list[str], model: Path
) -> float:
    """Torch against ONNX on the whole sample, on its first row and on its first three rows.

    Other batch sizes than the traced one show an axis that the exporter has fixed.
    """
    worst = 0.0
    for rows in (slice(None), slice(0, 1), slice(0, 3)):
        inputs = {name: tensor[rows] for name, tensor in sample.items()}
        with torch.inference_mode():
            result = module(*inputs.values())
        tensors = result if isinstance(result, tuple) else (result,)
        expected = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        found = run_onnx(model, {name: tensor.numpy() for name, tensor in inputs.items()})
        worst = max(worst, check_parity(role, expected, found, atol=PARITY_ATOL))
    return worst
