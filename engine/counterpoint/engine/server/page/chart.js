// Geometry and words of the charts. Pure: numbers and points in, path data and text out.

import { runs } from "./history.js";

const round = (value) => Math.round(value * 10) / 10;

/** Maps times to x: `from` to 0, `to` to `width`. */
export function timeScale(from, to, width) {
  return (t) => ((t - from) / (to - from)) * width;
}

/**
 * Stacked bands, one path for each label; probabilities sum to 1 and fill the height. A point
 * stands for the hop before it, so the first of a run begins one hop early.
 */
export function bandPaths(points, head, count, { x, height, hopMs, gapMs }) {
  const paths = Array.from({ length: count }, () => []);
  for (const run of runs(points.filter((p) => p.heads[head]?.length === count), gapMs)) {
    const first = { ...run[0], t: run[0].t - hopMs };
    const all = [first, ...run];
    let below = all.map(() => 0);
    for (let label = 0; label < count; label += 1) {
      const above = all.map((p, i) => below[i] + p.heads[head][label]);
      const y = (share) => round(height * (1 - Math.min(1, share)));
      const top = all.map((p, i) => `${round(Math.max(0, x(p.t)))} ${y(above[i])}`);
      const bottom = all.map((p, i) => `${round(Math.max(0, x(p.t)))} ${y(below[i])}`).reverse();
      paths[label].push(`M${top.join("L")}L${bottom.join("L")}Z`);
      below = above;
    }
  }
  return paths.map((parts) => parts.join(""));
}

/** Where nothing was said, once something had been: spans of time, the open one at the end too. */
export function gaps(points, { hopMs, gapMs, to }) {
  const parts = runs(points, gapMs);
  const found = [];
  for (let i = 1; i < parts.length; i += 1) {
    found.push({ from: parts[i - 1].at(-1).t, to: parts[i][0].t - hopMs });
  }
  const last = points.at(-1);
  if (last && to - last.t > gapMs) found.push({ from: last.t, to });
  return found;
}

/**
 * Where the labels stand beside the newest point: those with a share of `least` or more, at the
 * middle of their band, moved apart so that none covers another.
 */
export function labelPlaces(shares, { height, line, least = 0.06 }) {
  let below = 0;
  const places = [];
  shares.forEach((share, index) => {
    if (share >= least) places.push({ index, y: height * (1 - below - share / 2) });
    below += share;
  });
  places.sort((a, b) => a.y - b.y);
  for (let i = 0; i < places.length; i += 1) {
    const least_y = i === 0 ? line / 2 : places[i - 1].y + line;
    places[i].y = Math.max(places[i].y, least_y);
  }
  for (let i = places.length - 1; i >= 0; i -= 1) {
    const most_y = i === places.length - 1 ? height - line / 2 : places[i + 1].y - line;
    places[i].y = Math.min(places[i].y, most_y);
  }
  return places;
}

/** Spans of one state of a modality: `[{state, from, to}]`, gaps left out. */
export function stateSpans(points, modality, { hopMs, gapMs }) {
  const found = [];
  for (const run of runs(points, gapMs)) {
    let open = null;
    for (const point of run) {
      const state = point.states[modality];
      if (open && open.state === state) {
        open.to = point.t;
      } else {
        open = { state, from: point.t - hopMs, to: point.t };
        found.push(open);
      }
    }
  }
  return found;
}

/** 0.963 -> "96 %". */
export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/** Index of the greatest; the first of equals. */
export function greatest(values) {
  return values.reduce((best, value, index) => (value > values[best] ? index : best), 0);
}

/** What a chart shows, in words. */
export function chartText(head, labels, points) {
  const known = points.filter((p) => p.heads[head]?.length === labels.length);
  if (known.length === 0) return `${head}: nothing in the last 60 seconds.`;
  const now = known.at(-1).heads[head];
  const top = greatest(now);
  const parts = [`${head}, last 60 seconds: now ${labels[top]} ${percent(now[top])}.`];
  const tops = known.map((p) => greatest(p.heads[head]));
  const held = labels
    .map((label, i) => ({ label, share: tops.filter((t) => t === i).length / tops.length }))
    .filter(({ share }) => share > 0)
    .sort((a, b) => b.share - a.share)
    .map(({ label, share }) => `${label} ${percent(share)} of the time`);
  parts.push(`Most probable: ${held.join(", ")}.`);
  return parts.join(" ");
}

/** Rows for the table beside a chart: the newest point at or before each step back. */
export function tableRows(points, head, count, { to, stepMs = 5_000, spanMs = 60_000 }) {
  const known = points.filter((p) => p.heads[head]?.length === count);
  const rows = [];
  for (let back = 0; back < spanMs; back += stepMs) {
    const until = to - back;
    const point = known.findLast((p) => p.t <= until && p.t > until - stepMs);
    rows.push({ secondsAgo: back / 1_000, shares: point ? point.heads[head] : null });
  }
  return rows;
}

/** For each head the label a modality pushes hardest: `[{head, label, value}]`. */
export function speaksFor(document, report) {
  const said = [];
  for (const [head, values] of Object.entries(report.contributions ?? {})) {
    const labels = document.heads[head]?.labels;
    if (!labels || !values.some((value) => value !== 0)) continue;
    const best = greatest(values);
    said.push({ head, label: labels[best], value: values[best] });
  }
  return said;
}

/** A number with the digits that its range is worth telling: about a hundredth of it. */
export function figure(value, [low, high]) {
  const digits = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(high - low))));
  return value.toFixed(digits).replace("-", "−");
}

/** What is added to a number, with its sign. */
export function addedFigure(value, range) {
  return `${value > 0 ? "+" : ""}${figure(value, range)}`;
}

/** A line for each run of points; a point stands for the hop before it, like a band. */
export function linePath(points, name, [low, high], { x, height, hopMs, gapMs }) {
  const y = (value) =>
    round(height * (1 - Math.min(1, Math.max(0, (value - low) / (high - low)))));
  const known = points.filter((p) => Number.isFinite(p.numbers[name]));
  return runs(known, gapMs).map((run) => {
    const all = [{ ...run[0], t: run[0].t - hopMs }, ...run];
    return `M${all.map((p) => `${round(Math.max(0, x(p.t)))} ${y(p.numbers[name])}`).join("L")}`;
  }).join("");
}

/** What a number's chart shows, in words. */
export function numberText(name, range, points) {
  const known = points.map((p) => p.numbers[name]).filter(Number.isFinite);
  if (known.length === 0) return `${name}: nothing in the last 60 seconds.`;
  const say = (value) => figure(value, range);
  return `${name}, last 60 seconds: now ${say(known.at(-1))}, between `
    + `${say(Math.min(...known))} and ${say(Math.max(...known))}.`;
}

/** +3.1, −0.4 with a true minus. */
export function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}

/** Milliseconds as people read them. */
export function duration(ms) {
  if (ms >= 10_000) return `${Math.round(ms / 1_000)} s`;
  if (ms >= 1_000) return `${(ms / 1_000).toFixed(1)} s`;
  return `${Math.round(ms)} ms`;
}
