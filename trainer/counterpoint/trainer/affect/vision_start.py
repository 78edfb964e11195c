"""Starting the stage ``vision`` from the vision part of a bundle instead of from nothing.

What a bundle has is the convolutions with the batch normalisation worked into them. That is the
same function; only its parameters lie elsewhere. The stage's finish keeps what batch
normalisation measures as it is, so none of it is missed.
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
from counterpoint.trainer.models import VisionEncoder

if TYPE_CHECKING:
    from counterpoint.trainer.affect.vision import VisionModel


def start_from(bundle: Path, model: VisionModel) -> str:
    """Load the face encoder and emotion head of ``bundle``; the digest of the bundle.

    Raises:
        BundleError: the bundle cannot be used.
        UsageError: its vision part is of another kind.
    """
    found = load_bundle(bundle)
    try:
        load_encoder(onnx.load(found.graph_path("vision")).graph, model.encoder)
        _load_head(onnx.load(found.graph_path("fusion")).graph, model.emotion)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UsageError(f"{bundle}: its vision part is no start for this one: {error}") from error
    return found.digest


def load_encoder(graph: onnx.GraphProto, encoder: VisionEncoder) -> None:
    """Convolutions in their order; their biases become those of the normalisation after each.

    Raises:
        KeyError, RuntimeError, ValueError: the graph is of another kind.
    """
    values = _values(graph)
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    modules = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    if len(nodes) != len(modules):
        raise ValueError(f"{len(nodes)} convolutions")
    for node, module, norm in zip(nodes, modules, norms, strict=True):
        if len(node.input) != 3:
            raise ValueError(f"{node.name} has no bias")
        weight, bias = (values[name] for name in node.input[1:])
        module.load_state_dict({"weight": weight})
        norm.load_state_dict(
            {
                "weight": torch.full_like(bias, (1 + norm.eps) ** 0.5),
                "bias": bias,
                "running_mean": torch.zeros_like(bias),
                "running_var": torch.ones_like(bias),
                "num_batches_tracked": torch.tensor(0),
            }
        )
    encoder.project.load_state_dict(
        {"weight": values["project.weight"], "bias": values["project.bias"]}
    )


def _load_head(graph: onnx.GraphProto, head: nn.Linear) -> None:
    values = _values(graph)
    products = [
        node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.output[0].startswith("/vision_head/")
    ]
    if len(products) != 1:
        raise ValueError(f"{len(products)} products in the head")
    head.load_state_dict({"weight": values[products[0]].T, "bias": values["vision_head.bias"]})


def _values(graph: onnx.GraphProto) -> dict[str, Tensor]:
    # A copy: what numpy_helper gives may be read-only.
    return {
        entry.name: torch.from_numpy(np.array(numpy_helper.to_array(entry)))
        for entry in graph.initializer
    }
