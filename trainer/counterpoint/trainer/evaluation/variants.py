"""``counterpoint-trainer export``: a bundle in another precision, held against the one it is from.

Graphs are compared on their golden inputs and on what sessions over rows of a data set give them;
the whole engine is compared on the answers to these rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from counterpoint.engine.bundle import Bundle, load_bundle
from counterpoint.engine.device import Graph, open_device
from counterpoint.engine.golden import check_golden, golden_bytes, golden_inputs
from counterpoint.engine.graphs import Precision
from counterpoint.engine.manifest import Manifest
from counterpoint.engine.models import Models
from counterpoint.streams.errors import FailedError, UsageError
from counterpoint.trainer.data.index import Example
from counterpoint.trainer.evaluation.capture import capture
from counterpoint.trainer.evaluation.dataset import read_for
from counterpoint.trainer.evaluation.scoring import Scored, score_rows
from counterpoint.trainer.parity import GATES, GOLDEN, Parity, agrees, check, measure
from counterpoint.trainer.precision import convert
from counterpoint.trainer.rebundle import rebundle

ROLES: Final[dict[str, tuple[str, ...]]] = {
    "fp16": ("vision", "audio", "text", "ngrams", "fusion"),
    "int8": ("vision", "audio", "text", "ngrams"),
}
"""Converted where none is named. The voice detector stays as its authors ship it. The fusion is
small and its contributions are sums that eight bits get wrong, so it stays fp32 beside int8."""
MOST_INPUTS: Final = 64
_TIMED: Final = 15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One graph in its new precision.

    Fields:
        bytes_before, bytes_after: of the model.
        latency: median time of one run in parts of fp32's, one CPU thread, batch 1.
    """

    role: str
    precision: Precision
    bytes_before: int
    bytes_after: int
    parity: Parity
    latency: float


def run_export(options: argparse.Namespace) -> None:
    """Convert, gate, write the bundle, and check its golden outputs."""
    bundle = load_bundle(options.bundle)
    if options.out.resolve() == options.bundle.resolve():
        raise UsageError(f"--out: {options.out} is the bundle itself; give another folder")
    examples = read_for(bundle, options.dataset, ())
    made, variants, agreement = export_variant(
        bundle, options.precision, examples, options.out, roles=options.role or ()
    )
    for variant in variants:
        print(
            f"{variant.role:8} {variant.precision} {variant.bytes_before} -> "
            f"{variant.bytes_after} bytes, latency x {variant.latency:.2f}; {variant.parity}"
        )
    print(f"same answers: {', '.join(f'{head} {share:.4f}' for head, share in agreement.items())}")
    print(f"bundle: {options.out}, digest {made.digest[:12]}")


def export_variant(
    bundle: Bundle,
    precision: Precision,
    examples: Sequence[Example],
    out: Path,
    *,
    roles: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Bundle, list[Variant], dict[str, float]]:
    """The bundle with its fp32 graphs of ``roles`` in ``precision``, graphs and answers checked.

    Rows of the split train (or every second row, where there is none) give the ranges of int8;
    the others are what parity is measured on.

    Returns:
        The bundle, its graphs that are new, and by head the share of rows with the same answer.

    Raises:
        FailedError: a graph or the whole is not near enough to fp32, with the numbers.
        UsageError: no graph of ``roles`` is fp32, or there are too few rows.
    """
    roles = roles or ROLES[precision]
    chosen = [role for role in roles if bundle.manifest.graphs[role].precision == "fp32"]
    if not chosen:
        raise UsageError(f"none of the graphs {', '.join(roles)} of {bundle.root} is fp32")
    fitting, held = _halves(examples)
    device = open_device("cpu")
    try:
        models = Models.load(bundle, device)
        ranges, _ = capture(models, fitting, most=MOST_INPUTS, seed=seed)
        inputs, before = capture(models, held, most=MOST_INPUTS, seed=seed)
        specs, content = _converted(bundle, precision, chosen, ranges)
        with tempfile.TemporaryDirectory() as folder:
            # Nothing stands at ``out`` before every gate is passed.
            draft = rebundle(bundle, Path(folder) / "draft", specs, card="", files=content)
            small = Models.load(draft, device)
            variants = [
                _compared(bundle, draft, role, (models.graphs[role], small.graphs[role]), inputs)
                for role in chosen
            ]
            agreement = _agreement(bundle, precision, before, score_rows(small, held))
            golden: dict[str, bytes | Path] = {}
            for role in chosen:
                given = golden_inputs(bundle, role)
                outputs = small.graphs[role].run(given)
                golden[specs.graphs[role].golden] = golden_bytes(given, outputs)
            card = _card(bundle, precision, variants, agreement, len(held))
            made = rebundle(draft, out, draft.manifest, card=card, files=golden)
        check_golden(made, device)
    finally:
        device.close()
    return made, variants, agreement


