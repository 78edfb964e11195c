// Problems in plain words: what happened, and what to do. Pure.

/** Something that went wrong: `title`, what to do in `help`, and whether trying again is of use. */
export class Problem extends Error {
  constructor(title, help, { final = false, retryAfterS = 0, token = false } = {}) {
    super(title);
    this.title = title;
    this.help = help;
    this.final = final;
    this.retryAfterS = retryAfterS;
    this.token = token;
  }
}

const REFUSALS = {
  400: ["The engine did not understand this browser’s offer.",
    "Reload the page. If it stays so, try another browser."],
  401: ["This engine asks for a token.",
    "Enter the token you were given, or ask whoever runs the engine for one."],
  403: ["You are not let into this session.",
    "Check the session’s name and your token, or ask whoever runs the engine."],
  404: ["The engine does not know this address.", "Check the address of the page and the session’s name."],
  409: ["The engine cannot take you in as it is now.", "Wait a moment and join again."],
  413: ["What was sent is too large for the engine.", "Reload the page and join again."],
  429: ["Too many tries in a short time.", "Wait a moment and join again."],
  503: ["The engine has no room for another session now.",
    "Try again a little later, or ask whoever runs the engine for more room."],
};

const REASONS_OF_REFUSAL = {
  name: ["The engine does not take this name.", "Use letters, digits, “.”, “_” and “-”, up to 64."],
  origin: ["This engine takes no pages from here.",
    "Open the page that the engine itself serves, or have this address added to server.origins."],
  host: ["This engine is not to be reached by this name.",
    "Use its usual address, or have this name added to server.hosts."],
  closing: ["The engine is shutting down.", "Try again once it is back."],
  participants: ["This session has no room for another participant.",
    "Wait until someone leaves, or join another session."],
};

const FINAL = new Set([400, 401, 403, 404, 405, 413, 415, 422]);

/** What an HTTP refusal means. `body` is the engine's `{"error", "message"}`, or null. */
export function refusal(status, body, retryAfterS = 0) {
  const [title, help] = REASONS_OF_REFUSAL[body?.error] ?? REFUSALS[status] ?? [
    `The engine answered with an error (${status}).`,
    "Try again; if it stays so, whoever runs the engine finds the cause in its log.",
  ];
  const said = typeof body?.message === "string" && body.message ? ` The engine says: ${body.message}` : "";
  const wait = retryAfterS > 0 ? ` Worth another try in ${retryAfterS} s.` : "";
  return new Problem(title, `${help}${wait}${said}`, {
    final: FINAL.has(status), retryAfterS, token: status === 401,
  });
}

/** The engine could not be reached at all. */
export function unreachable() {
  return new Problem("The engine cannot be reached.",
    "Check that it runs and that this device is on its network, then try again.");
}

/** The engine answered, but no connection came about. */
export function notConnected() {
  return new Problem("The engine answered, but picture and sound do not get through to it.",
    "A firewall may block UDP between here and the engine. Another network may help, or a TURN "
    + "server set up by whoever runs the engine.");
}

/** Why a connection that stood is held for lost. */
export const LOSSES = {
  failed: "the connection broke",
  disconnected: "the connection broke",
  closed: "the engine closed the connection",
  silence: "the engine has been silent for 3 seconds",
  restart: "devices were changed",
};

const DEVICE_ERRORS = {
  NotAllowedError: (what) => [`The browser does not allow the ${what}.`,
    "Allow it in the address bar or in the browser’s settings, or choose “None”."],
  NotFoundError: (what) => [`No ${what} was found.`, "Plug one in, or choose “None”."],
  NotReadableError: (what) => [`The ${what} cannot be opened.`,
    "Another program may be using it. Close that, or choose another."],
  OverconstrainedError: (what) => [`The chosen ${what} is gone.`, "Choose another from the list."],
};

/** What an error of getUserMedia means. `what` is `camera`, `microphone` or both. */
export function deviceProblem(errorName, what) {
  const words = DEVICE_ERRORS[errorName];
  const [title, help] = words ? words(what)
    : [`The ${what} could not be started (${errorName}).`, "Choose another, or “None”."];
  return new Problem(title, help, { final: true });
}

/** The browser gives no page on this address a camera. */
export function insecure() {
  return new Problem("The browser gives camera and microphone to secure pages only.",
    "Open this page over https or on localhost, or join with “None” for both to chat and watch.",
    { final: true });
}

/** The session was ended by the engine, and is not to be joined again by itself. */
export function sessionOver(reason) {
  return new Problem("This session is over.", `The engine says: ${reason}. You can join again.`,
    { final: true });
}

const REASONS = {
  rate: "Too many lines in a short time; that one was not taken. Wait a moment.",
  size: "That line was too long and was not taken.",
  too_large: "That line was too long and was not taken.",
  empty: "An empty line was not taken.",
  binary: "The engine takes text only.",
};

/** What an `error` message on the channel means. */
export function channelError(reason) {
  return REASONS[reason] ?? `The engine did not take the last message: ${reason}`;
}

/** A reason for a loss, as people read it. */
export function dropReason(reason) {
  return reason.replaceAll("_", " ");
}

const TIERS = {
  media: "by media time",
  sr: "by sender reports",
  adc: "by the devices’ own clocks",
  arrival: "by arrival",
};

/** How clocks were mapped, as people read it. */
export function tierWords(tier) {
  return TIERS[tier] ?? tier;
}
