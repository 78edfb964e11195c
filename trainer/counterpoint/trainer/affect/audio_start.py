"""Starting the stage ``audio`` from the audio part of a bundle instead of from nothing.

What a bundle has is the convolutions with the batch normalisation worked into them, which is all
of it that the stage's finish keeps.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from counterpoint.engine.bundle import load_bundle
from counterpoint.streams.errors import UsageError

if TYPE_CHECKING:
    from counterpoint.trainer.affect.audio import AudioModel

DIRECTIONS = ("", "_reverse")


def start_from(bundle: Path, model: AudioModel) -> str:
    """Load the audio encoder, sequence and head of ``bundle``; the digest of the bundle.

    Raises:
        BundleError: the bundle cannot be used.
        UsageError: its audio part is of another kind.
    """
    found = load_bundle(bundle)
    try:
        _load_encoder(onnx.load(found.graph_path("audio")).graph, model.encoder)
        _load_sequence(onnx.load(found.graph_path("fusion")).graph, model)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UsageError(f"{bundle}: its audio part is no start for this one: {error}") from error
    return found.digest


def _load_encoder(graph: onnx.GraphProto, encoder: nn.Module) -> None:
    """Convolutions in their order; their biases become those of the normalisation after each."""
    values = _values(graph)
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    modules = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    if len(nodes) != len(modules) or len(norms) != len(nodes) - 1:
        raise ValueError(f"{len(nodes)} convolutions")
    for index, (node, module) in enumerate(zip(nodes, modules, strict=True)):
        weight, bias = (values[name] for name in node.input[1:3])
        module.load_state_dict(
            {"weight": weight, **({} if module.bias is None else {"bias": bias})}
        )
        if index < len(norms):
            norm = norms[index]
            unit = torch.ones_like(bias)
            norm.load_state_dict(
                {
                    "weight": unit,
                    "bias": bias,
                    "running_mean": torch.zeros_like(bias),
                    "running_var": unit - norm.eps,
                    "num_batches_tracked": torch.tensor(0),
                }
            )


def _load_sequence(graph: onnx.GraphProto, model: AudioModel) -> None:
    values = _values(graph)
    recurrent = [node for node in graph.node if node.op_type == "GRU"]
    attention = [
        node.input[1] for node in graph.node if node.output[0].startswith("/audio_sequence/att")
    ]
    if len(recurrent) != 1:
        raise ValueError(f"{len(recurrent)} recurrent layers")
    inputs, states, biases = (values[name] for name in recurrent[0].input[1:4])
    weights = {
        "missing": values["audio_sequence.missing"],
        "attention.weight": values[attention[0]].T,
        "attention.bias": values["audio_sequence.attention.bias"],
    }
    for direction, suffix in enumerate(DIRECTIONS):
        first, second = biases[direction].chunk(2)
        for name, value in (
            ("weight_ih", inputs[direction]),
            ("weight_hh", states[direction]),
            ("bias_ih", first),
            ("bias_hh", second),
        ):
            # ONNX has the gates in the order update, reset, new; torch reset, update, new.
            update, reset, new = value.chunk(3)
            weights[f"gru.{name}_l0{suffix}"] = torch.cat((reset, update, new))
    model.sequence.load_state_dict(weights)
    model.emotion.load_state_dict(
        {"weight": values["audio_head.weight"], "bias": values["audio_head.bias"]}
    )


def _values(graph: onnx.GraphProto) -> dict[str, Tensor]:
    # A copy: what numpy_helper gives may be read-only.
    return {
        entry.name: torch.from_numpy(np.array(numpy_helper.to_array(entry)))
        for entry in graph.initializer
    }
