// Puts the page together: agree, choose devices, join, leave.

import { alertUser, clearAlert } from "./alerts.js";
import { Chat } from "./chat.js";
import { Connection, pageNow } from "./connection.js";
import { Devices, NONE, fillSelect } from "./devices.js";
import { byId, setText, show } from "./dom.js";
import { Results } from "./results.js";
import { Welcome } from "./welcome.js";
import { LOSSES, Problem, channelError, sessionOver } from "./words.js";

let who = null;
let connection = null;

const devices = new Devices((kind) => {
  alertUser(`lost-${kind}`, { title: `The ${kind} is gone.`,
    help: "It was unplugged or taken away. Plug it in again, then choose it from the list." }, "warning");
  devices.choice[kind] = NONE;
  deviceChanged(kind);
});
const results = new Results(() => ({
  pageMs: pageNow(),
  offsetMs: connection?.clock.offsetMs ?? null,
  roundTripMs: connection?.clock.roundTripMs ?? null,
}));
const chat = new Chat((text) => connection?.send({ type: "chat", text }) ?? false);
const welcome = new Welcome((agreed) => {
  who = agreed;
  devices.allow(who.terms.purpose.modalities ?? ["video", "audio"]);
  const query = new URLSearchParams({ session: who.session, participant: who.participant });
  history.replaceState(null, "", `?${query}`);
  phase("setup");
  refreshDevices();
});

// --- steps ---------------------------------------------------------------------------------------

/** Shows a step: `welcome`, `setup` or `live`, and puts the focus at its head. */
function phase(name) {
  show(byId("welcome"), name === "welcome");
  show(byId("room"), name !== "welcome");
  byId("main").dataset.phase = name;
  byId("devices").open = name === "setup";
  show(byId("purpose"), name !== "welcome");
  for (const id of ["results", "chat"]) show(byId(id), name === "live");
  for (const row of document.querySelectorAll(".actions[data-for]")) {
    show(row, row.dataset.for === name);
  }
  setText(byId("you-title"), name === "live" ? "You" : "Camera and microphone");
  setText(byId("where"), name === "welcome" ? "" : `${who.session} · ${who.participant}`);
  const heads = { welcome: "welcome-title", setup: "you-title", live: "results-title" };
  byId(heads[name]).focus();
}

function state(text, kind) {
  setText(byId("state"), text);
  byId("state").dataset.state = kind;
}

// --- devices -------------------------------------------------------------------------------------

async function refreshDevices() {
  const listed = await devices.list();
  for (const kind of ["camera", "microphone"]) {
    fillSelect(byId(kind), kind, listed[kind],
      { choice: devices.choice[kind], openId: devices.openId(kind) });
    byId(kind).disabled = !devices.allowed(kind);
    show(byId(`${kind}-barred`), !devices.allowed(kind));
  }
  showMedia();
}

function showMedia() {
  const preview = byId("preview");
  const camera = devices.track("camera");
  if (preview.srcObject !== devices.stream) preview.srcObject = devices.stream;
  preview.parentElement.classList.toggle("empty", camera === null);
  setText(byId("preview-note"), previewNote());
  toggle("mute", devices.muted, devices.muted ? "Unmute" : "Mute",
    devices.choice.microphone !== NONE);
  toggle("camera-off", devices.off, devices.off ? "Camera on" : "Camera off",
    devices.choice.camera !== NONE);
}

function previewNote() {
  if (devices.choice.camera === NONE) return "No camera chosen";
  if (devices.off) return "Your camera is off";
  return devices.track("camera") ? "" : "The camera is not on yet";
}

function toggle(id, pressed, label, possible) {
  setText(byId(id), label);
  byId(id).classList.toggle("on", pressed);
  byId(id).disabled = !possible;
}

/** Opens what is chosen. Returns whether all of it could be had; says why where not. */
async function openDevices() {
  let good = true;
  try {
    await devices.open();
    clearAlert("devices");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    alertUser("devices", problem);
    good = false;
  }
  await refreshDevices();
  return good;
}

/** After a choice: the running connection gets the new track, or none. */
async function deviceChanged(kind) {
  if (connection !== null) await openDevices();
  else await refreshDevices();
  const media = kind === "camera" ? "video" : "audio";
  await connection?.replace(media, devices.track(kind));
}

// --- joining and leaving ---------------------------------------------------------------------------

async function join() {
  if (connection !== null) return;
  byId("join").disabled = true;
  const ready = await openDevices();
  byId("join").disabled = false;
  if (!ready) return;
  clearAlert("connection");
  connection = new Connection({
    session: who.session,
    participant: who.participant,
    token: who.token,
    iceServers: who.terms.ice_servers ?? [],
    media: () => devices.media(),
    onState: connectionState,
    onMessage: received,
  });
  await connection.run();
}

function leave() {
  connection?.leave();
  devices.close();
}

function connectionState({ name, attempt, cause, problem, again }) {
  if (name === "connecting" && !again) state("Connecting…", "waiting");
  if (name === "waiting") {
    const why = LOSSES[cause] ?? problem?.title ?? LOSSES.failed;
    state(`Trying again (${attempt + 1}): ${why}`, "waiting");
    results.reconnects = connection.reconnects + 1;
  }
  if (name === "live") {
    state("Connected", "live");
    if (byId("main").dataset.phase !== "live") {
      results.start();
      results.reconnects = 0;
      chat.clear();
      phase("live");
      showMedia();
    }
  }
  if (name === "left" || name === "failed") ended(problem ?? null);
}

function ended(problem) {
  connection = null;
  results.stop();
  state(problem ? "Not connected" : "You left", "idle");
  if (problem?.token) {
    phase("welcome");
    show(byId("token-field"), true);
    byId("token").focus();
  } else {
    phase("setup");
  }
  if (problem) alertUser("connection", problem);
  refreshDevices();
}

// --- what the engine says --------------------------------------------------------------------------

function received(message) {
  const handlers = {
    hello: () => {
      results.hello(message.heads, message.numbers);
      people(message.participants);
    },
    prediction: () => results.prediction(message.participant, message.document),
    chat: () => chat.add(message.author, message.text, message.author === who.participant),
    participants: () => people(message.names),
    notice: () => alertUser(`notice-${message.text}`, { title: message.text }, message.level),
    error: () => chat.note(channelError(message.reason), true),
    over: () => connection?.leave(sessionOver(message.reason)),
  };
  handlers[message.type]();
}

function people(names) {
  const others = names.filter((name) => name !== who.participant);
  const with_ = others.length === 0 ? "" : ` · with ${others.join(", ")}`;
  setText(byId("where"), `${who.session} · ${who.participant}${with_}`);
}

// --- controls --------------------------------------------------------------------------------------

for (const kind of ["camera", "microphone"]) {
  byId(kind).addEventListener("change", (event) => {
    const wasOpen = devices.track(kind) !== null;
    devices.choose(kind, event.target.value);
    clearAlert(`lost-${kind}`);
    if (wasOpen && connection === null) openDevices();
    else deviceChanged(kind);
  });
}
byId("show-preview").addEventListener("click", () => openDevices());
byId("join").addEventListener("click", () => join());
byId("back").addEventListener("click", () => {
  devices.close();
  phase("welcome");
});
byId("mute").addEventListener("click", () => {
  devices.mute(!devices.muted);
  showMedia();
});
byId("camera-off").addEventListener("click", () => {
  devices.turnOff(!devices.off);
  deviceChanged("camera");
});
byId("leave").addEventListener("click", () => leave());
window.addEventListener("pagehide", () => leave());
devices.watch(() => refreshDevices());
welcome.load();
