"""How near a graph of lower precision comes to its fp32 one, and whether that is near enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from counterpoint.engine.graphs import Precision, Tolerance
from counterpoint.streams.errors import FailedError

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]
Run: TypeAlias = Callable[[Arrays], Arrays]

LOGITS: Final = "_logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a graph of this precision must reach over all inputs together.

    Fields:
        error: root mean square of the differences, in parts of that of fp32's output, at most.
        cosine: mean cosine between a row of the output and that of fp32, at least.
        agreement: share of rows of logits with the same highest class, at least; one row may always
            differ, since of few rows one near a tie would decide.
    """

    error: float
    cosine: float
    agreement: float


GATES: Final[dict[Precision, Gate]] = {
    "fp32": Gate(error=1e-4, cosine=0.999999, agreement=1.0),
    "fp16": Gate(error=0.005, cosine=0.9999, agreement=0.99),
    "int8": Gate(error=0.12, cosine=0.99, agreement=0.95),
}
GOLDEN: Final[dict[Precision, Tolerance]] = {
    # How near another device must come to the golden outputs of the same graph. Half precision
    # may be computed in single; in int8 a rounding that goes the other way is one step.
    "fp32": Tolerance(atol=1e-3, rtol=1e-3),
    "fp16": Tolerance(atol=1e-2, rtol=1e-2),
    "int8": Tolerance(atol=5e-2, rtol=5e-2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Over all inputs, of the output that is worst; see `Gate`.

    Fields:
        largest: difference of any element, in parts of the output's largest. A single element may
            be far off in int8, so it is told and not gated.
        agreement: None without logits.
        rows: of logits.
    """

    inputs: int
    rows: int
    error: float
    largest: float
    cosine: float
    agreement: float | None

    def __str__(self) -> str:
        agreement = "" if self.agreement is None else f", agreement {self.agreement:.4f}"
        return (
            f"error {self.error:.2g} (largest {self.largest:.2g}), cosine {self.cosine:.6f}"
            f"{agreement}"
        )


def measure(full: Run, small: Run, inputs: Sequence[Arrays]) -> Parity:
    """Run both on every input.

    Raises:
        FailedError: there is no input, an output has another shape, or is not finite.
    """
    if not inputs:
        raise FailedError("parity needs inputs, and there are none")
    expected: dict[str, list[np.ndarray[Any, Any]]] = {}
    found: dict[str, list[np.ndarray[Any, Any]]] = {}
    for given in inputs:
        wanted, got = full(given), small(given)
        for name, array in wanted.items():
            if got[name].shape != array.shape or not np.isfinite(got[name]).all():
                raise FailedError(
                    f"output {name}: {got[name].shape} where fp32 gives {array.shape}, "
                    "or a value that is not finite"
                )
            expected.setdefault(name, []).append(_rows(array))
            found.setdefault(name, []).append(_rows(got[name]))
    pairs = {
        name: (np.concatenate(rows), np.concatenate(found[name])) for name, rows in expected.items()
    }
    logits = [pair for name, pair in pairs.items() if name.endswith(LOGITS)]
    return Parity(
        inputs=len(inputs),
        rows=max((len(pair[0]) for pair in logits), default=0),
        error=max(_error(*pair) for pair in pairs.values()),
        largest=max(_largest(*pair) for pair in pairs.values()),
        cosine=min(_cosine(*pair) for pair in pairs.values()),
        agreement=min(
            (float(np.mean(a.argmax(axis=1) == b.argmax(axis=1))) for a, b in logits), default=None
        ),
    )


def check(what: str, precision: Precision, parity: Parity) -> None:
    """Stop where a graph is not near enough.

    Raises:
        FailedError: with what was found and what is asked.
    """
    gate = GATES[precision]
    if (
        parity.error <= gate.error
        and parity.cosine >= gate.cosine
        and agrees(parity.agreement, parity.rows, gate)
    ):
        return
    raise FailedError(
        f"{what} in {precision} is not near enough to fp32 on {parity.inputs} inputs: {parity}; "
        f"asked are an error of at most {gate.error:g}, a cosine of at least {gate.cosine:g}"
        + ("" if parity.agreement is None else f" and an agreement of at least {gate.agreement:g}")
    )


def agrees(share: float | None, rows: int, gate: Gate) -> bool:
    """Whether enough of ``rows`` have the same answer."""
    return share is None or round((1 - share) * rows) <= max(1, (1 - gate.agreement) * rows)


def _rows(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(…, width) as (rows, width) float64."""
    rows: np.ndarray[Any, Any] = array.astype(np.float64).reshape(-1, array.shape[-1])
    return rows


def _error(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    scale = float(np.sqrt(np.mean(expected**2)))
    return float(np.sqrt(np.mean((expected - found) ** 2))) / (scale or 1.0)


def _largest(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    scale = float(np.abs(expected).max())
    return float(np.abs(expected - found).max()) / (scale or 1.0)


def _cosine(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    products = (expected * found).sum(axis=1)
    # Rows of nothing but zeros (a modality that is not there) are alike if both are.
    both_zero = ~expected.any(axis=1) & ~found.any(axis=1)
    cosines = np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1.0), both_zero)
    return float(cosines.mean())
