"""MiniLM as the bundle's text encoder: export, int8 quantisation, and embedding of many lines.

Heads and calibration are fitted on the int8 graph's own output, line by line as the engine runs
it: dynamic quantisation scales depend on what else is in a batch.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from transformers import AutoModel

from counterpoint.engine.preprocess.spec import ChatSpec
from counterpoint.engine.preprocess.text import BEFORE, Tokenizer
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.data.text import Said
from counterpoint.trainer.onnx_export import export_graph
from counterpoint.trainer.pretrained import minilm_folder
from counterpoint.trainer.records import load_arrays, save_arrays


class SentenceEncoder(nn.Module):
    """A BERT with mean pooling: ids and mask (N, L) int64 -> (N, width) of length 1.

    Where the mask is `BEFORE` stand lines before: they are BERT's second segment (where it has
    one), are attended to and do not count for the mean.
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert
        self._segments = getattr(bert.config, "type_vocab_size", 0) > 1

    @property
    def layers(self) -> list[nn.Module]:
        """The encoder layers, from the first to the last."""
        encoder = self.bert.get_submodule("encoder.layer")
        return list(encoder.children())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        segments = {"token_type_ids": (attention_mask == BEFORE).long()} if self._segments else {}
        states = self.bert(
            input_ids=input_ids, attention_mask=(attention_mask > 0).long(), **segments
        ).last_hidden_state
        weight = (attention_mask == 1).unsqueeze(2).to(states.dtype)
        mean = (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(mean, dim=1)


def load_minilm() -> SentenceEncoder:
    """MiniLM from its wheel, ready for inference.

    Raises:
        UnavailableError: the wheel is not installed.
    """
    # Plain attention: the fused kernels have no ONNX counterpart at opset 17.
    bert = AutoModel.from_pretrained(str(minilm_folder()), attn_implementation="eager")
    return SentenceEncoder(bert).eval()


def export_int8(encoder: SentenceEncoder, path: Path) -> None:
    """Write the encoder as ONNX with int8 weights (7 bits in use), per channel in products."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 4, 0]])  # to trace: in any vocabulary
    mask = torch.tensor([[1, 1, 1, BEFORE], [1, 1, BEFORE, 0]])
    with tempfile.TemporaryDirectory() as folder:
        full, prepared = Path(folder) / "fp32.onnx", Path(folder) / "prepared.onnx"
        export_graph(
            encoder,
            {"input_ids": ids, "attention_mask": mask},
            ["embedding"],
            full,
            dynamic={
                "input_ids": {0: "N", 1: "L"},
                "attention_mask": {0: "N", 1: "L"},
                "embedding": {0: "N"},
            },
        )
        quant_pre_process(str(full), str(prepared), skip_symbolic_shape=True)
        # Seven bits: before VNNI, x86 adds pairs of int8 products in 16 bits and eight-bit weights
        # overflow there, so the same graph would give other embeddings on older processors.
        quantize_dynamic(
            str(prepared),
            str(path),
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )


def embed_lines(
    model: Path, tokenizer: Path, spec: ChatSpec, lines: Sequence[Said], cache: Path
) -> Float32Array:
    """(N, width) embeddings of normalised lines through the ONNX graph, one by one.

    Equal lines with equal lines before are computed once. ``cache`` keeps the result for just
    this graph and these lines.
    """
    distinct = list(dict.fromkeys(lines))
    digest = hashlib.sha256(model.read_bytes())
    digest.update("\n".join("\r".join((line, *before)) for line, before in distinct).encode())
    stored = cache / f"embeddings-{digest.hexdigest()[:16]}.npz"
    if not stored.exists():
        encode = Tokenizer(tokenizer, spec).encode
        session = open_session(model)
        rows = []
        for line, before in distinct:
            ids, mask = encode(line, before)
            rows.append(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])
        save_arrays(stored, embeddings=np.concatenate(rows))
    embeddings = load_arrays(stored)["embeddings"]
    position = {line: index for index, line in enumerate(distinct)}
    chosen: Float32Array = embeddings[[position[line] for line in lines]]
    return chosen


def open_session(model: Path) -> ort.InferenceSession:
    """ONNX Runtime on one CPU thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def drift(
    encoder: SentenceEncoder, model: Path, tokenizer: Path, spec: ChatSpec, lines: Sequence[Said]
) -> float:
    """Mean cosine between the encoder's own embeddings and its ONNX graph's, line by line."""
    encode = Tokenizer(tokenizer, spec).encode
    session = open_session(model)
    cosines = []
    with torch.inference_mode():
        for line, before in lines:
            ids, mask = encode(line, before)
            exact = encoder(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            quick = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
            cosines.append(float((exact * quick).sum()))
    return float(np.mean(cosines))
