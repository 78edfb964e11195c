"""Pictures of studies: values with their spread over named places or over a scale, as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from counterpoint.trainer.evaluation.pictures import BLUE, INK

COLOURS: Final = (BLUE, "#c2662d", "#3d8b5f", "#8a5aa8")

# The same bytes for the same figures, and words as words.
_STYLE: Final[Any] = {
    "svg.hashsalt": "counterpoint",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

Spread = tuple[float, float, float]
"""A value, and how far its bar goes down and up: (value, lower end, upper end)."""


def curves_svg(
    series: Mapping[str, Sequence[Spread]],
    places: Sequence[str],
    *,
    x: str,
    y: str,
    title: str,
    chance: float | None = None,
    joined: bool = True,
) -> bytes:
    """One curve for each series over places at equal distances, with a bar at each value.

    Args:
        series: name -> a value for each place.
        places: words below the axis.
        chance: where a dotted line says what guessing gives.
        joined: lines between the values; without, places are things and no scale.

    Raises:
        ValueError: a series has more or fewer values than there are places.
    """
    with mpl.rc_context(_STYLE):
        canvas = Figure(figsize=(max(5.0, 0.75 * len(places) + 2), 3.6), layout="constrained")
        axes = canvas.add_subplot()
        width = 0.12 if joined else 0.24
        for place, ((name, values), colour) in enumerate(
            zip(series.items(), COLOURS, strict=False)
        ):
            if len(values) != len(places):
                raise ValueError(f"{name}: {len(values)} values for {len(places)} places")
            shift = (place - (len(series) - 1) / 2) * width
            axes.errorbar(
                [at + shift for at in range(len(places))],
                [value for value, _, _ in values],
                yerr=[
                    [value - low for value, low, _ in values],
                    [high - value for value, _, high in values],
                ],
                label=name,
                color=colour,
                marker="o",
                markersize=4,
                linestyle="-" if joined else "none",
                capsize=2,
            )
        if chance is not None:
            axes.axhline(chance, color=INK, linewidth=0.8, linestyle=":", label="chance")
        axes.set_xticks(range(len(places)), places, rotation=0 if joined else 20)
        axes.set_ylim(0, 1)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(title)
        axes.grid(axis="y", linewidth=0.4)
        axes.legend(frameon=False, loc="lower left", ncols=2, fontsize=9)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()
