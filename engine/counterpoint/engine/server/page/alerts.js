// Problems and notices at the top of the page, each until it is over or put away.

import { byId, el } from "./dom.js";

const MOST = 4;

/** Shows a problem or notice; one of the same `key` gives way. */
export function alertUser(key, { title, help = "" }, level = "error") {
  clearAlert(key);
  const close = el("button", { type: "button", class: "quiet small",
    "aria-label": `Dismiss: ${title}` }, "Dismiss");
  const item = el("div", { class: `alert ${level}`, "data-key": key },
    el("div", {}, el("p", { class: "alert-title" }, title), ...(help ? [el("p", {}, help)] : [])), close);
  close.addEventListener("click", () => {
    item.remove();
    byId("main").focus(); // the button that had the focus is gone
  });
  // Only an error may interrupt whoever listens.
  const box = byId(level === "error" ? "alerts" : "notices");
  box.append(item);
  while (box.children.length > MOST) box.firstElementChild.remove();
}

/** Takes a problem back that is over. */
export function clearAlert(key) {
  for (const item of [...byId("alerts").children, ...byId("notices").children]) {
    if (item.dataset.key === key) item.remove();
  }
}
