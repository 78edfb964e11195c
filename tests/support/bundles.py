"""A tiny, complete bundle for tests: graphs of the real contract with random, seeded weights.

Its graphs do what theirs must (masks are honoured, the audio encoder gives the same for a clip as
hop by hop, the voice detector answers to loudness) and nothing more: predictions mean nothing.
Golden outputs come from ONNX's reference evaluator, so they owe nothing to the device under test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel

from counterpoint.engine.bundle import Bundle, write_bundle
from counterpoint.engine.golden import golden_bytes
from counterpoint.engine.graphs import (
    VAD_CONTEXT_SAMPLES,
    VAD_HOP_SAMPLES,
    GraphSpec,
    TensorSpec,
    Tolerance,
    Widths,
)
from counterpoint.engine.manifest import (
    MASKS,
    MODEL_CARD_FILE,
    TOKENIZER_FILE,
    HeadSpec,
    Manifest,
    Metric,
    Modalities,
    NumberSpec,
    tensor_contract,
)
from counterpoint.engine.preprocess.spec import AudioSpec, ChatSpec, VideoSpec

Arrays = dict[str, npt.NDArray[Any]]

HOP_NS = 250_000_000
WIDTHS = Widths(vision=128, audio=96, text=384, ngrams=32)
HEADS = {
    "sentiment": HeadSpec(labels=("negative", "neutral", "positive")),
    "emotion": HeadSpec(labels=("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise")),
}
NUMBERS = {"arousal": NumberSpec(mean=40.0, std=10.0, low=10.0, high=90.0)}
WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    *("i", "you", "we", "it", "is", "am", "are", "not", "so", "very", "this", "that"),
    *("good", "great", "happy", "love", "nice", "bad", "sad", "angry", "hate", "scared", "wow"),
    *(".", ",", "!", "?"),
)

_OPSET = 17
_IR_VERSION = 8
_NGRAM_ROWS = 61  # a small table for tests: bucket ids are taken modulo this
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def tiny_bundle(
    directory: Path,
    *,
    seed: int = 0,
    replace: bool = False,
    numbers: bool = False,
    before_lines: int = 0,
) -> Bundle:
    """Write the bundle of that seed into ``directory``; another seed gives another digest.

    Args:
        numbers: it also tells `NUMBERS`.
        before_lines: of chat, that it reads a line with; its encoder takes the mean over all.
    """
    manifest, files = tiny_parts(seed, numbers=numbers, before_lines=before_lines)
    return write_bundle(directory, manifest, files=files, replace=replace)


@functools.cache
def tiny_parts(
    seed: int = 0, *, numbers: bool = False, before_lines: int = 0
) -> tuple[Manifest, Mapping[str, bytes]]:
    """What `write_bundle` needs for the bundle of that seed. The same bytes every time."""
    modalities = Modalities(
        video=VideoSpec(), audio=AudioSpec(), chat=ChatSpec(before_lines=before_lines)
    )
    told = NUMBERS if numbers else {}
    contract = tensor_contract(
        hop_ns=HOP_NS, modalities=modalities, heads=HEADS, widths=WIDTHS, numbers=told
    )
    rng = np.random.default_rng(seed)
    builders: dict[str, Callable[[_GraphBuilder], None]] = {
        "vision": _vision,
        "audio": _audio,
        "text": _text,
        "ngrams": _ngrams,
        "fusion": functools.partial(_fusion, numbers=told),
        "vad": _vad,
    }
    files: dict[str, bytes] = {
        TOKENIZER_FILE: tiny_tokenizer().to_str().encode(),
        MODEL_CARD_FILE: b"# Tiny\n\nRandom weights, for tests only.\n",
    }
    graphs: dict[str, GraphSpec] = {}
    for role, (inputs, outputs) in contract.items():
        graph = _GraphBuilder(rng)
        builders[role](graph)
        model = graph.model(role, inputs, outputs)
        golden_inputs = example_inputs(role, inputs, rng, batch=4)
        names = [tensor.name for tensor in outputs]
        golden_outputs: Any = ReferenceEvaluator(model).run(names, golden_inputs)
        spec = GraphSpec(
            file=f"models/{role}/model.fp32.onnx",
            precision="fp32",
            inputs=inputs,
            outputs=outputs,
            golden=f"golden/{role}.npz",
            tolerance=Tolerance(atol=1e-4, rtol=1e-4),
        )
        graphs[role] = spec
        files[spec.file] = model.SerializeToString()
        files[spec.golden] = golden_bytes(
            golden_inputs, dict(zip(names, golden_outputs, strict=True))
        )
    manifest = Manifest(
        id="tiny",
        created="2025-01-01",
        engine_min_version="0.1.0",
        licence_notice="Random weights, for tests only.",
        hop_ns=HOP_NS,
        modalities=modalities,
        graphs=graphs,
        heads=HEADS,
        numbers=told,
        missing_policy="a missing modality contributes nothing",
        temperatures={
            head: {mask: 1.0 + 0.1 * i for i, mask in enumerate(MASKS)} for head in HEADS
        },
        metrics={"accuracy": Metric(value=0.5, split="none", kind="validation")},
    )
    return manifest, files


def example_inputs(
    role: str, specs: Sequence[TensorSpec], rng: np.random.Generator, *, batch: int = 2
) -> Arrays:
    """Inputs that a graph of that role could really get.

    Args:
        role: of the graph.
        specs: its input tensors.
        rng: draws the values.
        batch: size of dimension N; all other named dimensions are 6.
    """
    arrays: Arrays = {}
    for spec in specs:
        shape = [dim if isinstance(dim, int) else batch if dim == "N" else 6 for dim in spec.shape]
        if spec.name == "sr":
            arrays[spec.name] = np.array(16_000, dtype=np.int64)
        elif spec.name.endswith("_mask"):
            arrays[spec.name] = (rng.random(shape) < 0.7).astype(spec.dtype)
        elif spec.dtype == "int64":
            high = 3 if role == "fusion" else len(WORDS)
            arrays[spec.name] = rng.integers(0, high, shape)
        else:
            arrays[spec.name] = (0.3 * rng.standard_normal(shape)).astype(np.float32)
    return arrays


@functools.cache
def tiny_tokenizer() -> Tokenizer:
    """A word-level tokenizer with BERT's special tokens around each line."""
    ids = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return tokenizer


