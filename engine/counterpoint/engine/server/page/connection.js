// Stays in a session: one link after another under the same session and participant, with backoff.

import { Link } from "./link.js";
import { ClockOffset, backoff, parseMessage } from "./protocol.js";
import { Problem } from "./words.js";

const PING_MS = 1_000;
const SILENCE_MS = 3_000;
const SETTLED_MS = 5_000; // a link that held this long starts the backoff anew

/** This page's wall clock in ms, which does not jump while the page is open. */
export function pageNow() {
  return performance.timeOrigin + performance.now();
}

export class Connection {
  #options;
  #link = null;
  #live = false;
  #ended = false;
  #heard = 0;
  #wake = null;
  #problem = null;
  #pings = new Map();
  #nextPing = 1;
  clock = new ClockOffset();
  reconnects = 0;
  unreadable = 0;

  /**
   * @param options.session, participant, token, iceServers: as for `Link`.
   * @param options.media: gives the media to send, asked anew for each link.
   * @param options.onState: `{name: "connecting" | "live" | "waiting" | "failed" | "left", attempt,
   *   delayMs, cause, problem}`.
   * @param options.onMessage: each message of `protocol.js` but pong.
   */
  constructor(options) {
    this.#options = options;
  }

  /** Joins, and stays until left or refused for good. */
  async run() {
    const pinging = setInterval(() => this.#tick(), PING_MS / 2);
    const hurry = () => this.#wake?.();
    window.addEventListener("online", hurry);
    try {
      await this.#stay();
    } finally {
      clearInterval(pinging);
      window.removeEventListener("online", hurry);
    }
  }

  async #stay() {
    let everLive = false;
    let attempt = 0;
    while (!this.#ended) {
      this.#say({ name: "connecting", attempt, again: everLive });
      const { problem, cause, heldMs } = await this.#once();
      if (this.#ended) break;
      if (heldMs !== null) everLive = true;
      if (problem && (problem.final || !everLive)) {
        this.#ended = true;
        this.#say({ name: "failed", problem });
        return;
      }
      if (heldMs > SETTLED_MS || cause === "restart") attempt = 0;
      const delayMs = cause === "restart" ? 0 : backoff(attempt, problem?.retryAfterS ?? 0);
      this.#say({ name: "waiting", attempt, delayMs, cause, problem });
      await this.#pause(delayMs);
      attempt += 1;
      this.reconnects += 1;
    }
    this.#say(this.#problem ? { name: "failed", problem: this.#problem } : { name: "left" });
  }

  /** One link, from offer to loss. */
  async #once() {
    const link = new Link({
      ...this.#options,
      media: this.#options.media(),
      onData: (data) => this.#receive(data),
    });
    this.#link = link;
    let since = null;
    try {
      await link.open();
      since = performance.now();
      this.#heard = since;
      this.#live = true;
      this.#ping();
      this.#say({ name: "live" });
      const cause = await link.lost;
      return { problem: null, cause, heldMs: performance.now() - since };
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return { problem: error, cause: null, heldMs: null };
    } finally {
      this.#live = false;
      this.#pings.clear();
      link.close();
    }
  }

  /** Sends a message. Returns whether the connection took it. */
  send(message) {
    return this.#live && this.#link.send(JSON.stringify(message));
  }

  /** Puts another track in the place of a kind; joins anew where the link has no such place. */
  async replace(kind, track) {
    if (!this.#live) return; // the next link asks for the media as they are then
    if (!(await this.#link.replace(kind, track)) && track) this.#link.close("restart");
  }

  /** Leaves for good, for a problem if one is given. */
  leave(problem = null) {
    this.#ended = true;
    this.#problem = problem;
    this.#link?.close();
    this.#wake?.();
  }

  #say(state) {
    this.#options.onState(state);
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    }).finally(() => { this.#wake = null; });
  }

  #tick() {
    if (!this.#live) return;
    if (performance.now() - this.#heard > SILENCE_MS) {
      this.#link.close("silence");
    } else if (![...this.#pings.values()].some((sent) => pageNow() - sent < PING_MS)) {
      this.#ping();
    }
  }

  #ping() {
    const id = this.#nextPing;
    this.#nextPing += 1;
    this.#pings.set(id, pageNow());
    if (this.#pings.size > 8) this.#pings.delete(this.#pings.keys().next().value);
    this.send({ type: "ping", id });
  }

  #receive(data) {
    const message = parseMessage(data);
    if (message === null) {
      this.unreadable += 1;
      return;
    }
    if (message.type === "prediction" || message.type === "pong") this.#heard = performance.now();
    if (message.type !== "pong") {
      this.#options.onMessage(message);
      return;
    }
    const sent = this.#pings.get(message.id);
    if (sent !== undefined) {
      this.#pings.delete(message.id);
      this.clock.add(sent, pageNow(), message.engine_wall_ms);
    }
  }
}
