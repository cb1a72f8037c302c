/** What the page says while it loads, when there is nothing, and when something fails. */

import { ConnectionLost, Problem } from "./api.js";
import { button, el } from "./dom.js";

/** Tells screen readers what has happened. */
export function announce(text) {
  const place = document.getElementById("announcement");
  place.textContent = "";
  // A repeated sentence is read again only if the text changes in between.
  requestAnimationFrame(() => { place.textContent = text; });
}

export function loading(text) {
  return el("p", { class: "muted" }, text);
}

export function empty(text) {
  return el("p", { class: "muted" }, text);
}

/** A sentence that says what failed, and what can be done. */
export function explain(error) {
  if (error instanceof Problem) {
    if (error.code === "validation_failed" && error.errors.length) {
      return error.errors.map((fault) => `${fault.pointer}: ${fault.detail}`).join("; ");
    }
    return error.message;
  }
  if (error instanceof ConnectionLost) return error.message;
  return "The page has met a fault of its own. Load it again, and report this.";
}

/** A box that explains a failure; `retry` repeats what failed. */
export function failure(error, retry) {
  if (!(error instanceof Problem || error instanceof ConnectionLost)) console.error(error);
  const id = error instanceof Problem && error.requestId;
  return el("div", { class: "notice bad", role: "alert" },
    el("p", {}, explain(error)),
    id && el("p", { class: "muted" }, `Request id for a report: ${id}`),
    retry && el("p", {}, button("Try again", retry)));
}

export function notice(kind, ...content) {
  return el("div", { class: `notice ${kind}`, role: "status" }, el("p", {}, ...content));
}
