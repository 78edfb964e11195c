// What each modality gave: a card with its state, coverage, age and what it speaks for, and its
// states over the last minute.

import {
  addedFigure, duration, percent, signed, speaksFor, stateSpans, timeScale,
} from "./chart.js";
import { el, newId, setText, svg } from "./dom.js";
import { axis, hatch } from "./heads.js";
import { SPAN_MS, gapLimit } from "./history.js";
import { slots } from "./palette.js";

const NAMES = { video: "Camera", audio: "Microphone", chat: "Chat" };
const LANE = 14;
const NAME_WIDTH = 84;

// Height of a state's bar: how much of it there was, so that colour is not needed to tell.
const SHARE = { present: 1, partial: 0.6, late: 0.6, idle: 0.3, silent: 0.3, stalled: 0, missing: 0 };

export class ModalityCards {
  #list;
  #cards = new Map();

  constructor(list) {
    this.#list = list;
  }

  draw(document) {
    for (const [name, report] of Object.entries(document.modalities)) {
      if (!this.#cards.has(name)) this.#add(name);
      this.#fill(this.#cards.get(name), document, name);
    }
  }

  #add(name) {
    const card = {
      state: el("span", { class: "state" }),
      reason: el("p", { class: "reason" }),
      coverage: el("dd"),
      age: el("dd"),
      says: el("ul", { class: "says" }),
      spoken: "",
    };
    this.#cards.set(name, card);
    this.#list.append(el("li", { class: "modality" },
      el("div", { class: "bar-line" }, el("h4", {}, NAMES[name] ?? name), card.state),
      card.reason,
      el("dl", { class: "pair" }, el("div", {}, el("dt", {}, "Coverage"), card.coverage),
        el("div", {}, el("dt", {}, "Age"), card.age)),
      el("p", { class: "speaks" }, "Speaks for"), card.says));
  }

  #fill(card, document, name) {
    const report = document.modalities[name];
    setText(card.state, report.state);
    card.state.dataset.state = report.state;
    setText(card.reason, report.reason ?? "");
    setText(card.coverage, percent(report.coverage ?? 0));
    setText(card.age, report.age_ns === null ? "–" : duration(report.age_ns / 1e6));
    const said = speaksFor(document, report);
    const added = Object.entries(document.numbers ?? {})
      .map(([number, { contributions, range }]) => [number, contributions[name] ?? 0, range])
      .filter(([, value]) => value !== 0);
    const spoken = JSON.stringify([report.contributions, added]);
    if (spoken === card.spoken) return;
    card.spoken = spoken;
    const items = [
      ...said.map((one) => this.#say(one, document, report)),
      ...added.map(([number, value, range]) => el("li", {}, el("span", { class: "soft" },
        `${number} `), addedFigure(value, range))),
    ];
    card.says.replaceChildren(
      ...(items.length === 0 ? [el("li", { class: "soft" }, "nothing")] : items));
  }

  #say({ head, label, value }, document, report) {
    const { labels } = document.heads[head];
    const most = Math.max(1, ...Object.values(document.modalities).flatMap((other) =>
      (other.contributions?.[head] ?? []).map(Math.abs)));
    return el("li", {}, el("span", { class: "soft" }, `${head} `),
      el("strong", {}, label), ` ${signed(value)}`,
      pushes(report.contributions[head], slots(labels), most));
  }
}

/** Bars up and down from a line, one for each label: what is added to it, or taken away. */
function pushes(values, colours, most) {
  const height = 22;
  const middle = height / 2;
  const bars = values.map((value, i) => {
    const tall = (Math.abs(value) / most) * (middle - 1);
    return svg("rect", { x: i * 8, width: 6, height: tall, y: value > 0 ? middle - tall : middle,
      class: `s${colours[i]}` });
  });
  const width = values.length * 8;
  return svg("svg", { class: "pushes", width, height, viewBox: `0 0 ${width} ${height}`,
    "aria-hidden": "true" }, ...bars,
  svg("line", { x1: 0, x2: width, y1: middle, y2: middle, class: "base" }));
}

export class StateLanes {
  #box;
  #figure;
  #lanes = new Map();
  #axis = svg("g");
  #hatchId = newId("hatch");
  #width = 0;

  constructor(box) {
    this.#box = box;
    this.#figure = svg("svg", { class: "chart", role: "img" },
      svg("defs", {}, hatch(this.#hatchId)), this.#axis);
    box.append(this.#figure);
  }

  draw(history, now) {
    const full = this.#box.clientWidth;
    const document = history.document;
    if (full <= 0 || !document) return;
    const names = Object.keys(document.modalities);
    const width = Math.max(40, full - NAME_WIDTH);
    this.#layOut(full, width, names);
    const hopMs = history.hopMs;
    const gapMs = gapLimit(hopMs);
    const points = history.between(now - SPAN_MS, now + 1_000);
    const x = timeScale(now - SPAN_MS, now, width);
    for (const name of names) {
      const spans = stateSpans(points, name, { hopMs, gapMs });
      this.#lanes.get(name).replaceChildren(...spans.map((span) => this.#bar(span, x, width)));
    }
    this.#figure.setAttribute("aria-label", laneText(points, names));
  }

  #bar({ state, from, to }, x, width) {
    const share = SHARE[state] ?? 0;
    const left = Math.max(0, x(from));
    const tall = share === 0 ? LANE : LANE * share;
    return svg("rect", { x: NAME_WIDTH + left, width: Math.max(0, Math.min(width, x(to)) - left),
      y: LANE - tall, height: tall, class: `lane ${state}`,
      fill: share === 0 ? `url(#${this.#hatchId})` : null });
  }

  #layOut(full, width, names) {
    if (full === this.#width && names.length === this.#lanes.size) return;
    this.#width = full;
    const height = names.length * (LANE + 8) + 20;
    this.#figure.setAttribute("width", full);
    this.#figure.setAttribute("height", height);
    this.#figure.setAttribute("viewBox", `0 0 ${full} ${height}`);
    this.#figure.querySelectorAll(".lane-group").forEach((group) => group.remove());
    names.forEach((name, row) => {
      const spans = svg("g");
      this.#lanes.set(name, spans);
      this.#figure.append(svg("g", { class: "lane-group", transform: `translate(0 ${row * (LANE + 8)})` },
        svg("text", { x: 0, y: LANE - 3, class: "place" }, NAMES[name] ?? name), spans,
        svg("line", { x1: NAME_WIDTH, x2: full, y1: LANE + 0.5, y2: LANE + 0.5, class: "base" })));
    });
    this.#axis.setAttribute("transform", `translate(${NAME_WIDTH} 0)`);
    this.#axis.replaceChildren(...axis(width, height - 5));
  }
}

/** The lanes in words: how much of the minute each modality was in which state. */
export function laneText(points, names) {
  if (points.length === 0) return "States: nothing in the last 60 seconds.";
  const parts = names.map((name) => {
    const counts = new Map();
    for (const point of points) {
      counts.set(point.states[name], (counts.get(point.states[name]) ?? 0) + 1);
    }
    const said = [...counts].sort((a, b) => b[1] - a[1])
      .map(([state, count]) => `${state} ${percent(count / points.length)}`);
    return `${NAMES[name] ?? name} ${said.join(", ")}`;
  });
  return `States in the last 60 seconds: ${parts.join("; ")}.`;
}
