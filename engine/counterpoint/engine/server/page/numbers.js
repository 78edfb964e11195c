// One task whose answer is a number: its course over the last minute, the newest value, and what
// each modality adds to it.

import { addedFigure, figure, gaps, linePath, numberText, timeScale } from "./chart.js";
import { el, newId, setText, svg } from "./dom.js";
import { axis, gapRects, hatch } from "./heads.js";
import { SPAN_MS, gapLimit } from "./history.js";

const HEIGHT = 90;
const AXIS = 20;

export class NumberPanel {
  #name;
  #range;
  #figure;
  #line = svg("path", { class: "line" });
  #gaps = svg("g", { class: "gaps" });
  #axis = svg("g");
  #frame = svg("g", { class: "frame" });
  #value = el("strong", { class: "number" }, "–");
  #parts = el("tbody");
  #hatchId = newId("hatch");
  #width = 0;
  #drawn = null; // charts go on where nothing new is said; words need not

  constructor(name, range) {
    this.#name = name;
    this.#range = range;
    this.element = this.#build();
  }

  get range() {
    return this.#range;
  }

  #build() {
    const titleId = newId("number");
    this.#figure = svg("svg", { class: "chart", role: "img", height: HEIGHT + AXIS },
      svg("defs", {}, hatch(this.#hatchId)), this.#frame, this.#line, this.#gaps, this.#axis);
    const [low, high] = this.#range.map((edge) => figure(edge, this.#range));
    return el("article", { class: "card head", "aria-labelledby": titleId },
      el("div", { class: "bar-line" }, el("h3", { id: titleId }, this.#name), this.#value),
      el("p", { class: "soft" }, `The models learned from values between ${low} and ${high}.`),
      el("div", { class: "head-body" },
        el("div", { class: "chart-box" }, this.#figure),
        el("table", { class: "bars" },
          el("caption", { class: "unseen" }, `What each modality adds to ${this.#name}`),
          this.#parts)));
  }

  /** Draws a history up to `now` (engine's wall clock, ms). */
  draw(history, now) {
    const points = history.between(now - SPAN_MS - 2_000, now + 1_000);
    this.#drawChart(points, history.hopMs, now);
    const number = history.document?.numbers?.[this.#name];
    if (!number || number === this.#drawn) return;
    this.#drawn = number;
    setText(this.#value, figure(number.value, this.#range));
    this.#parts.replaceChildren(...Object.entries(number.contributions).map(([modality, added]) =>
      el("tr", {}, el("th", { scope: "row" }, modality),
        el("td", { class: "value" }, addedFigure(added, this.#range)))));
  }

  #drawChart(points, hopMs, now) {
    const width = this.#figure.parentElement.clientWidth;
    if (width <= 0) return;
    if (width !== this.#width) {
      this.#width = width;
      this.#figure.setAttribute("width", width);
      this.#figure.setAttribute("viewBox", `0 0 ${width} ${HEIGHT + AXIS}`);
      this.#axis.replaceChildren(...axis(width, HEIGHT + 15));
      this.#frame.replaceChildren(...[0, 0.5, 1].map((share) => svg("line", { x1: 0, x2: width,
        y1: HEIGHT * share + 0.5, y2: HEIGHT * share + 0.5, class: share === 1 ? "base" : "grid" })));
    }
    const at = timeScale(now - SPAN_MS, now, width);
    const x = (t) => Math.min(width, at(t));
    const gapMs = gapLimit(hopMs);
    this.#line.setAttribute("d",
      linePath(points, this.#name, this.#range, { x, height: HEIGHT, hopMs, gapMs }));
    this.#gaps.replaceChildren(...gapRects(gaps(points, { hopMs, gapMs, to: now }),
      { x, height: HEIGHT, hatchId: this.#hatchId }));
    this.#figure.setAttribute("aria-label", numberText(this.#name, this.#range, points));
  }
}
