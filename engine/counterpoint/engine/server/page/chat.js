// The chat: lines as they come, oldest first, and one to write.

import { byId, el, setText } from "./dom.js";

const MOST_LINES = 200;
const NOTE = "Chat is read by the models like voice and face.";

export class Chat {
  #lines = byId("lines");

  /** `send(text)` hands a line to the connection and returns whether it was taken. */
  constructor(send) {
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(send);
    });
  }

  #submit(send) {
    const field = byId("line");
    const text = field.value.trim();
    if (text === "") return;
    if (send(text)) {
      field.value = "";
      this.note(NOTE);
    } else {
      this.note("Not connected: the line was not sent.", true);
    }
  }

  /** A line by someone, or by oneself as the engine gives it back. */
  add(author, text, own) {
    const atEnd = this.#lines.scrollHeight - this.#lines.scrollTop - this.#lines.clientHeight < 30;
    const line = el("li", { class: own ? "own" : false }, el("span", { class: "author" }, author),
      el("span", { class: "unseen" }, ": "), el("span", { class: "text" }, text));
    this.#lines.append(line);
    while (this.#lines.children.length > MOST_LINES) this.#lines.firstElementChild.remove();
    if (atEnd || own) this.#lines.scrollTop = this.#lines.scrollHeight;
  }

  /** What is to be said beside the field. */
  note(text, problem = false) {
    setText(byId("chat-note"), text);
    byId("chat-note").classList.toggle("problem", problem);
  }

  clear() {
    this.#lines.replaceChildren();
    this.note(NOTE);
  }
}
