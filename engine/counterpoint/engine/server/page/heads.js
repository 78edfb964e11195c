// One head: its chart over the last minute, bars of the newest window, and both as a table.

import {
  bandPaths, chartText, gaps, greatest, labelPlaces, percent, signed, tableRows, timeScale,
} from "./chart.js";
import { el, newId, setText, show, svg } from "./dom.js";
import { SPAN_MS, gapLimit } from "./history.js";
import { slots } from "./palette.js";

const HEIGHT = 150;
const AXIS = 20;
const LINE = 15;
const TABLE_EVERY_MS = 5_000; // a table that changes under a reader cannot be read

/** Diagonal strokes for times without data; a pattern of its own for each chart. */
export function hatch(id) {
  return svg("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse",
    patternTransform: "rotate(45)" }, svg("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "hatch" }));
}

/** Ticks every 15 seconds, or every 30 where there is less room, as children of a group. */
export function axis(width, y) {
  return (width < 280 ? [60, 30, 0] : [60, 45, 30, 15, 0]).map((back) => svg("text", {
    x: width * (1 - back / 60), y, class: "tick",
    "text-anchor": back === 60 ? "start" : back === 0 ? "end" : "middle",
  }, back === 0 ? "now" : `−${back} s`));
}

/** Spans without data, as children of a group. */
export function gapRects(spans, { x, height, hatchId }) {
  return spans.map(({ from, to }) => svg("rect", { x: Math.max(0, x(from)), y: 0, height,
    fill: `url(#${hatchId})`, width: Math.max(0, x(to) - Math.max(0, x(from))) }));
}

export class HeadPanel {
  #name;
  #labels;
  #slots;
  #figure;
  #bands;
  #gaps;
  #places;
  #axis;
  #bars;
  #toggle;
  #tables;
  #hatchId = newId("hatch");
  #tableAt = -Infinity;
  #width = 0;

  constructor(name, labels) {
    this.#name = name;
    this.#labels = labels;
    this.#slots = slots(labels);
    this.element = this.#build();
  }

  get labels() {
    return this.#labels;
  }

  #build() {
    const titleId = newId("head");
    this.#bands = this.#slots.map((slot) => svg("path", { class: `band s${slot}` }));
    this.#gaps = svg("g", { class: "gaps" });
    this.#places = svg("g", { class: "places" });
    this.#axis = svg("g");
    this.#figure = svg("svg", { class: "chart", role: "img", height: HEIGHT + AXIS },
      svg("defs", {}, hatch(this.#hatchId)), ...this.#bands, this.#gaps,
      svg("g", { class: "frame" }), this.#places, this.#axis);
    this.#bars = this.#labels.map((label, i) => this.#bar(label, this.#slots[i]));
    this.#tables = el("div", { class: "tables", id: newId("tables"), hidden: true });
    this.#toggle = el("button", { type: "button", class: "quiet small", "aria-expanded": "false",
      "aria-controls": this.#tables.id, "aria-label": `Show as table: ${this.#name}` }, "Show as table");
    this.#toggle.addEventListener("click", () => this.#flip());
    return el("article", { class: "card head", "aria-labelledby": titleId },
      el("div", { class: "bar-line" }, el("h3", { id: titleId }, this.#name), this.#toggle),
      el("div", { class: "head-body" },
        el("div", { class: "chart-box" }, this.#figure),
        el("table", { class: "bars" },
          el("caption", { class: "unseen" }, `${this.#name} in the newest window`),
          el("tbody", {}, ...this.#bars.map(({ row }) => row)))),
      this.#tables);
  }

  #bar(label, slot) {
    const fill = el("span", { class: `fill s${slot}` });
    const value = el("td", { class: "value" }, "–");
    const row = el("tr", {},
      el("th", { scope: "row" }, el("span", { class: `swatch s${slot}`, "aria-hidden": "true" }), label),
      el("td", { class: "track", "aria-hidden": "true" }, el("span", { class: "groove" }, fill)), value);
    return { row, fill, value };
  }

  #flip() {
    const open = this.#tables.hidden;
    show(this.#tables, open);
    this.#toggle.setAttribute("aria-expanded", String(open));
    const label = open ? "Hide table" : "Show as table";
    setText(this.#toggle, label);
    this.#toggle.setAttribute("aria-label", `${label}: ${this.#name}`);
    this.#tableAt = -Infinity;
    this.#redrawTable?.();
  }

  #redrawTable = null;

  /** Draws a history up to `now` (engine's wall clock, ms). */
  draw(history, now) {
    const points = history.between(now - SPAN_MS - 2_000, now + 1_000);
    const document = history.document;
    this.#drawChart(points, history.hopMs, now);
    const shares = document?.heads[this.#name]?.probabilities ?? null;
    if (shares?.length === this.#labels.length) this.#drawBars(shares);
    this.#redrawTable = () => this.#drawTables(points, document, now);
    if (!this.#tables.hidden && now - this.#tableAt >= TABLE_EVERY_MS) this.#redrawTable();
  }

  #drawChart(points, hopMs, now) {
    const full = this.#figure.parentElement.clientWidth;
    if (full <= 0) return;
    const gutter = Math.min(84, full * 0.28);
    const width = Math.max(40, Math.round(full - gutter));
    if (full !== this.#width) {
      this.#width = full;
      this.#figure.setAttribute("width", full);
      this.#figure.setAttribute("viewBox", `0 0 ${full} ${HEIGHT + AXIS}`);
      this.#axis.replaceChildren(...axis(width, HEIGHT + 15));
      this.#figure.querySelector(".frame").replaceChildren(...frame(width));
    }
    const at = timeScale(now - SPAN_MS, now, width);
    const x = (t) => Math.min(width, at(t));
    const gapMs = gapLimit(hopMs);
    bandPaths(points, this.#name, this.#labels.length, { x, height: HEIGHT, hopMs, gapMs })
      .forEach((path, i) => this.#bands[i].setAttribute("d", path));
    this.#gaps.replaceChildren(...gapRects(gaps(points, { hopMs, gapMs, to: now }),
      { x, height: HEIGHT, hatchId: this.#hatchId }));
    this.#drawPlaces(points.at(-1), width, now - (points.at(-1)?.t ?? 0) <= gapMs);
    const text = chartText(this.#name, this.#labels, points);
    this.#figure.setAttribute("aria-label", text);
  }

  #drawPlaces(point, width, fresh) {
    const shares = point?.heads[this.#name];
    if (!shares || !fresh) {
      this.#places.replaceChildren();
      return;
    }
    const top = greatest(shares);
    const places = labelPlaces(shares, { height: HEIGHT, line: LINE });
    this.#places.replaceChildren(...places.map(({ index, y }) => svg("text", {
      x: width + 8, y: y + 4, class: index === top ? "place most" : "place",
    }, this.#labels[index])));
  }

  #drawBars(shares) {
    const top = greatest(shares);
    shares.forEach((share, i) => {
      const { row, fill, value } = this.#bars[i];
      setText(value, percent(share));
      fill.style.transform = `scaleX(${Math.max(0, Math.min(1, share)).toFixed(3)})`;
      row.classList.toggle("most", i === top);
    });
  }

  #drawTables(points, document, now) {
    this.#tableAt = now;
    const rows = tableRows(points, this.#name, this.#labels.length, { to: now });
    const over = el("table", {}, el("caption", {}, "Over time, newest first"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "When"),
        ...this.#labels.map((label) => el("th", { scope: "col" }, label)))),
      el("tbody", {}, ...rows.map(({ secondsAgo, shares }) => el("tr", {},
        el("th", { scope: "row" }, secondsAgo === 0 ? "now" : `−${secondsAgo} s`),
        ...this.#labels.map((_, i) => el("td", {}, shares ? percent(shares[i]) : "–"))))));
    const parts = [scroll(over, `${this.#name} over time`)];
    if (document) parts.push(scroll(this.#contributions(document), `${this.#name}, contributions`));
    this.#tables.replaceChildren(...parts);
  }

  #contributions(document) {
    const names = Object.keys(document.modalities);
    const value = (name, i) => document.modalities[name].contributions?.[this.#name]?.[i];
    return el("table", {},
      el("caption", {}, "What each modality adds, newest window (logits)"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Label"),
        ...names.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...this.#labels.map((label, i) => el("tr", {},
        el("th", { scope: "row" }, label),
        ...names.map((name) => el("td", {}, Number.isFinite(value(name, i))
          ? signed(value(name, i)) : "–"))))));
  }
}

function frame(width) {
  const lines = [0.25, 0.5, 0.75].map((share) => svg("line", { x1: 0, x2: width,
    y1: HEIGHT * share, y2: HEIGHT * share, class: "grid" }));
  return [...lines, svg("line", { x1: 0, x2: width, y1: HEIGHT + 0.5, y2: HEIGHT + 0.5, class: "base" })];
}

/** A wide table scrolls in a box of its own, which the keyboard can reach. */
function scroll(table, label) {
  return el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": label }, table);
}
