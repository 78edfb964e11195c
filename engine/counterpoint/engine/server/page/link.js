// One peer connection to the engine: offer by WHIP (RFC 9725), one data channel, until it is lost.

import { CHANNEL, retryAfter } from "./protocol.js";
import { LOSSES, Problem, notConnected, refusal, unreachable } from "./words.js";

const GATHER_MS = 1_000;
const POST_MS = 10_000;
const OPEN_MS = 10_000;
const DISCONNECTED_MS = 1_000;
const MAX_ANSWER_CHARS = 200_000;

/** Request headers with the token, if there is one. */
export function authorised(token, headers = {}) {
  return token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
}

export class Link {
  #peer;
  #channel;
  #session;
  #participant;
  #token;
  #senders = new Map();
  #abort = new AbortController();
  #resource = null;
  #closed = false;
  #lose;
  #disconnected = null;
  #onData;

  /**
   * @param session, participant, token: who joins what.
   * @param iceServers: as the engine's terms give them.
   * @param media: `[{kind: "video" | "audio", track: MediaStreamTrack | null, stream}]`; a kind
   *   without a track keeps its place, so that a track can be put in later.
   * @param onData: called with each message's data once the channel is open.
   */
  constructor({ session, participant, token, iceServers, media, onData }) {
    this.#session = session;
    this.#participant = participant;
    this.#token = token;
    this.#onData = onData;
    /** Settles, with a word from LOSSES, when the connection is lost or closed. */
    this.lost = new Promise((resolve) => { this.#lose = resolve; });
    this.#peer = new RTCPeerConnection({ iceServers });
    this.#channel = this.#peer.createDataChannel(CHANNEL, { ordered: true });
    for (const { kind, track, stream } of media) {
      const options = { direction: "sendonly", streams: [stream] };
      this.#senders.set(kind, this.#peer.addTransceiver(track ?? kind, options).sender);
    }
    this.#channel.onmessage = ({ data }) => this.#onData(data);
    this.#channel.onclose = () => {
      this.#resource = null; // the engine closed it, and knows
      this.#lose("closed");
    };
    this.#peer.onconnectionstatechange = () => this.#watch();
  }

  /** Connects. Throws a Problem where it does not come about. */
  async open() {
    const opened = new Promise((resolve) => { this.#channel.onopen = () => resolve("open"); });
    await this.#peer.setLocalDescription();
    await this.#gathered();
    const answer = await this.#post(this.#peer.localDescription.sdp);
    try {
      await this.#peer.setRemoteDescription({ type: "answer", sdp: answer });
    } catch (error) {
      if (this.#closed) throw left();
      throw new Problem("The engine’s answer cannot be used by this browser.",
        `Reload the page, or try another browser. (${error.message})`, { final: true });
    }
    const timer = later(OPEN_MS, "late");
    const outcome = await Promise.race([opened, this.lost, timer.done]);
    timer.cancel();
    if (outcome !== "open") throw this.#closed ? left() : notConnected();
  }

  /** Sends text. Returns whether it was handed to the channel. */
  send(text) {
    if (this.#channel.readyState !== "open") return false;
    this.#channel.send(text);
    return true;
  }

  /** Puts another track (or null: none) in the place of a kind. Returns whether it has one. */
  async replace(kind, track) {
    const sender = this.#senders.get(kind);
    if (!sender || this.#closed) return false;
    await sender.replaceTrack(track);
    return true;
  }

  /** Ends the connection and says so to the engine. Again: nothing. */
  close(reason = "closed") {
    if (this.#closed) return;
    this.#closed = true;
    this.#abort.abort();
    clearTimeout(this.#disconnected);
    this.#channel.onclose = null;
    this.#peer.onconnectionstatechange = null;
    this.#channel.close();
    this.#peer.close();
    this.#delete();
    this.#lose(reason);
  }

  #watch() {
    const state = this.#peer.connectionState;
    clearTimeout(this.#disconnected);
    if (state === "failed" || state === "closed") this.#lose(state);
    if (state === "disconnected") {
      this.#disconnected = setTimeout(() => this.#lose(state), DISCONNECTED_MS);
    }
  }

  async #gathered() {
    if (this.#peer.iceGatheringState === "complete") return;
    const complete = new Promise((resolve) => {
      this.#peer.onicegatheringstatechange = () => {
        if (this.#peer.iceGatheringState === "complete") resolve();
      };
    });
    const timer = later(GATHER_MS);
    await Promise.race([complete, timer.done, this.lost]);
    timer.cancel();
  }

  async #post(offer) {
    const where = `/whip/${encodeURIComponent(this.#session)}`
      + `?participant=${encodeURIComponent(this.#participant)}`;
    const timer = setTimeout(() => this.#abort.abort(), POST_MS);
    let response;
    let body;
    try {
      response = await fetch(where, {
        method: "POST",
        headers: authorised(this.#token, { "Content-Type": "application/sdp" }),
        body: offer,
        signal: this.#abort.signal,
        cache: "no-store",
      });
      if (response.status === 201) this.#located(response);
      body = await response.text();
    } catch (error) {
      if (this.#closed) throw left();
      if (error instanceof TypeError || error.name === "AbortError") throw unreachable();
      throw error;
    } finally {
      clearTimeout(timer);
    }
    if (this.#closed) {
      this.#delete();
      throw left();
    }
    if (response.status !== 201) {
      throw refusal(response.status, parsed(body), retryAfter(response.headers.get("Retry-After")));
    }
    return body.slice(0, MAX_ANSWER_CHARS);
  }

  #located(response) {
    const location = response.headers.get("Location");
    if (!location) return;
    const url = new URL(location, response.url);
    if (url.origin === window.location.origin) this.#resource = url.href; // the token goes nowhere else
  }

  #delete() {
    if (!this.#resource) return;
    const resource = this.#resource;
    this.#resource = null;
    // Goes out even as the page goes. An engine that is not there to hear it ends by itself what
    // has fallen silent, so there is nothing to tell anyone.
    fetch(resource, { method: "DELETE", headers: authorised(this.#token), keepalive: true })
      .catch((error) => console.info("leaving was not heard:", error.message));
  }
}

function left() {
  return new Problem(LOSSES.closed, "", { final: true });
}

function parsed(body) {
  try {
    return JSON.parse(body);
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

function later(ms, value) {
  let timer;
  const done = new Promise((resolve) => { timer = setTimeout(() => resolve(value), ms); });
  return { done, cancel: () => clearTimeout(timer) };
}
