"""From a fit to a bundle: the network is cut as the engine's graphs are, so it goes as it is.

What the engine's contract has no place for is refused, by name: stop words left out of hashed
n-grams (it hashes all words).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.engine.bundle import Bundle, default_bundle_path, load_bundle
from counterpoint.engine.device import open_device
from counterpoint.engine.golden import check_golden
from counterpoint.engine.graphs import (
    VAD_CONTEXT_SAMPLES,
    VAD_HOP_SAMPLES,
    VAD_STATE_WIDTH,
    Widths,
)
from counterpoint.engine.manifest import MASKS, Metric, NumberSpec
from counterpoint.engine.preprocess.text import Tokenizer, hashed_ngrams, normalise, pad_ids
from counterpoint.streams.errors import UsageError
from counterpoint.trainer.data.index import SPLITS, Index, Task
from counterpoint.trainer.export import About, Arrays, Parts, export_bundle
from counterpoint.trainer.fit.build import sample_inputs
from counterpoint.trainer.fit.run import Run, load_best, scale_of, train_numbers
from counterpoint.trainer.fit.words import write_tokenizer
from counterpoint.trainer.nets.model import MISSING, PRESENT, Blank, LineEncoder, Model
from counterpoint.trainer.records import read_json
from counterpoint.trainer.sentence import SentenceEncoder, export_int8

_TENSOR: Final = {"video": "vision", "audio": "audio", "text": "text"}
_LINES: Final = (
    "That was wonderful, thank you so much!",
    "I am not sure what to think of this.",
    "No. Stop it, this is terrible :(",
    "See you at 8, usual place?",
)
MISSING_POLICY: Final = (
    "A modality that is missing or silent is a learned vector of its own and contributes nothing; "
    "with none present the answer is the shares of the classes in the training data."
)


def export_run(
    folder: Path, target: Path, *, tasks: Sequence[str] = (), replace: bool = False
) -> Bundle:
    """Write the best weights of a finished run as a bundle, checked by the engine itself.

    Temperatures are 1: ``counterpoint-trainer calibrate`` fits them on held-out rows.

    Args:
        folder: of the run.
        target: folder of the bundle.
        tasks: only these; by default all.
        replace: take the place of a bundle that is there.

    Raises:
        UsageError: something of the model has no place in a bundle, or a bundle is there already.
        FailedError: torch and ONNX disagree, or the bundle is too large.
    """
    if target.exists() and not replace:
        raise UsageError(f"{target} is there already; add --replace, or take another --out")
    run = load_best(folder)
    chosen = _chosen(run, tasks)
    work = folder / "export"
    work.mkdir(exist_ok=True)
    model, specs = run.model, run.source.specs
    modules, text_model = _modules(run, chosen, work)
    tokenizer = run.source.tokenizer
    if tokenizer is None:
        tokenizer = work / "tokenizer.json"
        write_tokenizer(tokenizer, run.config.text, ())
    vad = load_bundle(default_bundle_path()).graph_path("vad")
    widths = Widths(
        vision=_width(modules["vision"], sample_inputs("video", specs)),
        audio=_width(modules["audio"], sample_inputs("audio", specs)),
        text=_line_width(model, "words"),
        ngrams=_line_width(model, "ngrams"),
    )
    parts = Parts(
        modules=modules,
        text_model=text_model,
        vad_model=vad,
        tokenizer=tokenizer,
        samples=_samples(run, tokenizer, widths),
        video=specs.video,
        audio=specs.audio,
        chat=specs.chat,
        heads=chosen.heads,
        numbers=chosen.numbers,
        widths=widths,
    )
    bundle = export_bundle(parts, _about(run, chosen), target, work)
    device = open_device("cpu")
    try:
        check_golden(bundle, device)
    finally:
        device.close()
    return bundle


class FusionGraph(nn.Module):
    """The engine's role ``fusion``: pooling, fusion and heads, with each modality's part in it.

    A present modality's contribution is its Shapley value (Shapley 1953): its effect on a logit,
    averaged over all orders in which the present ones could be heard. With three modalities that
    is eight runs of a small network, and it is exact for every operator: contributions and what
    is said with none of them sum to the logits; what is not present contributes 0.
    """

    def __init__(self, model: Model, tasks: Sequence[str]) -> None:
        super().__init__()
        self.model, self.tasks = model, tuple(tasks)

    def forward(
        self, vision: Tensor, vision_mask: Tensor, audio: Tensor, audio_mask: Tensor,
        text: Tensor, text_mask: Tensor, state: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """As `counterpoint.engine.graphs.graph_contract` has it."""
        given = {
            "video": (vision, vision_mask),
            "audio": (audio, audio_mask),
            "text": (text, text_mask),
        }
        names = self.model.modalities
        tokens = self.model.tokens({name: given[name] for name in names})
        own = torch.stack([state[:, list(given).index(name)] for name in names], dim=1)
        said: list[dict[str, Tensor]] = []
        for subset in range(2 ** len(names)):
            kept = torch.tensor([subset >> place & 1 for place in range(len(names))]).bool()
            hidden = (own == PRESENT) & ~kept
            heard = torch.where(hidden, torch.full_like(own, MISSING), own)
            said.append(dict(self.model.answer(tokens, heard).fused))
        outputs: list[Tensor] = []
        # A number's answer is standardised, as the fit has it.
        for task in self.tasks:
            values = [answers[task] for answers in said]
            nothing = torch.zeros_like(values[0])
            parts = [
                _shapley(values, names.index(name), len(names)) if name in names else nothing
                for name in given
            ]
            outputs += [values[-1], torch.stack(parts, dim=1)]
        return tuple(outputs)


def _shapley(values: Sequence[Tensor], place: int, count: int) -> Tensor:
    """(N, C): the value of one of ``count`` from what is said of each subset, by its bits."""
    weight = {1: (1.0,), 2: (0.5, 0.5), 3: (1 / 3, 1 / 6, 1 / 3)}[count]
    total = torch.zeros_like(values[0])
    for subset in range(2**count):
        if not subset >> place & 1:
            more = values[subset | 1 << place] - values[subset]
            total = total + weight[subset.bit_count()] * more
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The tasks of a bundle: labels of its heads, and its numbers."""

    heads: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, NumberSpec]

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the fusion's outputs."""
        return (*self.heads, *self.numbers)


