// Camera and microphone: what there is, what was chosen, what is open. Nothing is asked of the
// browser before `open`.

import { deviceProblem, insecure } from "./words.js";

export const NONE = "none";
export const DEFAULT = "default";

const KINDS = {
  camera: { media: "video", list: "videoinput", words: "camera" },
  microphone: { media: "audio", list: "audioinput", words: "microphone" },
};

const WANTED = {
  camera: { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } },
  microphone: { channelCount: { ideal: 1 } },
};

function constraint(kind, choice) {
  if (choice === DEFAULT) return WANTED[kind];
  return { ...WANTED[kind], deviceId: { exact: choice } };
}

export class Devices {
  #media;
  #onLost;
  #tracks = { camera: null, microphone: null };
  #turn = Promise.resolve();
  #modalities = ["video", "audio"];
  choice = { camera: DEFAULT, microphone: DEFAULT };
  off = false;
  muted = false;
  /** What is open, as one stream: preview, and what binds both tracks together on the way. */
  stream = new MediaStream();

  /** `onLost(kind)` is called when an open device goes away by itself. */
  constructor(onLost, media = navigator.mediaDevices) {
    this.#onLost = onLost;
    this.#media = media;
  }

  /** Takes what the engine's purpose allows: of `video`, `audio`. The rest can only be NONE. */
  allow(modalities) {
    this.#modalities = modalities;
    for (const kind of Object.keys(KINDS)) {
      if (!this.allowed(kind)) this.choose(kind, NONE);
    }
  }

  allowed(kind) {
    return this.#modalities.includes(KINDS[kind].media);
  }

  /** Calls back whenever devices come or go. */
  watch(changed) {
    this.#media?.addEventListener("devicechange", changed);
  }

  /** `{camera: [{id, label}], microphone: […]}`; labels are empty before permission. */
  async list() {
    const all = this.#media ? await this.#media.enumerateDevices() : [];
    return Object.fromEntries(Object.entries(KINDS).map(([kind, { list }]) => [
      kind,
      all.filter((device) => device.kind === list && device.deviceId && device.deviceId !== DEFAULT)
        .map((device) => ({ id: device.deviceId, label: device.label })),
    ]));
  }

  /** The open track of a kind, or null. */
  track(kind) {
    return this.#tracks[kind];
  }

  /** What a link is to carry: a place for each kind that was chosen. */
  media() {
    return Object.keys(KINDS)
      .filter((kind) => this.choice[kind] !== NONE)
      .map((kind) => ({ kind: KINDS[kind].media, track: this.#tracks[kind], stream: this.stream }));
  }

  /**
   * Opens what is chosen and not open; asks the browser where it must. Throws a Problem where one
   * of them cannot be had; what could be opened stays open. One call runs after another.
   */
  open() {
    const turn = this.#turn.then(() => this.#open());
    this.#turn = turn.catch(() => undefined); // told to this call's caller, not to the next one's
    return turn;
  }

  async #open() {
    const wanted = Object.keys(KINDS).filter((kind) => this.choice[kind] !== NONE
      && this.#tracks[kind] === null && !(kind === "camera" && this.off));
    if (wanted.length === 0) return;
    if (!this.#media?.getUserMedia) throw insecure();
    try {
      await this.#ask(wanted);
    } catch (problem) {
      // Asking again for each would only repeat the question to someone who said no.
      if (wanted.length < 2 || problem.cause === "NotAllowedError") throw problem;
      const results = await Promise.allSettled(wanted.map((kind) => this.#ask([kind])));
      const failed = results.find((result) => result.status === "rejected");
      if (failed) throw failed.reason;
    }
  }

  async #ask(kinds) {
    const asked = Object.fromEntries(
      kinds.map((kind) => [KINDS[kind].media, constraint(kind, this.choice[kind])]));
    let stream;
    try {
      stream = await this.#media.getUserMedia(asked);
    } catch (error) {
      const problem = deviceProblem(error.name, kinds.map((kind) => KINDS[kind].words).join(" and "));
      problem.cause = error.name;
      throw problem;
    }
    for (const track of stream.getTracks()) {
      this.#keep(track.kind === "video" ? "camera" : "microphone", track);
    }
  }

  #keep(kind, track) {
    this.#tracks[kind] = track;
    this.stream.addTrack(track);
    if (kind === "microphone") track.enabled = !this.muted;
    track.addEventListener("ended", () => {
      this.#release(kind);
      this.#onLost(kind);
    });
  }

  #release(kind) {
    const track = this.#tracks[kind];
    if (!track) return;
    this.#tracks[kind] = null;
    this.stream.removeTrack(track);
    track.stop(); // says no `ended` when it is stopped from here
  }

  /** Chooses a device (an id, DEFAULT or NONE); what was open of that kind is closed. */
  choose(kind, id) {
    this.choice[kind] = id;
    this.#release(kind);
  }

  /** Mutes: silence is sent, and the microphone stays open. */
  mute(muted) {
    this.muted = muted;
    if (this.#tracks.microphone) this.#tracks.microphone.enabled = !muted;
  }

  /** Closes the camera, light and all; `open` opens it again once it is not off. */
  turnOff(off) {
    this.off = off;
    if (off) this.#release("camera");
  }

  /** Closes everything. */
  close() {
    for (const kind of Object.keys(KINDS)) this.#release(kind);
  }

  /** The chosen device's id as the open track has it, for the list. */
  openId(kind) {
    return this.#tracks[kind]?.getSettings().deviceId ?? null;
  }
}

/** Fills a `<select>` with a kind's devices and keeps the choice. */
export function fillSelect(select, kind, devices, { choice, openId }) {
  const wanted = choice === DEFAULT && openId ? openId : choice;
  const options = devices.map(({ id, label }, index) => new Option(label || `${kind} ${index + 1}`, id));
  if (!devices.some(({ id }) => id === wanted) && wanted !== NONE) {
    options.unshift(new Option(`Default ${kind}`, DEFAULT));
  }
  select.replaceChildren(...options, new Option("None", NONE));
  select.value = [...select.options].some(({ value }) => value === wanted) ? wanted : DEFAULT;
}
