// What is said over the data channel and how the times in it are read. Pure: no DOM, no network.

export const CHANNEL = "counterpoint";

const isText = (value) => typeof value === "string";
const isTexts = (value) => Array.isArray(value) && value.every(isText);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const isRange = (value) => Array.isArray(value) && value.length === 2
  && value.every(Number.isFinite) && value[0] < value[1];
const isNumber = (value) => isObject(value) && Number.isFinite(value.value) && isRange(value.range)
  && isObject(value.contributions) && Object.values(value.contributions).every(Number.isFinite);

const SHAPES = {
  hello: (m) => isText(m.session) && isText(m.participant) && isObject(m.heads)
    && Object.values(m.heads).every(isTexts) && isTexts(m.participants)
    && Object.values(m.numbers ?? {}).every(isRange),
  prediction: (m) => (m.participant === null || isText(m.participant)) && isDocument(m.document),
  chat: (m) => isText(m.author) && isText(m.text),
  participants: (m) => isTexts(m.names),
  notice: (m) => isText(m.text) && ["info", "warning", "error"].includes(m.level),
  pong: (m) => m.id !== undefined && Number.isFinite(m.engine_wall_ms),
  error: (m) => isText(m.reason),
  over: (m) => isText(m.reason),
};

function isDocument(document) {
  return isObject(document) && document.schema_version === 1
    && isObject(document.heads) && Object.values(document.heads).every((head) =>
      isObject(head) && isTexts(head.labels) && Array.isArray(head.probabilities)
      && head.labels.length === head.probabilities.length
      && head.probabilities.every(Number.isFinite))
    && Object.values(document.numbers ?? {}).every(isNumber)
    && isObject(document.modalities) && Object.values(document.modalities).every(isObject)
    && Number.isFinite(Date.parse(document.end_wall))
    && Number.isFinite(Date.parse(document.emitted_wall))
    && Number.isFinite(document.align_error_ms) && Number.isFinite(document.end_ns)
    && isObject(document.bundle) && Number.isInteger(document.window) && Number.isInteger(document.epoch);
}

/** The message in a data channel's text, or null where it is none that this page knows. */
export function parseMessage(data) {
  if (!isText(data)) return null;
  let message;
  try {
    message = JSON.parse(data);
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
  if (!isObject(message) || !Object.hasOwn(SHAPES, message.type)) return null;
  return SHAPES[message.type](message) ? message : null;
}

export const BACKOFF_FIRST_MS = 300;
export const BACKOFF_LAST_MS = 5000;

/** How long to wait before try number `attempt` (from 0) after a loss, in milliseconds. */
export function backoff(attempt, retryAfterS = 0) {
  const grown = Math.min(BACKOFF_FIRST_MS * 2 ** attempt, BACKOFF_LAST_MS);
  return Math.max(grown, Math.min(retryAfterS, 30) * 1000);
}

/** Seconds of a Retry-After header; 0 where it says none or a date. */
export function retryAfter(header) {
  const seconds = Number.parseInt(header ?? "", 10);
  return Number.isFinite(seconds) && seconds > 0 ? seconds : 0;
}

/** Middle of a list of numbers; null of an empty one. */
export function median(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/**
 * Offset of the engine's wall clock from this page's, from pings. The ping with the shortest way
 * there and back bounds the error best (half its duration), so its offset is the one used.
 */
export class ClockOffset {
  #kept;
  #samples = [];

  constructor(kept = 16) {
    this.#kept = kept;
  }

  /** One answer: sent and received by the page's clock, answered by the engine's, in ms. */
  add(sentMs, receivedMs, engineMs) {
    if (receivedMs < sentMs) return;
    this.#samples.push({ round: receivedMs - sentMs, offset: engineMs - (sentMs + receivedMs) / 2 });
    if (this.#samples.length > this.#kept) this.#samples.shift();
  }

  get #best() {
    return this.#samples.reduce((best, one) => (best && best.round <= one.round ? best : one), null);
  }

  /** Engine's clock less the page's, ms; null before the first answer. */
  get offsetMs() {
    return this.#best?.offset ?? null;
  }

  /** Shortest way there and back, ms; null before the first answer. */
  get roundTripMs() {
    return this.#best?.round ?? null;
  }
}

/** How long predictions take: from the window's end to emission, and from there to the screen. */
export class Latency {
  #kept;
  #engine = [];
  #network = [];

  constructor(kept = 20) {
    this.#kept = kept;
  }

  /** One document, drawn at `shownMs` of the engine's clock (null where that is not known). */
  add(document, shownMs) {
    const emitted = Date.parse(document.emitted_wall);
    keep(this.#engine, emitted - Date.parse(document.end_wall), this.#kept);
    if (shownMs !== null) keep(this.#network, Math.max(0, shownMs - emitted), this.#kept);
  }

  clear() {
    this.#engine = [];
    this.#network = [];
  }

  /** Medians in ms: `engine`, `network`, `total`; null where nothing is known. */
  get figures() {
    const engine = median(this.#engine);
    const network = median(this.#network);
    return { engine, network, total: engine === null || network === null ? null : engine + network };
  }
}

function keep(list, value, most) {
  list.push(value);
  if (list.length > most) list.shift();
}

/** Says what changed, seldom: only when the text is new, and not again within `everyMs`. */
export class Seldom {
  #everyMs;
  #last = null;
  #at = -Infinity;

  constructor(everyMs = 10_000) {
    this.#everyMs = everyMs;
  }

  /** The text if it is to be said at `nowMs`, else null. */
  say(text, nowMs) {
    if (text === this.#last || nowMs - this.#at < this.#everyMs) return null;
    this.#last = text;
    this.#at = nowMs;
    return text;
  }
}