def _chosen(run: Run, tasks: Sequence[str]) -> Chosen:
    known = {task.name: task for task in run.source.index.tasks}
    for name in tasks:
        if name not in known:
            raise UsageError(f"--task: there is no {name!r}; the run has {', '.join(known)}")
    names = tuple(tasks) or tuple(known)
    text = run.config.text
    if text.use and text.stop_words and (text.encoder == "ngrams" or text.ngrams):
        raise UsageError(
            "text.stop_words with hashed n-grams: the engine hashes all words; fit without "
            "stop_words, or with 'bag' or 'embedding', which carry them in their graph"
        )
    return Chosen(
        heads={name: known[name].labels for name in names if known[name].labels},
        numbers={
            name: _number(known[name], run.source.index)
            for name in names
            if known[name].kind == "number"
        },
    )


def _number(task: Task, index: Index) -> NumberSpec:
    values = train_numbers(task, index)
    if len(set(values)) < 2:
        raise UsageError(f"task {task.name!r}: all rows of train have the same number")
    mean, std = scale_of(task, index)
    return NumberSpec(mean=mean, std=std, low=min(values), high=max(values))


def _modules(run: Run, chosen: Chosen, work: Path) -> tuple[dict[str, nn.Module], Path | None]:
    model, steps = run.model, run.source.specs.audio.steps_per_hop
    encoders: dict[str, nn.Module] = dict(model.encoders.items())
    line = encoders.get("text")
    words = line.words if isinstance(line, LineEncoder) else Blank()
    modules: dict[str, nn.Module] = {
        "vision": encoders.get("video", Blank()),
        "audio": encoders.get("audio", Blank(steps)),
        "ngrams": line.ngrams if isinstance(line, LineEncoder) else Blank(),
        "fusion": FusionGraph(model, chosen.names).eval(),
    }
    if isinstance(words, SentenceEncoder):
        export_int8(words, work / "text.int8.onnx")
        return modules, work / "text.int8.onnx"
    return {**modules, "text": words}, None


