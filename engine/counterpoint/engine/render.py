"""Predictions for people: a live table with bars, states and latency."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from counterpoint.engine.align import State
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.subscribe import Gap, StateChange, StateKind
from counterpoint.streams.types import Modality

BAR_CELLS = 24

_STATE_STYLE = {
    State.PRESENT: "green",
    State.SILENT: "cyan",
    State.PARTIAL: "yellow",
    State.IDLE: "yellow",
    State.LATE: "yellow",
    State.STALLED: "red",
    State.MISSING: "bright_black",
}

_LINK_KINDS = (StateKind.CONNECTED, StateKind.DISCONNECTED)


class LiveTable:
    """A table on the terminal that follows a session. Use as a context manager.

    Args:
        console: where to draw.
        title: what is being watched.
        paced: whether the session runs in real time, so that latency means something.
    """

    def __init__(self, console: Console, title: str, *, paced: bool) -> None:
        self._title = title
        self._paced = paced
        self._dropped: dict[str, int] = {}
        self._skipped = 0
        self._revised = 0
        self._notes: list[str] = []
        self._last: Prediction | None = None
        self._live = Live(
            Panel(Text("waiting for the first window…"), title=title),
            console=console,
            auto_refresh=False,
            transient=False,
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, prediction: Prediction) -> None:
        """Draw one prediction."""
        self._skipped += prediction.skipped_windows
        for reason, count in prediction.dropped.items():
            self._dropped[reason] = self._dropped.get(reason, 0) + count
        if self._last is not None and prediction.revision > 0 and _older(prediction, self._last):
            self._revised += 1  # what is shown goes on from window to window, never back
        else:
            self._last = prediction
        self._draw()

    def note(self, text: str) -> None:
        """Show a line of news under the table; the newest three stay."""
        self._notes = [*self._notes[-2:], text]
        self._draw()

    def _draw(self) -> None:
        parts: list[RenderableType] = []
        if self._last is not None:
            parts += [
                _head_table(self._last),
                _modality_table(self._last),
                self._footer(self._last),
            ]
        parts += [Text(note, style="bright_black") for note in self._notes]
        self._live.update(Panel(Group(*parts), title=self._title), refresh=True)

    def _footer(self, prediction: Prediction) -> Text:
        footer = Text(
            f"window {prediction.window}  {prediction.end_ns / 1e9:.2f} s"
            f"  {prediction.status.value}"
            f"  ±{prediction.align_error_ms:g} ms ({prediction.align_tier})"
        )
        if self._paced:
            late_ns = prediction.emitted_wall_ns - prediction.end_wall_ns
            footer.append(f"  window end → prediction {late_ns / 1e6:.0f} ms")
        models_ms = prediction.stages.ms.get("models")
        if models_ms is not None:
            footer.append(f"  models {models_ms:.1f} ms")
        if self._skipped:
            footer.append(f"  skipped {self._skipped}", style="yellow")
        if self._revised:
            footer.append(f"  revised {self._revised}")
        for reason, count in sorted(self._dropped.items()):
            footer.append(f"  dropped {reason} {count}", style="yellow")
        return footer


def _older(prediction: Prediction, last: Prediction) -> bool:
    return (prediction.epoch, prediction.window) < (last.epoch, last.window)


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of eighths, ``cells`` wide at 1.0."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")


def _head_table(prediction: Prediction) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold")
    table.add_column()
    table.add_column(justify="right")
    table.add_column(width=BAR_CELLS)
    for name, head in prediction.heads.items():
        top, _ = head.top
        for row, (label, share) in enumerate(zip(head.labels, head.probabilities, strict=True)):
            style = "bold green" if label == top else ""
            table.add_row(
                name if row == 0 else "",
                Text(label, style=style),
                f"{share:.0%}",
                Text(bar(share), style=style or "blue"),
            )
        table.add_row()
    for name, number in prediction.numbers.items():
        share = (number.value - number.low) / (number.high - number.low)
        table.add_row(
            name,
            f"{number.low:g} to {number.high:g}",
            Text(f"{number.value:.3g}", style="bold green"),
            Text(bar(share), style="blue"),
        )
    return table


def _modality_table(prediction: Prediction) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bright_black")
    for header in ("", "state", "coverage", "age", "speaks for"):
        table.add_column(header)
    for modality in Modality:
        report = prediction.modalities[modality]
        table.add_row(
            Text(modality.value, style="bold"),
            Text(report.state.value, style=_STATE_STYLE[report.state]),
            f"{report.coverage:.0%}",
            "" if report.age_ns is None else f"{report.age_ns / 1e6:.0f} ms",
            report.reason or _speaks_for(prediction, modality),
        )
    return table


def _speaks_for(prediction: Prediction, modality: Modality) -> str:
    """For each head the label that the modality pushes hardest, and what it adds to numbers."""
    said = []
    report = prediction.modalities[modality]
    for head, values in report.contributions.items():
        if any(values):
            best = max(range(len(values)), key=values.__getitem__)
            said.append(f"{prediction.heads[head].labels[best]} {values[best]:+.1f}")
    for name, number in prediction.numbers.items():
        if added := number.contributions[modality]:
            said.append(f"{name} {added:+.2g}")
    return ", ".join(said)


def in_words(event: Gap | StateChange) -> str:
    """What a subscriber is told beside predictions, as a line for people."""
    if isinstance(event, Gap):
        windows = (
            f"window {event.first_window}"
            if event.missing == 1
            else f"windows {event.first_window} to {event.last_window}"
        )
        return f"gap: {windows} missing ({event.missing}, {event.cause.value})"
    subject = "redis" if event.kind in _LINK_KINDS else f"session {event.session}"
    detail = f": {event.detail}" if event.detail else ""
    return f"{subject} {event.kind.value}{detail}"
