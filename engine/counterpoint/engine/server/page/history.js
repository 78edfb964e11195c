// What was said about one stream of predictions (the session or a participant): the last minute
// for the charts, and what was lost since joining. Pure: times are milliseconds of the engine's
// wall clock.

export const SPAN_MS = 60_000;
const KEPT_MS = 75_000;
const SAME_WINDOW_MS = 1_000; // a session that began anew counts its windows from 1 again

/** Points further apart than this have a gap between them. */
export function gapLimit(hopMs) {
  return Math.max(3 * hopMs, 1_000);
}

export class History {
  #points = [];
  #newest = null;
  skipped = 0;
  revised = 0;
  dropped = new Map();

  /** Takes a document. Returns whether it is the newest window there is. */
  add(document) {
    this.skipped += document.skipped_windows ?? 0;
    for (const [reason, count] of Object.entries(document.dropped ?? {})) {
      this.dropped.set(reason, (this.dropped.get(reason) ?? 0) + count);
    }
    const point = toPoint(document);
    const known = this.#points.findIndex((one) => sameWindow(one, point));
    if (known >= 0) {
      this.revised += 1;
      if (point.revision < this.#points[known].revision) return false;
      this.#points[known] = point;
    } else {
      this.#insert(point);
    }
    // What is shown goes on from window to window, never back.
    if (this.#newest !== null && point.t < this.#newest.t) return false;
    this.#newest = point;
    return true;
  }

  #insert(point) {
    let at = this.#points.length;
    while (at > 0 && this.#points[at - 1].t > point.t) at -= 1;
    this.#points.splice(at, 0, point);
    const oldest = this.#points[this.#points.length - 1].t - KEPT_MS;
    while (this.#points[0].t < oldest) this.#points.shift();
  }

  /** The newest window's document, or null. */
  get document() {
    return this.#newest?.document ?? null;
  }

  /** Points with `from < t <= to`, oldest first. */
  between(from, to) {
    return this.#points.filter((point) => point.t > from && point.t <= to);
  }

  /** Time from window to window, ms: the shortest seen. */
  get hopMs() {
    let hop = Infinity;
    for (let i = 1; i < this.#points.length; i += 1) {
      const step = this.#points[i].t - this.#points[i - 1].t;
      if (step >= 20 && step < hop) hop = step;
    }
    return Number.isFinite(hop) ? hop : 250;
  }
}

function toPoint(document) {
  return {
    t: Date.parse(document.end_wall),
    epoch: document.epoch,
    window: document.window,
    revision: document.revision ?? 0,
    heads: Object.fromEntries(
      Object.entries(document.heads).map(([name, head]) => [name, head.probabilities])),
    numbers: Object.fromEntries(
      Object.entries(document.numbers ?? {}).map(([name, number]) => [name, number.value])),
    states: Object.fromEntries(
      Object.entries(document.modalities).map(([name, report]) => [name, report.state])),
    document,
  };
}

function sameWindow(one, other) {
  return one.epoch === other.epoch && one.window === other.window
    && Math.abs(one.t - other.t) < SAME_WINDOW_MS;
}

/** Runs of points without a gap between them. */
export function runs(points, gapMs) {
  const found = [];
  for (const point of points) {
    const last = found.at(-1);
    if (last && point.t - last.at(-1).t <= gapMs) last.push(point);
    else found.push([point]);
  }
  return found;
}