def _halves(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Rows for the ranges of int8, and rows to compare on."""
    fitting = [example for example in examples if example.split == "train"]
    held = [example for example in examples if example.split != "train"]
    if not fitting:
        fitting, held = held[::2], held[1::2]
    if not fitting or not held:
        raise UsageError(
            f"{len(examples)} labelled rows are too few: some give ranges, others are compared on"
        )
    return fitting, held


def _converted(
    bundle: Bundle, precision: Precision, roles: Sequence[str], ranges: Mapping[str, list[Any]]
) -> tuple[Manifest, dict[str, bytes | Path]]:
    """The manifest with the new graphs, and their models by path."""
    graphs, content = dict(bundle.manifest.graphs), dict[str, bytes | Path]()
    for role in roles:
        old = graphs[role]
        graphs[role] = dataclasses.replace(
            old,
            file=f"models/{role}/model.{precision}.onnx",
            precision=precision,
            tolerance=GOLDEN[precision],
        )
        # Ranges of rows alone may lack what golden inputs have: more than one row, say.
        calibration = [*ranges[role], golden_inputs(bundle, role)]
        try:
            model = convert(bundle.read_bytes(old.file), precision, calibration)
        except FailedError as error:
            raise FailedError(f"graph {role!r}: {error}") from error
        content[graphs[role].file] = model
    return dataclasses.replace(bundle.manifest, graphs=graphs), content


def _compared(
    bundle: Bundle,
    draft: Bundle,
    role: str,
    graphs: tuple[Graph, Graph],
    inputs: Mapping[str, list[Any]],
) -> Variant:
    full, small = graphs
    golden = golden_inputs(bundle, role)
    # Golden inputs and those of sessions each by themselves: neither hides the other.
    precision = small.spec.precision
    for given in ([golden], inputs[role]):
        if given:
            check(f"graph {role!r}", precision, measure(full.run, small.run, given))
    before, after = (
        made.manifest.files[made.manifest.graphs[role].file].bytes for made in (bundle, draft)
    )
    return Variant(
        role=role,
        precision=precision,
        bytes_before=before,
        bytes_after=after,
        parity=measure(full.run, small.run, [golden, *inputs[role]]),
        latency=_latency(full, small, inputs[role] or [golden]),
    )


def _latency(full: Graph, small: Graph, inputs: Sequence[Any]) -> float:
    """Median time of ``small`` in parts of that of ``full``, run in turns."""
    spent: tuple[list[float], list[float]] = [], []
    for turn in range(_TIMED):
        given = inputs[turn % len(inputs)]
        for graph, times in zip((full, small), spent, strict=True):
            started = time.perf_counter()
            graph.run(given)
            times.append(time.perf_counter() - started)
    return median(spent[1]) / median(spent[0])


def _agreement(
    bundle: Bundle, precision: Precision, before: Sequence[Scored], after: Sequence[Scored]
) -> dict[str, float]:
    """By head, the share of rows with the same answer.

    Raises:
        FailedError: it is below the gate.
    """
    shares = {
        head: float(
            np.mean(
                [
                    old.said[old.mask].answer(head).argmax()
                    == new.said[new.mask].answer(head).argmax()
                    for old, new in zip(before, after, strict=True)
                ]
            )
        )
        for head in bundle.manifest.heads
    }
    gate = GATES[precision]
    for head, share in shares.items():
        if not agrees(share, len(before), gate):
            raise FailedError(
                f"head {head!r}: in {precision} the engine gives {share:.4f} of {len(before)} rows "
                f"the same answer as in fp32, at least {gate.agreement:g} are asked"
            )
    return shares


def _card(
    bundle: Bundle,
    precision: Precision,
    variants: Sequence[Variant],
    agreement: Mapping[str, float],
    rows: int,
) -> str:
    kept = [
        f"{role} ({spec.precision})"
        for role, spec in bundle.manifest.graphs.items()
        if role not in {variant.role for variant in variants}
    ]
    same = ", ".join(f"{head} {share:.4f}" for head, share in agreement.items())
    words = (
        f"From the bundle with the digest {bundle.digest[:12]}, graphs in {precision}; as they "
        f"were: {', '.join(kept) or 'none'}. Error is the root mean square of differences in "
        f"parts of that of fp32's output, largest in parts of its largest element, latency in "
        f"parts of fp32's on one CPU thread. Share of {rows} rows with the "
        f"same answer of the whole engine: {same}."
    )
    lines = [
        f"| {variant.role} | {variant.bytes_before} | {variant.bytes_after} | "
        f"{variant.parity.inputs} | {variant.parity.error:.2g} | {variant.parity.largest:.2g} | "
        f"{variant.parity.cosine:.6f} | "
        f"{_share(variant.parity.agreement)} | "
        f"{variant.latency:.2f} |"
        for variant in variants
    ]
    return "\n".join(
        [
            f"## Precision {precision}",
            "",
            words,
            "",
            "| graph | fp32 bytes | bytes | inputs | error | largest | cosine | agree | latency |",
            "|---|---|---|---|---|---|---|---|---|",
            *lines,
        ]
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
