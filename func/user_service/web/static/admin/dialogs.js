/** Modal dialogs. The browser keeps the focus inside, closes them with Escape and gives the focus back. */

import { isStale } from "./api.js";
import { button, el } from "./dom.js";
import { failure } from "./notices.js";

let count = 0;

/** Shows a dialog; resolves when it is closed. `build` gets a function that closes it with a result. */
export function showDialog(title, build, { closable = true } = {}) {
  return new Promise((resolve) => {
    const heading = `dialog_${++count}`;
    const dialog = el("dialog", { "aria-labelledby": heading });
    let result = null;
    const close = (value) => { result = value; dialog.close(); };
    dialog.append(el("h2", { id: heading }, ...[title].flat()), ...[build(close, dialog)].flat());
    dialog.addEventListener("cancel", (event) => { if (!closable) event.preventDefault(); });
    dialog.addEventListener("close", () => { dialog.remove(); resolve(result); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A field for why something is changed, which the audit trail shows. */
export function reasonField() {
  return el("label", {}, "Reason, as a ticket's number; nothing personal",
    el("input", { name: "reason", maxlength: "200", autocomplete: "off", dir: "auto" }));
}

/**
 * Asks, then acts, with the reason that may be given. The dialog stays open while `act` runs, and when it fails, so that it can be tried again.
 * Resolves to what `act` gave, to the Problem that the user has changed, or to null.
 */
export function confirm(title, { text, label, danger = false, act }) {
  return showDialog(title, (close, dialog) => {
    const place = el("div", {});
    const go = el("button", { class: danger ? "danger" : "primary", autofocus: !danger }, label);
    const run = async (event) => {
      event.preventDefault();
      go.disabled = true;
      place.replaceChildren();
      try {
        return close((await act(form.elements.reason.value)) ?? true);
      } catch (error) {
        if (isStale(error)) return close(error);
        place.replaceChildren(failure(error));
        go.disabled = false;
        return undefined;
      }
    };
    const form = el("form", { autocomplete: "off", onsubmit: run },
      text && el("p", {}, ...[text].flat()), reasonField(), place,
      el("div", { class: "actions" }, button("Cancel", () => dialog.close()), go));
    return form;
  });
}

/** Resolves to whether the view may be left. */
export function askToLeave(text) {
  return showDialog("Leave this view?", (close) => [
    el("p", {}, text),
    el("div", { class: "actions" }, button("Stay", () => close(false)), button("Leave", () => close(true), { class: "danger" })),
  ]).then(Boolean);
}
