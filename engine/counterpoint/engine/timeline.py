"""What happened on a timeline: arrivals, clocks, bounds and windows; no model is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from counterpoint.engine.align import Aligner, AlignSpec, Window
from counterpoint.engine.placing import Placing
from counterpoint.streams.types import (
    AudioChunk,
    Bound,
    ClockUpdate,
    Item,
    Modality,
    Source,
    SourceEnded,
    modality_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One sample: media time ``[t_ns, end_ns)`` (equal for a frame or a line), arrived when."""

    t_ns: int
    end_ns: int
    arrived_ns: int


@dataclass(slots=True, kw_only=True)
class Track:
    """What one source did.

    Fields:
        source: its name.
        arrivals: its samples, in order of arrival.
        bounds: (session time, bound) whenever the bound had moved; nothing earlier was expected
            from then on.
        clocks: what was said of its clock, with the arrival.
        ended: its end, if it had one.
    """

    source: str
    arrivals: list[Arrival] = field(default_factory=list)
    bounds: list[tuple[int, int]] = field(default_factory=list)
    clocks: list[tuple[int, ClockUpdate]] = field(default_factory=list)
    ended: SourceEnded | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A session as its aligner saw it.

    Fields:
        spec: the aligner's terms.
        tracks: for each modality with a source.
        windows: every output of every window, in order.
        end_ns: session time at which it was over.
    """

    spec: AlignSpec
    tracks: Mapping[Modality, Track]
    windows: list[Window]
    end_ns: int


def trace(
    arrivals: Iterable[tuple[int, Item]],
    spec: AlignSpec,
    sources: Mapping[Modality, str],
    *,
    until_ns: int | None = None,
    end_ns: int = 0,
) -> Trace:
    """Drive the real aligner with recorded arrivals, as a session would.

    Args:
        arrivals: (session time, item), in order.
        sources: the name that items of each modality carry.
        until_ns: windows that end later are left out, and what arrives later than the deadline and
            the lateness of the last one.
        end_ns: the session lasts at least so long; else up to the last end of a source.
    """
    aligner = Aligner(spec, sources)
    placing = Placing(spec.audio_rate_hz)
    tracks = {
        modality: Track(source=sources[modality]) for modality in Modality if modality in sources
    }
    windows: list[Window] = []
    last_ns = None if until_ns is None else until_ns + spec.deadline_ns + spec.lateness_ns
    for arrived_ns, item in arrivals:
        if last_ns is not None and arrived_ns > last_ns:
            break
        windows += _windows(aligner.advance(arrived_ns - 1))
        for placed in placing.place(item):
            aligner.push(placed, arrived_ns)
        _note(tracks[modality_of(item)], item, arrived_ns)
        for modality, bound_ns in aligner.bounds().items():
            known = tracks[modality].bounds
            if not known or known[-1][1] != bound_ns:
                known.append((arrived_ns, bound_ns))
        end_ns = max(end_ns, item.t_ns) if isinstance(item, SourceEnded) else end_ns
    if until_ns is not None and last_ns is not None:
        end_ns = max(end_ns, until_ns)
        windows += _windows(aligner.advance(last_ns))
        windows = [window for window in windows if window.end_ns <= until_ns]
    else:
        windows += _windows(aligner.finish(end_ns))
    return Trace(spec=spec, tracks=tracks, windows=windows, end_ns=end_ns)


def released(source: Source) -> Iterator[tuple[int, Item]]:
    """All items of a recording with their release instants; closes the source at the end."""
    try:
        step = source.step(0)
        yield from step.items
        while step.next_wake_ns is not None:
            step = source.step(step.next_wake_ns)
            yield from step.items
    finally:
        source.close()


def _windows(outputs: Iterable[object]) -> list[Window]:
    return [output for output in outputs if isinstance(output, Window)]


def _note(track: Track, item: Item, arrived_ns: int) -> None:
    if isinstance(item, ClockUpdate):
        track.clocks.append((arrived_ns, item))
    elif isinstance(item, SourceEnded):
        track.ended = item
    elif not isinstance(item, Bound):
        end_ns = item.end_ns if isinstance(item, AudioChunk) else item.t_ns
        track.arrivals.append(Arrival(t_ns=item.t_ns, end_ns=end_ns, arrived_ns=arrived_ns))
