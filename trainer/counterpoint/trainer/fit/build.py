"""The network that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from counterpoint.engine.preprocess.spec import HOP_NS
from counterpoint.streams.errors import UsageError
from counterpoint.trainer.data.index import Task
from counterpoint.trainer.fit.config import RunConfig
from counterpoint.trainer.fit.specs import Specs
from counterpoint.trainer.fit.words import vocabulary
from counterpoint.trainer.nets.fusion import make_fusion
from counterpoint.trainer.nets.model import Blank, LineEncoder, Model
from counterpoint.trainer.nets.pictures import PICTURES
from counterpoint.trainer.nets.pooling import make_pool
from counterpoint.trainer.nets.registry import make
from counterpoint.trainer.nets.sounds import POOL_OF, SOUNDS
from counterpoint.trainer.nets.texts import OWN_VOCABULARY, TEXTS, HashedNgrams


def build_model(
    config: RunConfig, specs: Specs, tasks: tuple[Task, ...], tokenizer: Path | None
) -> Model:
    """The network with fresh weights from torch's own generator.

    Raises:
        UsageError: naming the key of an encoder or operator that is not to be had or does not give
            what it must.
    """
    encoders: dict[str, nn.Module] = {}
    pools: dict[str, nn.Module] = {}
    width = config.fusion.width
    for name in config.modalities:
        encoder = _encoder(name, config, specs, tokenizer)
        encoders[name] = encoder
        pools[name] = make_pool(_pool(name, config), _width(name, encoder, specs), width)
    sizes = {task.name: max(1, len(task.labels)) for task in tasks}
    fusion = make_fusion(
        config.fusion.kind,
        config.fusion.options,
        modalities=len(encoders),
        width=width,
        tasks=sizes,
        hidden=config.fusion.hidden,
        dropout=config.fusion.dropout,
    )
    return Model(encoders, pools, fusion, width=width, tasks=sizes)


def _pool(name: str, config: RunConfig) -> str:
    if name == "audio":
        return config.audio.pool or POOL_OF.get(config.audio.encoder, "attention")
    return config.video.pool if name == "video" else config.text.pool


def _encoder(name: str, config: RunConfig, specs: Specs, tokenizer: Path | None) -> nn.Module:
    if name == "video":
        return make("video.encoder", config.video.encoder, config.video.options, PICTURES)
    if name == "audio":
        audio = specs.audio
        given = {
            "mel_bins": audio.mel_bins,
            "steps": audio.steps_per_hop,
            "context": audio.context_frames,
        }
        if SOUNDS.get(config.audio.encoder) is SOUNDS["cnn"]:
            given["frames"] = audio.frames_per(HOP_NS)
        return make("audio.encoder", config.audio.encoder, config.audio.options, SOUNDS, given)
    return _line_encoder(config, specs, tokenizer)


def _line_encoder(config: RunConfig, specs: Specs, tokenizer: Path | None) -> nn.Module:
    text, buckets = config.text, specs.chat.ngram_buckets
    if text.encoder == "ngrams":
        return LineEncoder(
            Blank(), make("text.encoder", "ngrams", text.options, {"ngrams": HashedNgrams},
                          {"buckets": buckets}),
        )  # fmt: skip
    if tokenizer is None:
        raise ValueError("a tokenizer is needed")
    given: dict[str, object] = {}
    if text.encoder in OWN_VOCABULARY:
        words, stop = vocabulary(tokenizer)
        given = {"words": words, "ignored": stop if text.stop_words else (0,)}
    elif text.encoder == "bert":
        if not text.checkpoint:
            raise UsageError("text.checkpoint: 'bert' needs the folder of a checkpoint")
        given = {"checkpoint": text.checkpoint}
    encoder = make("text.encoder", text.encoder, text.options, TEXTS, given)
    return LineEncoder(encoder, HashedNgrams(buckets=buckets) if text.ngrams else Blank())


def sample_inputs(name: str, specs: Specs, rows: int = 2) -> tuple[torch.Tensor, ...]:
    """Cells that an encoder can take, of zeros and ones."""
    if name == "video":
        return (torch.zeros(rows, 1, specs.video.image_size_px, specs.video.image_size_px),)
    if name == "audio":
        frames = specs.audio.context_frames + specs.audio.frames_per(HOP_NS)
        return (torch.zeros(rows, frames, specs.audio.mel_bins),)
    ids = torch.ones(rows, 5, dtype=torch.long)
    return ids, ids, ids


def _width(name: str, encoder: nn.Module, specs: Specs) -> int:
    """Width of what an encoder gives, by trying it."""
    training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            found = encoder(*sample_inputs(name, specs))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{name}.encoder: does not take its input: {first}") from error
    finally:
        encoder.train(training)
    steps = (specs.audio.steps_per_hop,) if name == "audio" else ()
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else None
    if shape is None or shape[:-1] != (2, *steps):
        wanted = "(K, steps, W)" if steps else "(K, W)"
        raise UsageError(
            f"{name}.encoder: must give a tensor {wanted} with (2, {', '.join(map(str, steps))}) "
            f"before W here, not {shape or type(found).__name__}"
        )
    return int(shape[-1])
