"""A session's timeline as a picture: SVG, nothing but text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from counterpoint.engine.align import State, Status, Window
from counterpoint.engine.timeline import Arrival, Trace, Track
from counterpoint.streams.types import NS_PER_S, Modality

WIDTH, LEFT, RIGHT = 1280, 208, 24
LANE, LAG, ROW, DELAYS, GAP = 58, 40, 18, 84, 20
MAX_ARRIVALS = 6_000
"""Of one source; of a longer session, ask for a part."""

INK, FAINT, RULE = "#1f2933", "#5f6c7b", "#d9dfe6"
TRACK_COLOURS = {Modality.VIDEO: "#2b6cb0", Modality.AUDIO: "#2f855a", Modality.CHAT: "#975a16"}
# Chosen to differ in lightness too, for those who do not see all colours.
STATE_COLOURS = {
    State.PRESENT: "#3d9970",
    State.SILENT: "#d5dde5",
    State.IDLE: "#f6d55c",
    State.PARTIAL: "#ed9b40",
    State.STALLED: "#c44536",
    State.LATE: "#7f5aa5",
    State.MISSING: "#ffffff",
}
STATUS_COLOURS = {
    Status.PROVISIONAL: "#ffffff",
    Status.FINAL: INK,
    Status.AMENDED: STATE_COLOURS[State.LATE],
}


@dataclass(frozen=True, slots=True)
class _Scale:
    """Session time to the picture's x."""

    from_ns: int
    to_ns: int

    def x(self, t_ns: int) -> str:
        share = (t_ns - self.from_ns) / (self.to_ns - self.from_ns)
        return f"{LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT):.1f}"

    def shows(self, from_ns: int, to_ns: int) -> bool:
        return to_ns >= self.from_ns and from_ns <= self.to_ns


def draw(trace: Trace, *, title: str, from_ns: int = 0, to_ns: int | None = None) -> str:
    """The picture as an SVG document.

    For each source: every item as a line from its capture (above) to its arrival (below), and how
    far the bound lies behind the clock. Below, for each window: what state each modality was in
    when it was first given and, where it was given again, at last; and how long after its end it
    was given.

    Raises:
        ValueError: ``from_ns`` is not before ``to_ns``, or more than `MAX_ARRIVALS` arrivals of a
            source lie between.
    """
    last_ns = max((window.emitted_ns for window in trace.windows), default=0)
    to_ns = max(trace.end_ns, last_ns) if to_ns is None else to_ns
    if not from_ns < to_ns:
        raise ValueError(f"nothing lies between {from_ns / 1e9:g} s and {to_ns / 1e9:g} s")
    scale = _Scale(from_ns, to_ns)
    body: list[str] = []
    y = 76
    axis_y = y
    for modality in Modality:
        if modality in trace.tracks:
            y += GAP
            body += _lane(modality, trace.tracks[modality], scale, y)
            y += LANE + 4
            body += _lag(trace, modality, scale, y)
            y += LAG
    y += GAP + 8
    body += _states(trace, scale, y)
    y += ROW * len(Modality) + GAP
    body += _delays(trace, scale, y)
    y += DELAYS + GAP
    axis = list(_axis(scale, axis_y, y - GAP))
    body += _legend(y + 8)
    height = y + 40
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
                f'width="{WIDTH}" height="{height}" role="img" aria-label="{_quoted(title)}" '
                f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">'
            ),
            f'<rect width="{WIDTH}" height="{height}" fill="#fcfdfe"/>',
            f'<text x="24" y="28" font-size="17" font-weight="600">{escape(title)}</text>',
            f'<text x="24" y="46" fill="{FAINT}">{escape(_summary(trace))}</text>',
            *axis,
            *body,
            "</svg>",
            "",
        ]
    )


def _quoted(text: str) -> str:
    return escape(text, {'"': "&quot;"})


def _summary(trace: Trace) -> str:
    given = dict.fromkeys(Status, 0)
    for window in trace.windows:
        given[window.status] += 1
    spec = trace.spec
    return (
        f"{trace.end_ns / 1e9:.1f} s · windows every {spec.hop_ns / 1e6:g} ms: "
        + ", ".join(f"{count} {status}" for status, count in given.items() if count)
        + f" · deadline {spec.deadline_ns / 1e6:g} ms"
        + (f", lateness {spec.lateness_ns / 1e6:g} ms" if spec.lateness_ns else "")
    )


