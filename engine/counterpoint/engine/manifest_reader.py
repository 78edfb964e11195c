"""Reading ``manifest.json``, checked as far as it can be by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Final

from counterpoint.engine.graphs import ROLES, GraphSpec, TensorSpec, Widths
from counterpoint.engine.manifest import (
    MANIFEST_FILE,
    MASKS,
    MODEL_CARD_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    BundleError,
    Manifest,
    tensor_contract,
)
from counterpoint.engine.strict import ShapeError, decode, parse_json

SHARES_SUM_TOLERANCE: Final = 1e-3
"""They are written with few digits."""

_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")
_VERSION = re.compile(r"\d+(\.\d+)*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2}(Z|[+-]\d{2}:\d{2}))?")


def engine_version() -> str:
    """Version of the installed engine."""
    return version("counterpoint")


def parse_manifest(data: bytes, *, engine: str | None = None) -> Manifest:
    """Read and check ``manifest.json``.

    Args:
        data: its bytes.
        engine: version of the engine that wants to run it; by default this one.

    Raises:
        BundleError: naming the path of the key.
    """
    try:
        return _parse(data, engine_version() if engine is None else engine)
    except ShapeError as error:
        raise BundleError(f"{MANIFEST_FILE}: {error}") from error


def _parse(data: bytes, engine: str) -> Manifest:
    document = parse_json(data)
    if not isinstance(document, dict):
        raise ShapeError("", "must be a JSON object")
    # Before all else: another version may have other keys.
    found = document.pop("schema_version", None)
    if type(found) is not int or found != SCHEMA_VERSION:
        raise ShapeError(
            "schema_version",
            f"the bundle has {json.dumps(found)}, this engine reads {SCHEMA_VERSION}; "
            "take a bundle and an engine of the same schema version",
        )
    manifest = decode(Manifest, document)
    check_manifest(manifest, engine=engine)
    return manifest


def check_manifest(manifest: Manifest, *, engine: str) -> None:
    """Check the parts of a manifest against each other and against the engine's version.

    Raises:
        ShapeError: naming the path of the key.
    """
    if not _ID.fullmatch(manifest.id):
        raise ShapeError("id", f"must be lower-case letters, digits, . _ -, not {manifest.id!r}")
    if not _DATE.fullmatch(manifest.created):
        raise ShapeError("created", f"must be an ISO 8601 date, not {manifest.created!r}")
    if not _VERSION.fullmatch(manifest.engine_min_version):
        raise ShapeError(
            "engine_min_version", f"must be like 1.2.3, not {manifest.engine_min_version!r}"
        )
    if _release(engine) < _release(manifest.engine_min_version):
        raise ShapeError(
            "engine_min_version",
            f"the bundle needs {manifest.engine_min_version} or newer, this engine is {engine}; "
            "update counterpoint or take an older bundle",
        )
    _check_modalities(manifest)
    _check_heads(manifest)
    _check_shares(manifest)
    _check_graphs(manifest)
    _check_files(manifest)


def _check_modalities(manifest: Manifest) -> None:
    modalities, hop_ns = manifest.modalities, manifest.hop_ns
    if hop_ns <= 0:
        raise ShapeError("hop_ns", f"must be positive, not {hop_ns}")
    try:
        modalities.video.validate()
        modalities.audio.validate()
        modalities.chat.validate()
    except ValueError as error:
        raise ShapeError("", f"modalities.{error}") from error
    # One grid for all: a cell holds one sample instant of video, and whole frames and steps of
    # audio.
    if modalities.video.sample_period_ns != hop_ns:
        raise ShapeError(
            "modalities.video.sample_period_ns",
            f"must be hop_ns ({hop_ns}), not {modalities.video.sample_period_ns}",
        )
    multiples = {
        "audio.context_ns": (modalities.audio.context_ns, hop_ns),
        "audio.frame_ns": (hop_ns, modalities.audio.frame_ns),
        "audio.steps_per_hop": (hop_ns, modalities.audio.steps_per_hop),
    }
    for key, (whole, part) in multiples.items():
        if whole % part:
            raise ShapeError(
                f"modalities.{key}", f"does not fit the grid of hop_ns: {whole} % {part} is not 0"
            )


def _check_heads(manifest: Manifest) -> None:
    if not manifest.tasks:
        raise ShapeError("heads", "there must be at least one head, or one of numbers")
    for name in manifest.numbers:
        if name in manifest.heads:
            raise ShapeError(f"numbers.{name}", "is the name of a head, too")
    _same_keys("temperatures", manifest.temperatures, manifest.heads)
    for head, by_mask in manifest.temperatures.items():
        _same_keys(f"temperatures.{head}", by_mask, MASKS)
        for mask, temperature in by_mask.items():
            if temperature <= 0:
                raise ShapeError(
                    f"temperatures.{head}.{mask}", f"must be positive, not {temperature}"
                )


def _check_shares(manifest: Manifest) -> None:
    for head, by_mask in manifest.shares.items():
        if head not in manifest.heads:
            raise ShapeError(f"shares.{head}", "is no head")
        _known_keys(f"shares.{head}", by_mask, MASKS)
        for mask, shares in by_mask.items():
            path, labels = f"shares.{head}.{mask}", manifest.heads[head].labels
            if len(shares) != len(labels):
                raise ShapeError(path, f"must have {len(labels)} values, not {len(shares)}")
            if min(shares) < 0 or abs(sum(shares) - 1) > SHARES_SUM_TOLERANCE:
                raise ShapeError(path, "must not be negative, and sum to 1")


def _check_graphs(manifest: Manifest) -> None:
    _same_keys("graphs", manifest.graphs, ROLES)
    contract = tensor_contract(
        hop_ns=manifest.hop_ns,
        modalities=manifest.modalities,
        heads=manifest.heads,
        numbers=manifest.numbers,
        widths=_own_widths(manifest.graphs),
    )
    for role, (inputs, outputs) in contract.items():
        spec = manifest.graphs[role]
        _check_tensors(f"graphs.{role}.inputs", spec.inputs, inputs)
        _check_tensors(f"graphs.{role}.outputs", spec.outputs, outputs)


def _check_tensors(
    path: str, found: tuple[TensorSpec, ...], expected: tuple[TensorSpec, ...]
) -> None:
    names = [spec.name for spec in found]
    if sorted(names) != sorted(spec.name for spec in expected):
        wanted = ", ".join(spec.name for spec in expected)
        raise ShapeError(path, f"must be tensors {wanted}; found {', '.join(names) or 'none'}")
    for want in expected:
        index = names.index(want.name)
        if found[index] != want:
            raise ShapeError(
                f"{path}[{index}]",
                f"must be '{want}' to fit modalities and heads, found '{found[index]}'",
            )


def _own_widths(graphs: Mapping[str, GraphSpec]) -> Widths:
    widths: dict[str, int] = {}
    for role in ("vision", "audio", "text", "ngrams"):
        outputs = graphs[role].outputs
        width = outputs[0].shape[-1] if len(outputs) == 1 and outputs[0].shape else None
        if type(width) is not int or width <= 0:
            raise ShapeError(
                f"graphs.{role}.outputs",
                "must be one tensor 'embedding' whose last dimension is its width",
            )
        widths[role] = width
    return Widths(**widths)


def _check_files(manifest: Manifest) -> None:
    for path in manifest.files:
        if not is_inner_path(path) or path == MANIFEST_FILE:
            raise ShapeError(f"files.{path}", "must be a relative path within the bundle")
    needed = {
        **{f"graphs.{role}.file": spec.file for role, spec in manifest.graphs.items()},
        **{f"graphs.{role}.golden": spec.golden for role, spec in manifest.graphs.items()},
    }
    for key, path in needed.items():
        if path not in manifest.files:
            raise ShapeError(key, f"{path!r} is not among files")
    for path in (TOKENIZER_FILE, MODEL_CARD_FILE):
        if path not in manifest.files:
            raise ShapeError(f"files.{path}", "missing key")


def is_inner_path(path: str) -> bool:
    """Whether this is a plain relative POSIX path that never leaves its directory."""
    parts = path.split("/")
    return (
        not {"", ".", ".."} & set(parts)
        and not any(char in path for char in "\\:\0")
        and PurePosixPath(path).as_posix() == path
    )


def _known_keys(
    path: str, found: Mapping[str, object], known: Mapping[str, object] | tuple[str, ...]
) -> None:
    for key in found:
        if key not in known:
            raise ShapeError(f"{path}.{key}", f"unknown key; known here: {', '.join(known)}")


def _same_keys(
    path: str, found: Mapping[str, object], expected: Mapping[str, object] | tuple[str, ...]
) -> None:
    _known_keys(path, found, expected)
    for key in expected:
        if key not in found:
            raise ShapeError(f"{path}.{key}", "missing key")


def _release(text: str) -> tuple[int, ...]:
    match = _VERSION.match(text)
    numbers = [int(part) for part in match[0].split(".")] if match else [0]
    while numbers and numbers[-1] == 0:  # 1.0 is 1
        numbers.pop()
    return tuple(numbers)