class _GraphBuilder:
    """Nodes and constants of one graph, in order."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: str = "float32") -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def weights(self, *shape: int) -> str:
        scale = 1.0 / np.sqrt(np.prod(shape[:-1]) if len(shape) > 1 else 1.0)
        return self.constant(self._rng.standard_normal(shape) * scale)

    def ints(self, *values: int) -> str:
        return self.constant(values, "int64")

    def mean(self, values: str, mask: str, axis: int) -> str:
        """Mean of ``values`` along ``axis`` where ``mask`` (a boolean of its rank) is true."""
        zero, one = self.constant(0.0), self.constant(1.0)
        kept = self.op("Where", mask, values, zero)
        total = self.op("ReduceSum", kept, self.ints(axis), keepdims=0)
        number = self.op(
            "ReduceSum", self.op("Where", mask, one, zero), self.ints(axis), keepdims=0
        )
        return self.op("Div", total, self.op("Max", number, one))

    def model(
        self, role: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> onnx.ModelProto:
        def infos(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
            return [
                helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], list(spec.shape))
                for spec in specs
            ]

        graph = helper.make_graph(self._nodes, role, infos(inputs), infos(outputs), self._constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
        )
        onnx.checker.check_model(model)
        return model


def _vision(g: _GraphBuilder) -> None:
    pooled = g.op("AveragePool", "faces", kernel_shape=[8, 8], strides=[8, 8])
    flat = g.op("Flatten", pooled)
    g.op("Tanh", g.op("MatMul", flat, g.weights(36, WIDTHS.vision)), output="embedding")


def _audio(g: _GraphBuilder) -> None:
    bands = g.op("Transpose", g.op("MatMul", "logmel", g.weights(64, 8)), perm=[0, 2, 1])
    # Without padding: 14 frames of context and 25 of a hop give 5 steps, and each hop 5 more.
    steps = g.op("Conv", bands, g.weights(WIDTHS.audio, 8, 19), kernel_shape=[19], strides=[5])
    g.op("Tanh", g.op("Transpose", steps, perm=[0, 2, 1]), output="embedding")


def _text(g: _GraphBuilder) -> None:
    rows = g.op("Gather", g.weights(len(WORDS), WIDTHS.text), "input_ids")
    there = g.op("Greater", "attention_mask", g.constant(0, "int64"))
    mean = g.mean(rows, g.op("Unsqueeze", there, g.ints(2)), axis=1)
    length = g.op("ReduceL2", mean, axes=[1], keepdims=1)
    g.op("Div", mean, g.op("Max", length, g.constant(1e-9)), output="embedding")


def _ngrams(g: _GraphBuilder) -> None:
    table = g.weights(_NGRAM_ROWS, WIDTHS.ngrams)
    rows = g.op("Gather", table, g.op("Mod", "buckets", g.constant(_NGRAM_ROWS, "int64")))
    there = g.op("Greater", "buckets", g.constant(0, "int64"))
    mean = g.mean(rows, g.op("Unsqueeze", there, g.ints(2)), axis=1)
    g.op("Identity", mean, output="embedding")


def _fusion(g: _GraphBuilder, numbers: Mapping[str, NumberSpec]) -> None:
    present = g.op("Equal", "state", g.constant(1, "int64"))
    widths = {
        "vision": WIDTHS.vision,
        "audio": WIDTHS.audio,
        "text": WIDTHS.text + WIDTHS.ngrams,
    }
    pooled: list[str] = []
    for i, modality in enumerate(widths):
        there = g.op("Greater", f"{modality}_mask", g.constant(0.0))
        heard = g.op("Gather", present, g.ints(i), axis=1)  # (N, 1)
        mask = g.op("Unsqueeze", g.op("And", there, heard), g.ints(2))
        pooled.append(g.mean(modality, mask, axis=1))
    outputs = {head: (f"{head}_logits", len(spec.labels)) for head, spec in HEADS.items()}
    outputs |= {name: (f"{name}_value", 1) for name in numbers}
    for head, (answer, labels) in outputs.items():
        voices = [
            g.op("Unsqueeze", g.op("MatMul", part, g.weights(width, labels)), g.ints(1))
            for part, width in zip(pooled, widths.values(), strict=True)
        ]
        contributions = g.op("Concat", *voices, axis=1, output=f"{head}_contributions")
        total = g.op("ReduceSum", contributions, g.ints(1), keepdims=0)
        g.op("Add", total, g.weights(labels), output=answer)


def _vad(g: _GraphBuilder) -> None:
    # Loudness of the new samples: -40 dB gives about 0.1, -20 dB nearly 1.
    new = g.op(
        "Slice",
        "input",
        g.ints(VAD_CONTEXT_SAMPLES),
        g.ints(VAD_CONTEXT_SAMPLES + VAD_HOP_SAMPLES),
        g.ints(1),
    )
    power = g.op("ReduceMean", g.op("Mul", new, new), axes=[1], keepdims=1)  # (N, 1)
    rate = g.op("Div", g.op("Cast", "sr", to=TensorProto.FLOAT), g.constant(16_000.0))
    memory = g.op("ReduceMean", "state", axes=[0, 2], keepdims=0)  # (N,)
    logit = g.op(
        "Add",
        g.op("Sub", g.op("Mul", power, g.op("Mul", rate, g.constant(800.0))), g.constant(2.5)),
        g.op("Unsqueeze", memory, g.ints(1)),
    )
    g.op("Sigmoid", logit, output="output")
    heard = g.op("Mul", g.op("Unsqueeze", power, g.ints(0)), g.weights(2, 1, 128))
    g.op("Add", g.op("Mul", "state", g.constant(0.9)), heard, output="stateN")