def _axis(scale: _Scale, top: int, bottom: int) -> Iterator[str]:
    span_s = (scale.to_ns - scale.from_ns) / 1e9
    step_s = next((s for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300) if span_s / s <= 16), 600)
    step_ns = int(step_s * NS_PER_S)
    for t_ns in range(-(-scale.from_ns // step_ns) * step_ns, scale.to_ns + 1, step_ns):
        x = scale.x(t_ns)
        yield f'<path d="M{x} {top}V{bottom}" stroke="{RULE}"/>'
        yield (
            f'<text x="{x}" y="{top - 4}" text-anchor="middle" fill="{FAINT}">'
            f"{t_ns / 1e9:g} s</text>"
        )


def _label(y: int, text: str, detail: str) -> Iterator[str]:
    yield f'<text x="24" y="{y}" font-weight="600">{escape(text)}</text>'
    yield f'<text x="24" y="{y + 15}" font-size="10.5" fill="{FAINT}">{escape(detail)}</text>'


def _lane(modality: Modality, track: Track, scale: _Scale, y: int) -> Iterator[str]:
    """Items from capture, above, to arrival, below."""
    colour = TRACK_COLOURS[modality]
    yield from _label(y + 16, modality.value, _origin(track))
    top, bottom = y + 6, y + LANE - 4
    for rail_y, name in ((top, "captured"), (bottom, "arrived")):
        yield f'<path d="M{LEFT} {rail_y}H{WIDTH - RIGHT}" stroke="{RULE}"/>'
        yield (
            f'<text x="{LEFT - 6}" y="{rail_y + 4}" text-anchor="end" font-size="10" '
            f'fill="{FAINT}">{name}</text>'
        )
    shown = [a for a in track.arrivals if scale.shows(a.t_ns, a.arrived_ns)]
    if len(shown) > MAX_ARRIVALS:
        raise ValueError(
            f"{len(shown)} arrivals of {modality} are more than a picture holds "
            f"({MAX_ARRIVALS}); ask for a shorter part"
        )
    if shown:
        lines = "".join(_slant(arrival, scale, top, bottom) for arrival in shown)
        yield f'<path d="{lines}" stroke="{colour}" stroke-opacity="0.75" fill="none"/>'
        runs = "".join(
            f"M{scale.x(a.t_ns)} {top}H{scale.x(a.end_ns)}" for a in shown if a.end_ns > a.t_ns
        )
        if runs:
            yield f'<path d="{runs}" stroke="{colour}" stroke-width="3" fill="none"/>'
    for arrived_ns, clock in track.clocks:
        if clock.epoch and scale.shows(arrived_ns, arrived_ns):
            yield _mark(scale.x(arrived_ns), top, bottom, f"epoch {clock.epoch}, {clock.tier}")
    if track.ended is not None and scale.shows(track.ended.t_ns, track.ended.t_ns):
        text = "ended" if track.ended.error is None else f"ended: {track.ended.error}"
        yield _mark(scale.x(track.ended.t_ns), top, bottom, text)


def _origin(track: Track) -> str:
    """The source's name and the last that was said of its clock."""
    name = track.source if len(track.source) <= 15 else f"{track.source[:14]}…"
    return f"{name}, {track.clocks[-1][1].tier}" if track.clocks else name


def _slant(arrival: Arrival, scale: _Scale, top: int, bottom: int) -> str:
    return f"M{scale.x(arrival.end_ns)} {top}L{scale.x(arrival.arrived_ns)} {bottom}"


def _mark(x: str, top: int, bottom: int, text: str) -> str:
    return (
        f'<g stroke="{STATE_COLOURS[State.STALLED]}" stroke-width="1.5"><title>{escape(text)}'
        f'</title><path d="M{x} {top - 4}V{bottom + 4}"/></g>'
    )


def _lag(trace: Trace, modality: Modality, scale: _Scale, y: int) -> Iterator[str]:
    """How far the bound lies behind the clock: a saw that rises while nothing is heard."""
    track = trace.tracks[modality]
    ceiling_ns = max(2 * trace.spec.deadline_ns, trace.spec.hop_ns)
    yield (
        f'<text x="{LEFT - 6}" y="{y + 12}" text-anchor="end" font-size="10" fill="{FAINT}">'
        f"bound behind</text>"
        f'<text x="{LEFT - 6}" y="{y + 24}" text-anchor="end" font-size="10" fill="{FAINT}">'
        f"(0–{ceiling_ns / 1e6:g} ms)</text>"
    )

    def height(lag_ns: int) -> str:
        return f"{y + LAG - min(1.0, max(0.0, lag_ns / ceiling_ns)) * LAG:.1f}"

    def rise(bound_ns: int, from_ns: int, to_ns: int) -> str:
        """The lag of one bound while it held; level once it is off the strip."""
        off_ns = min(max(bound_ns + ceiling_ns, from_ns), to_ns)
        corners = ((from_ns, bound_ns), (off_ns, bound_ns), (to_ns, bound_ns))
        return "".join(f"L{scale.x(t)} {height(t - b)}" for t, b in corners)

    steps = [(0, 0), *track.bounds]
    until_ns = scale.to_ns if track.ended is None else min(scale.to_ns, track.ended.t_ns)
    saw = ""
    for (at_ns, bound_ns), (next_ns, _) in zip(steps, [*steps[1:], (until_ns, 0)], strict=True):
        start_ns, stop_ns = max(at_ns, scale.from_ns), min(next_ns, until_ns)
        if start_ns < stop_ns:
            saw += rise(bound_ns, start_ns, stop_ns)
    if saw:
        start, stop = scale.x(scale.from_ns), scale.x(until_ns)
        yield (
            f'<path d="M{start} {y + LAG}{saw}L{stop} {y + LAG}Z" '
            f'fill="{TRACK_COLOURS[modality]}" fill-opacity="0.22" '
            f'stroke="{TRACK_COLOURS[modality]}" stroke-width="0.8"/>'
        )
    line = height(trace.spec.deadline_ns)
    yield (
        f'<path d="M{LEFT} {line}H{WIDTH - RIGHT}" stroke="{FAINT}" stroke-dasharray="3 4" '
        f'stroke-width="0.8"><title>deadline</title></path>'
    )


def _states(trace: Trace, scale: _Scale, y: int) -> Iterator[str]:
    """A cell for each window and modality, from the hop that it adds."""
    first: dict[int, Window] = {}
    last: dict[int, Window] = {}
    for window in trace.windows:
        first.setdefault(window.index, window)
        last[window.index] = window
    yield from _label(y + 12, "windows", "state by modality")
    for row, modality in enumerate(Modality):
        top = y + row * ROW
        yield (
            f'<text x="{LEFT - 6}" y="{top + 13}" text-anchor="end" font-size="10" '
            f'fill="{FAINT}">{modality.value}</text>'
        )
        for index, window in last.items():
            start_ns = window.end_ns - trace.spec.hop_ns
            if not scale.shows(start_ns, window.end_ns):
                continue
            x, width = scale.x(start_ns), float(scale.x(window.end_ns)) - float(scale.x(start_ns))
            before = first[index].parts[modality].state
            after = window.parts[modality].state
            text = f"window {index}, {modality}: {_why(first[index], modality)}"
            if window is not first[index]:
                text += f"; then {window.status}: {_why(window, modality)}"
            half = (ROW - 3) / 2
            yield (
                f'<g stroke="{FAINT}" stroke-width="0.3"><title>{escape(text)}</title>'
                f'<rect x="{x}" y="{top + 1}" width="{width:.1f}" height="{ROW - 3}" '
                f'fill="{STATE_COLOURS[before]}"/>'
                + (
                    f'<rect x="{x}" y="{top + 1 + half}" width="{width:.1f}" height="{half}" '
                    f'fill="{STATE_COLOURS[after]}"/>'
                    if after is not before
                    else ""
                )
                + "</g>"
            )


def _why(window: Window, modality: Modality) -> str:
    part = window.parts[modality]
    return part.state.value if part.reason is None else f"{part.state} ({part.reason})"


def _delays(trace: Trace, scale: _Scale, y: int) -> Iterator[str]:
    """A pin for each output, at the window's end, as high as the time until it was given."""
    shown = [window for window in trace.windows if scale.shows(window.end_ns, window.end_ns)]
    spec = trace.spec
    longest_ns = max((window.emitted_ns - window.end_ns for window in shown), default=0)
    ceiling_ns = max(longest_ns, spec.deadline_ns, 1)
    bottom = y + DELAYS - 6
    yield from _label(y + 12, "given after", "window's end → out")

    def height(delay_ns: int) -> str:
        return f"{bottom - delay_ns / ceiling_ns * (DELAYS - 14):.1f}"

    levels = [(0, "0"), (spec.deadline_ns, f"deadline {spec.deadline_ns / 1e6:g} ms")]
    if ceiling_ns > 1.5 * spec.deadline_ns:
        levels.append((ceiling_ns, f"{ceiling_ns / 1e6:.0f} ms"))
    for level_ns, name in levels:
        level = height(level_ns)
        yield f'<path d="M{LEFT} {level}H{WIDTH - RIGHT}" stroke="{RULE}"/>'
        yield (
            f'<text x="{LEFT - 6}" y="{float(level) + 4:.1f}" text-anchor="end" font-size="10" '
            f'fill="{FAINT}">{name}</text>'
        )
    for window in shown:
        x, pin = scale.x(window.end_ns), height(window.emitted_ns - window.end_ns)
        text = (
            f"window {window.index}, revision {window.revision}, {window.status}: "
            f"{(window.emitted_ns - window.end_ns) / 1e6:.1f} ms after its end"
        )
        yield (
            f'<g><title>{escape(text)}</title><path d="M{x} {bottom}V{pin}" stroke="{INK}" '
            f'stroke-opacity="0.35"/><circle cx="{x}" cy="{pin}" r="3.2" stroke="{INK}" '
            f'fill="{STATUS_COLOURS[window.status]}"/></g>'
        )


def _legend(y: int) -> Iterator[str]:
    x = float(LEFT)
    for state, colour in STATE_COLOURS.items():
        yield (
            f'<rect x="{x:.0f}" y="{y}" width="14" height="11" fill="{colour}" '
            f'stroke="{FAINT}" stroke-width="0.5"/>'
            f'<text x="{x + 19:.0f}" y="{y + 10}">{state.value}</text>'
        )
        x += 34 + 7 * len(state.value)
    x += 30
    for status, colour in STATUS_COLOURS.items():
        yield (
            f'<circle cx="{x + 6:.0f}" cy="{y + 6}" r="4" fill="{colour}" stroke="{INK}"/>'
            f'<text x="{x + 16:.0f}" y="{y + 10}">{status.value}</text>'
        )
        x += 36 + 7 * len(status.value)
