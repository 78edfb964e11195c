"""What every bundle's graphs take and give: names, dtypes and shapes.

`graph_contract` is the one definition. The trainer exports to it, a manifest is checked against
it when a bundle is loaded, and a device checks its compiled graphs and every call against the
manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

DType: TypeAlias = Literal["float32", "int64"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
Dim: TypeAlias = int | str
Tensors: TypeAlias = tuple[tuple["TensorSpec", ...], tuple["TensorSpec", ...]]

ROLES: Final = ("vision", "audio", "text", "ngrams", "fusion", "vad")

# Silero VAD as its authors ship it: 64 samples of context before 512 new ones, LSTM state.
VAD_CONTEXT_SAMPLES: Final = 64
VAD_HOP_SAMPLES: Final = 512
VAD_STATE_WIDTH: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A named tensor. A dimension is a size, or a name for any size >= 1 (``"N"`` is the batch)."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {format_shape(self.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Outputs agree where ``|got - expected| <= atol + rtol * |expected|``."""

    atol: float
    rtol: float

    def __post_init__(self) -> None:
        if self.atol < 0 or self.rtol < 0:
            raise ValueError(f"atol and rtol must not be negative, not {self.atol}, {self.rtol}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """One ONNX graph of a bundle.

    Fields:
        file: path of the model within the bundle.
        precision: of its weights.
        inputs, outputs: its tensors.
        golden: path within the bundle of its recorded inputs and outputs (npz).
        tolerance: how near a device must come to the recorded outputs.
    """

    file: str
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: str
    tolerance: Tolerance


def format_shape(shape: tuple[Dim, ...]) -> str:
    """``(N,1,48,48)``"""
    return f"({','.join(str(dim) for dim in shape)})"


def check_arrays(
    what: str, specs: tuple[TensorSpec, ...], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Check that ``arrays`` are just the tensors ``specs`` tells of.

    A named dimension must have one size (>= 1) in all tensors that have it.

    Args:
        what: what the arrays are, for the message (``vision input``).

    Raises:
        ValueError: a name, dtype or shape is another; the message names the tensor.
    """
    if len(arrays) != len(specs) or any(spec.name not in arrays for spec in specs):
        expected = ", ".join(spec.name for spec in specs)
        raise ValueError(f"{what}: expected tensors {expected}; got {', '.join(sorted(arrays))}")
    sizes: dict[str, int] = {}
    for spec in specs:
        array = arrays[spec.name]
        if not isinstance(array, np.ndarray) or array.dtype != spec.dtype:
            got = array.dtype if isinstance(array, np.ndarray) else type(array)
            raise ValueError(f"{what} {spec.name!r}: expected dtype {spec.dtype}, got {got}")
        fits = array.ndim == len(spec.shape)
        if fits:
            for dim, size in zip(spec.shape, array.shape, strict=True):
                expected_size = dim if isinstance(dim, int) else sizes.setdefault(dim, size)
                fits = fits and size == expected_size and size > 0
        if not fits:
            bound = "".join(f", {name} = {size}" for name, size in sizes.items())
            raise ValueError(
                f"{what} {spec.name!r}: expected shape {format_shape(spec.shape)}{bound}, "
                f"got {format_shape(array.shape)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Widths of the embeddings, which a model is free to choose."""

    vision: int
    audio: int
    text: int
    ngrams: int


def graph_contract(
    *,
    widths: Widths,
    image_size_px: int,
    video_instants: int,
    audio_frames: int,
    mel_bins: int,
    audio_steps_per_hop: int,
    audio_steps: int,
    chat_lines: int,
    heads: Mapping[str, int],
    numbers: Iterable[str] = (),
) -> dict[str, Tensors]:
    """Inputs and outputs of each role. N, L and B are any size.

    Time axes run from oldest to newest. Masks are 1 where there is something, else 0, and what is
    masked has no influence. ``state`` holds 0 (missing), 1 (present) or 2 (silent) for video,
    audio and chat. A head's contributions (one for each modality) and a bias sum to its logits,
    those of a number to its value, which is standardised (`manifest.NumberSpec`).

    Args:
        widths: widths of the embeddings.
        image_size_px: side of the square face picture.
        video_instants: sampling instants in the video context of a window.
        audio_frames: log-mel frames of one hop, with the context frames before it.
        mel_bins: bins of a log-mel frame.
        audio_steps_per_hop: embeddings that one hop gives.
        audio_steps: embeddings in the audio context of a window.
        chat_lines: most lines in the chat context of a window.
        heads: number of labels of each head.
        numbers: names of what is a number.
    """
    text_width = widths.text + widths.ngrams
    head_outputs = [
        tensor
        for head, labels in heads.items()
        for tensor in (
            f32(f"{head}_logits", "N", labels),
            f32(f"{head}_contributions", "N", 3, labels),
        )
    ]
    for name in numbers:
        head_outputs += [f32(f"{name}_value", "N", 1), f32(f"{name}_contributions", "N", 3, 1)]
    return {
        "vision": (
            (f32("faces", "N", 1, image_size_px, image_size_px),),
            (f32("embedding", "N", widths.vision),),
        ),
        "audio": (
            (f32("logmel", "N", audio_frames, mel_bins),),
            (f32("embedding", "N", audio_steps_per_hop, widths.audio),),
        ),
        "text": (
            (i64("input_ids", "N", "L"), i64("attention_mask", "N", "L")),
            (f32("embedding", "N", widths.text),),
        ),
        "ngrams": ((i64("buckets", "N", "B"),), (f32("embedding", "N", widths.ngrams),)),
        "fusion": (
            (
                f32("vision", "N", video_instants, widths.vision),
                f32("vision_mask", "N", video_instants),
                f32("audio", "N", audio_steps, widths.audio),
                f32("audio_mask", "N", audio_steps),
                f32("text", "N", chat_lines, text_width),
                f32("text_mask", "N", chat_lines),
                i64("state", "N", 3),
            ),
            tuple(head_outputs),
        ),
        "vad": (
            (
                f32("input", "N", VAD_CONTEXT_SAMPLES + VAD_HOP_SAMPLES),
                f32("state", 2, "N", VAD_STATE_WIDTH),
                i64("sr"),
            ),
            (f32("output", "N", 1), f32("stateN", 2, "N", VAD_STATE_WIDTH)),
        ),
    }


def f32(name: str, *shape: Dim) -> TensorSpec:
    """A float32 tensor."""
    return TensorSpec(name=name, dtype="float32", shape=shape)


def i64(name: str, *shape: Dim) -> TensorSpec:
    """An int64 tensor."""
    return TensorSpec(name=name, dtype="int64", shape=shape)
