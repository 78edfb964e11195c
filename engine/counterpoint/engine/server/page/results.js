// All predictions of a connection and what is shown of them.

import { chosenStream } from "./streams.js";
import { duration, figure, greatest } from "./chart.js";
import { byId, el, setText, show } from "./dom.js";
import { HeadPanel } from "./heads.js";
import { ModalityCards, StateLanes } from "./heard.js";
import { History } from "./history.js";
import { NumberPanel } from "./numbers.js";
import { Latency, Seldom } from "./protocol.js";
import { dropReason, tierWords } from "./words.js";

const TICK_MS = 500; // charts go on even where nothing comes

export class Results {
  #clock;
  #streams = new Map();
  #selected = null;
  #panels = new Map();
  #cards;
  #lanes;
  #latency = new Latency();
  #seldom = new Seldom();
  #fresh = null;
  #pending = null;
  #ticking = null;
  #facts = new Map();
  #reconnects = 0;

  /** `clock()` gives the page's time in ms and the offset of the engine's to it (null: unknown). */
  constructor(clock) {
    this.#clock = clock;
    this.#cards = new ModalityCards(byId("modalities"));
    this.#lanes = new StateLanes(byId("lanes"));
    byId("whom").addEventListener("change", (event) => this.#choose(event.target.value));
    new ResizeObserver(() => this.#schedule()).observe(byId("results"));
  }

  /** Starts with nothing shown. */
  start() {
    this.#streams.clear();
    this.#selected = null;
    this.#latency.clear();
    this.#panels.clear();
    byId("heads").replaceChildren();
    for (const id of ["heard", "timing", "whom-field"]) show(byId(id), false);
    show(byId("waiting"), true);
    this.#ticking ??= setInterval(() => this.#schedule(), TICK_MS);
  }

  stop() {
    clearInterval(this.#ticking);
    this.#ticking = null;
    cancelAnimationFrame(this.#pending);
    this.#pending = null;
  }

  /** How often the connection had to be made again. */
  set reconnects(count) {
    this.#reconnects = count;
    this.#schedule();
  }

  /** The heads and numbers the engine speaks about, before it says anything of them. */
  hello(heads, numbers = {}) {
    for (const [name, labels] of Object.entries(heads)) this.#panel(name, labels);
    for (const [name, range] of Object.entries(numbers)) this.#numberPanel(name, range);
  }

  /** One prediction, of a participant or (null) of the session. */
  prediction(participant, document) {
    const known = this.#streams.has(participant);
    if (!known) this.#streams.set(participant, new History());
    const newest = this.#streams.get(participant).add(document);
    if (!known) this.#offer();
    if (this.#streams.get(participant) !== this.#shown) return;
    if (newest) this.#fresh = document;
    this.#schedule();
  }

  get #shown() {
    return this.#streams.get(chosenStream([...this.#streams.keys()], this.#selected));
  }

  #offer() {
    const names = [...this.#streams.keys()].filter((name) => name !== null).sort();
    const select = byId("whom");
    const options = names.map((name) => new Option(name, `of ${name}`));
    if (this.#streams.has(null)) options.unshift(new Option("Everyone together", "all"));
    select.replaceChildren(...options);
    const chosen = chosenStream([...this.#streams.keys()], this.#selected);
    select.value = chosen === null ? "all" : `of ${chosen}`;
    show(byId("whom-field"), names.length > 1);
  }

  #choose(value) {
    this.#selected = value === "all" ? null : value.slice("of ".length);
    this.#latency.clear();
    this.#fresh = null;
    this.#schedule();
  }

  #panel(name, labels) {
    const known = this.#panels.get(name);
    if (known?.labels?.join("\n") === labels.join("\n")) return;
    this.#put(name, new HeadPanel(name, labels));
  }

  #numberPanel(name, range) {
    const known = this.#panels.get(name);
    if (known?.range?.join() === range.join()) return;
    this.#put(name, new NumberPanel(name, range));
  }

  /** Shows a panel, in the place of the one of that name where there is one. */
  #put(name, panel) {
    const known = this.#panels.get(name);
    if (known) known.element.replaceWith(panel.element);
    else byId("heads").append(panel.element);
    this.#panels.set(name, panel);
  }

  #schedule() {
    if (this.#ticking === null) return;
    this.#pending ??= requestAnimationFrame(() => {
      this.#pending = null;
      this.#draw();
    });
  }

  #draw() {
    const history = this.#shown;
    const document = history?.document;
    if (!document) return;
    show(byId("waiting"), false);
    for (const id of ["heard", "timing"]) show(byId(id), true);
    const { pageMs, offsetMs } = this.#clock();
    const newest = Date.parse(document.end_wall);
    const now = Math.max(newest, offsetMs === null ? newest : pageMs + offsetMs);
    for (const [name, head] of Object.entries(document.heads)) this.#panel(name, head.labels);
    for (const [name, number] of Object.entries(document.numbers ?? {})) {
      this.#numberPanel(name, number.range);
    }
    for (const panel of this.#panels.values()) panel.draw(history, now);
    this.#cards.draw(document);
    this.#lanes.draw(history, now);
    if (this.#fresh !== null) {
      this.#latency.add(this.#fresh, offsetMs === null ? null : this.#clock().pageMs + offsetMs);
      this.#fresh = null;
    }
    this.#drawFacts(history, document);
    this.#announce(document);
  }

  #drawFacts(history, document) {
    const { engine, network, total } = this.#latency.figures;
    const { roundTripMs } = this.#clock();
    const dropped = [...history.dropped].map(([reason, count]) => `${dropReason(reason)} ${count}`);
    const parts = [];
    if (engine !== null) parts.push(`engine ${duration(engine)}`);
    if (network !== null) parts.push(`network and page ${duration(network)}`);
    if (roundTripMs !== null) parts.push(`round trip ${duration(roundTripMs)}`);
    this.#fact("Window end → shown", total === null ? "–" : duration(total), parts.join(", "));
    this.#fact("Window", String(document.window),
      `ends at ${(document.end_ns / 1e9).toFixed(2)} s, ${document.status}`);
    this.#fact("Alignment", `±${millis(document.align_error_ms)} ms`,
      tierWords(document.align_tier));
    this.#fact("Skipped windows", String(history.skipped),
      history.revised > 0 ? `${history.revised} given again with late data` : "");
    this.#fact("Dropped", dropped.length === 0 ? "none" : dropped.join(", "), "");
    this.#fact("Connections", String(this.#reconnects + 1),
      this.#reconnects === 0 ? "never lost" : `lost ${this.#reconnects} time${this.#reconnects === 1 ? "" : "s"}`);
    this.#fact("Models", document.bundle.id, Number.isFinite(document.stages_ms?.models)
      ? `${document.stages_ms.models.toFixed(1)} ms a window` : "");
  }

  #fact(name, value, detail) {
    if (!this.#facts.has(name)) {
      const fact = { value: el("dd"), detail: el("dd", { class: "soft" }) };
      this.#facts.set(name, fact);
      byId("facts").append(el("div", {}, el("dt", {}, name), fact.value, fact.detail));
    }
    setText(this.#facts.get(name).value, value);
    setText(this.#facts.get(name).detail, detail);
  }

  #announce(document) {
    if (!byId("announce").checked) return;
    const text = [
      ...Object.entries(document.heads)
        .map(([name, head]) => `${name} ${head.labels[greatest(head.probabilities)]}`),
      ...Object.entries(document.numbers ?? {})
        .map(([name, { value, range }]) => `${name} ${figure(value, range)}`),
    ].join(", ");
    const said = this.#seldom.say(text, this.#clock().pageMs);
    if (said !== null) setText(byId("aloud"), said);
  }
}

/** Milliseconds to two digits, or whole ones. */
function millis(value) {
  return value >= 10 ? String(Math.round(value)) : value.toFixed(value < 1 ? 2 : 1);
}
