"""Starting the stage ``text`` from the text part of a bundle instead of from MiniLM alone.

Fine-tuning goes on where that bundle's ended, which saves its hours. What a bundle has of the
encoder is its int8 graph, so it starts from weights rounded to seven bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from counterpoint.engine.bundle import load_bundle
from counterpoint.streams.errors import UsageError
from counterpoint.trainer.affect.text_fit import TextModel
from counterpoint.trainer.sentence import SentenceEncoder

_PRODUCT: Final = "/MatMul_quant"
_SUFFIX: Final = "_quantized"


def start_from(bundle: Path, encoder: SentenceEncoder, model: TextModel) -> str:
    """Load what ``bundle`` has of encoder, n-grams and heads; the digest of the bundle.

    A head of one answer starts each style's answer. Embeddings of tokens and positions stay
    MiniLM's own, which no stage changes and which a bundle has only rounded.

    Raises:
        BundleError: the bundle cannot be used.
        UsageError: its text part is of another kind.
    """
    found = load_bundle(bundle)
    try:
        encoder.load_state_dict(_encoder_weights(found.graph_path("text")), strict=False)
        ngrams = _initializers(found.graph_path("ngrams"))
        model.ngrams.load_state_dict({"table.weight": ngrams["table.weight"]})
        _load_heads(_initializers(found.graph_path("fusion")), model)
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"{bundle}: its text part is no start for this one: {error}") from error
    return found.digest


def _load_heads(fusion: Mapping[str, Tensor], model: TextModel) -> None:
    """What ``fusion`` lacks, such as the guess of the style, stays as it is."""
    weights = model.heads.state_dict()
    for name, own in weights.items():
        key = f"text_heads.{name}"
        if key in fusion or name.startswith(("hidden.", "sentiment.", "emotion.")):
            given = fusion[key]
            times = own.shape[0] // given.shape[0] if own.dim() else 1
            weights[name] = given.repeat(times, *[1] * (given.dim() - 1)) if times > 1 else given
    model.heads.load_state_dict(weights)


def _initializers(graph: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in _arrays(onnx.load(graph)).items()}


def _arrays(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    # A copy: what numpy_helper gives may be read-only.
    return {entry.name: np.array(numpy_helper.to_array(entry)) for entry in model.graph.initializer}


def _encoder_weights(graph: Path) -> dict[str, Tensor]:
    """By the names of `SentenceEncoder`: the weights of an int8 graph of `export_int8`.

    Products are stored (in, out) with a scale for each output; biases and norms are as they were.

    Raises:
        KeyError: it is no such graph.
    """
    model = onnx.load(graph)
    arrays = _arrays(model)
    weights = {
        name: torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith("bert.encoder.") and array.dtype == np.float32
    }
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    if not products:
        raise KeyError("int8 products")
    for node in products:
        name = node.input[1].removesuffix(_SUFFIX)
        levels = arrays[f"{name}{_SUFFIX}"].astype(np.float32)
        zero = arrays[f"{name}_zero_point"].astype(np.float32)
        product = (levels - zero) * arrays[f"{name}_scale"]
        parameter = node.name.removesuffix(_PRODUCT).strip("/").replace("/", ".") + ".weight"
        weights[parameter] = torch.from_numpy(np.ascontiguousarray(product.T))
    return weights
