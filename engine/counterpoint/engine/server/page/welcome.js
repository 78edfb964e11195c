// The first step: who joins what, and what they agree to.

import { alertUser, clearAlert } from "./alerts.js";
import { byId, el, setText, show } from "./dom.js";
import { authorised } from "./link.js";
import { Problem, refusal, unreachable } from "./words.js";

const TERMS_MS = 10_000;

/** Name and session from the address, the token from its fragment (and out of it). */
export function readAddress(href) {
  const url = new URL(href);
  const fragment = new URLSearchParams(url.hash.slice(1));
  const token = fragment.get("token") ?? "";
  if (token) url.hash = ""; // not to stay in the address or the history
  return {
    session: url.searchParams.get("session") ?? "",
    participant: url.searchParams.get("participant") ?? "",
    token,
    rest: url.href,
  };
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/; // as the engine takes them

/** The engine's terms. Throws a Problem. */
async function fetchTerms(token = "") {
  let response;
  let body;
  try {
    response = await fetch("/api/terms", {
      headers: authorised(token), cache: "no-store", signal: AbortSignal.timeout(TERMS_MS),
    });
    body = await response.json();
  } catch (error) {
    console.info("no terms:", error.message);
    throw unreachable();
  }
  if (!response.ok) throw refusal(response.status, body);
  return body;
}

function termsShown({ purpose, consent }) {
  const stored = purpose.media_stored
    ? "Picture and sound are recorded."
    : "Picture and sound are not recorded; they stay in the engine’s memory.";
  return [
    el("p", { class: "consent" }, consent),
    el("dl", { class: "purpose" },
      el("dt", {}, "Purpose"), el("dd", {}, purpose.text),
      el("dt", {}, "Inferred"), el("dd", {}, purpose.heads.join(", ") || "nothing"),
      el("dt", {}, "Media"), el("dd", {}, stored)),
  ];
}

export class Welcome {
  #terms = null;
  #onAgreed;

  /** `onAgreed({session, participant, token, terms})` is called once all is filled in and agreed. */
  constructor(onAgreed) {
    this.#onAgreed = onAgreed;
    const { session, participant, token, rest } = readAddress(window.location.href);
    byId("session").value = session || "live";
    byId("participant").value = participant || `guest-${guestNumber()}`;
    byId("token").value = token;
    if (token) history.replaceState(null, "", rest);
    byId("join-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("agree").addEventListener("change", () => this.#mark("agree", true));
  }

  /** Asks the engine for its terms; where it does not answer, offers to ask again. */
  async load() {
    const box = byId("terms");
    box.setAttribute("aria-busy", "true");
    try {
      this.#terms = await fetchTerms();
      clearAlert("terms");
      box.replaceChildren(...termsShown(this.#terms));
      const { purpose, token_required: guarded } = this.#terms;
      show(byId("token-field"), guarded !== false);
      show(byId("token-soft"), guarded !== true);
      setText(byId("purpose"), `Purpose “${purpose.profile}”: ${purpose.text}`);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      alertUser("terms", problem);
      const again = el("button", { type: "button" }, "Ask again");
      again.addEventListener("click", () => this.load());
      box.replaceChildren(el("p", {}, "What you would agree to could not be fetched. "), again);
    }
    box.removeAttribute("aria-busy");
  }

  #mark(id, good) {
    show(byId(`${id}-problem`), !good);
    byId(id).toggleAttribute("aria-invalid", false);
    if (!good) byId(id).setAttribute("aria-invalid", "true");
    return good;
  }

  async #submit() {
    const session = byId("session").value.trim();
    const participant = byId("participant").value.trim();
    const checks = [
      ["session", NAME.test(session)],
      ["participant", NAME.test(participant)],
      ["agree", byId("agree").checked && this.#terms !== null],
    ];
    const wrong = checks.filter(([id, good]) => !this.#mark(id, good));
    if (wrong.length > 0) {
      byId(wrong[0][0]).focus();
      return;
    }
    const token = byId("token").value.trim();
    try {
      // Servers that help through firewalls are told to who has a token only.
      if (token) this.#terms = await fetchTerms(token);
      clearAlert("connection");
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      alertUser("connection", problem);
      byId("token").focus();
      return;
    }
    this.#onAgreed({ session, participant, token, terms: this.#terms });
  }
}

function guestNumber() {
  return 1000 + (crypto.getRandomValues(new Uint16Array(1))[0] % 9000);
}
