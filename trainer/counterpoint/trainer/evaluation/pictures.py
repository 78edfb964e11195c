"""Confusion matrices, reliability diagrams and the table of subsets as SVG pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from counterpoint.trainer.evaluation.figures import Bin, Figure
from counterpoint.trainer.metrics import Labels

INK: Final = "#1d2b3a"
BLUE: Final = "#2f6db5"
GREY: Final = "#b8c2cc"
_MAX_NAMED: Final = 24
"""With more classes, numbers within the cells cannot be read any more."""

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


def confusion_svg(counts: Labels, labels: Sequence[str], title: str) -> bytes:
    """Shares of each actual class, with the counts in the cells."""
    size = max(3.6, 0.62 * len(labels) + 1.8)
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas(size, size)
        totals = counts.sum(axis=1, keepdims=True)
        shares = counts / totals.clip(min=1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        places = range(len(labels))
        axes.set_xticks(places, labels, rotation=45, ha="right")
        axes.set_yticks(places, labels)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
        if len(labels) <= _MAX_NAMED:
            for row in places:
                for column in places:
                    colour = "white" if shares[row, column] > 0.5 else INK
                    axes.text(
                        column, row, str(counts[row, column]), ha="center", va="center",
                        color=colour, fontsize=9,
                    )  # fmt: skip
        axes.set_title(title)
        return _svg(canvas)


def reliability_svg(bins: Sequence[Bin], title: str) -> bytes:
    """How often the engine is right by how sure it is; the area of a dot is its number of rows."""
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas(3.8, 3.8)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        most = max((found.rows for found in bins), default=1)
        axes.scatter(
            [found.confidence for found in bins], [found.accuracy for found in bins],
            s=[12 + 160 * found.rows / most for found in bins],
            color=BLUE, alpha=0.75, clip_on=False, zorder=3,
        )  # fmt: skip
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel("confidence")
        axes.set_ylabel("share that is right")
        axes.set_title(title)
        return _svg(canvas)


def scatter_svg(actual: Sequence[float], predicted: Sequence[float], title: str) -> bytes:
    """Predicted against actual numbers, a dot for each row."""
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas(3.8, 3.8)
        edges = [min(*actual, *predicted), max(*actual, *predicted)]
        axes.plot(edges, edges, color=GREY, linewidth=1)
        axes.scatter(actual, predicted, s=14, color=BLUE, alpha=0.6, zorder=3)
        axes.set_xlabel("actual")
        axes.set_ylabel("predicted")
        axes.set_title(title)
        return _svg(canvas)


def bars_svg(found: Mapping[str, Figure], title: str, axis: str) -> bytes:
    """A bar for each name, with its interval where there is one."""
    with mpl.rc_context(_STYLE):
        canvas, axes = _canvas(5.4, 0.42 * len(found) + 1.4)
        names = list(found)
        values = [found[name].value for name in names]
        axes.barh(names, values, color=BLUE, height=0.6)
        for place, name in enumerate(names):
            figure = found[name]
            if figure.low is not None and figure.high is not None:
                axes.plot([figure.low, figure.high], [place, place], color=INK, linewidth=1.4)
        axes.set_xlim(0, 1)
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        axes.set_title(title)
        return _svg(canvas)


def _canvas(width: float, height: float) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(width, height), layout="constrained")
    axes: Axes = canvas.subplots()
    return canvas, axes


def _svg(canvas: Canvas) -> bytes:
    buffer = io.BytesIO()
    # A figure without pyplot asks for no window system.
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