def _width(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    with torch.inference_mode():
        return int(module(*inputs).shape[-1])


def _line_width(model: Model, part: str) -> int:
    line = dict(model.encoders.items()).get("text")
    ids = torch.ones(2, 3, dtype=torch.long)
    module = getattr(line, part) if isinstance(line, LineEncoder) else Blank()
    return _width(module, (ids, ids) if part == "words" else (ids,))


def _samples(run: Run, tokenizer: Path, widths: Widths) -> dict[str, Arrays]:
    """Inputs for golden vectors: seeded noise and lines of our own, nothing of the data."""
    random = np.random.default_rng(run.config.fit.seed)
    specs, rows = run.source.specs, 4

    def noise(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    lines = [normalise(line) for line in _LINES]
    encode = Tokenizer(tokenizer, specs.chat).encode
    read = [encode(line, lines[:place]) for place, line in enumerate(lines)]
    ids, mask = (pad_ids([pair[part][0] for pair in read]) for part in (0, 1))
    states = np.array(
        [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 1], [2, 1, 0], [0, 0, 0], [2, 2, 2]],
        np.int64,
    )
    fusion: Arrays = {"state": states}
    places = {
        "vision": (specs.video.steps, widths.vision),
        "audio": (specs.hops * specs.audio.steps_per_hop, widths.audio),
        "text": (specs.chat.max_lines, widths.text + widths.ngrams),
    }
    for column, (name, (cells, width)) in enumerate(places.items()):
        there = random.random((len(states), cells)) < 0.7
        there[:, -1] = True
        there &= (states[:, column] == PRESENT)[:, None]
        fusion[name] = np.tanh(noise(len(states), cells, width)) * there[:, :, None]
        fusion[f"{name}_mask"] = there.astype(np.float32)
    faces, log_mel = sample_inputs("video", specs)[0], sample_inputs("audio", specs)[0]
    return {
        "vision": {"faces": noise(rows, *faces.shape[1:])},
        "audio": {"logmel": noise(rows, *log_mel.shape[1:])},
        "text": {"input_ids": ids, "attention_mask": mask},
        "ngrams": {"buckets": pad_ids([hashed_ngrams(line, specs.chat) for line in lines])},
        "fusion": fusion,
        "vad": {
            "input": 0.1 * noise(rows, VAD_CONTEXT_SAMPLES + VAD_HOP_SAMPLES),
            "state": np.zeros((2, rows, VAD_STATE_WIDTH), np.float32),
            "sr": np.array(specs.audio.rate_hz, np.int64),
        },
    }


def _about(run: Run, chosen: Chosen) -> About:
    figures = read_json(run.folder / "metrics.json")
    metrics = {
        f"{split}_{task}_{name}": Metric(
            value=value, split=f"{split} rows of {run.source.index.path.name}", kind=split
        )
        for split, by_task in figures.items()
        for task, values in by_task.items()
        if task in chosen.names
        for name, value in values.items()
    }
    return About(
        id=run.config.bundle.id,
        licence_notice=run.config.bundle.licence_notice,
        missing_policy=MISSING_POLICY,
        model_card=_card(run, chosen, metrics),
        temperatures={head: dict.fromkeys(MASKS, 1.0) for head in chosen.heads},
        metrics=metrics,
    )


def _card(run: Run, chosen: Chosen, metrics: dict[str, Metric]) -> str:
    config, about, index = run.config, read_json(run.folder / "run.json"), run.source.index
    encoders = ", ".join(f"{name} {getattr(config, name).encoder}" for name in config.modalities)
    rows = ", ".join(f"{name} {len(index.of(name))}" for name in SPLITS)
    lines = [
        f"# {config.bundle.id}",
        "",
        config.bundle.licence_notice,
        "",
        f"- Encoders: {encoders}; fusion {config.fusion.kind}.",
        f"- Modality dropout: {config.fusion.modality_dropout}.",
        *(f"- Head {name}: {', '.join(labels)}." for name, labels in chosen.heads.items()),
        *(
            f"- Number {name}: {spec.low:g} to {spec.high:g}."
            for name, spec in chosen.numbers.items()
        ),
        f"- Rows: {rows}; seed {config.fit.seed}; commit {about.get('commit')}.",
        f"- Missing: {MISSING_POLICY}",
    ]
    if config.video.use and config.video.face == "whole":
        lines.append("- Trained on pictures as they are; the engine finds the face by itself.")
    if config.data.denoise:
        lines.append("- The sound of the training part was cleaned of steady noise.")
    lines += ["", "| figure | value | on |", "|---|---|---|"]
    lines += [f"| {name} | {m.value:.4f} | {m.split} |" for name, m in metrics.items()]
    return "\n".join(lines) + "\n"
