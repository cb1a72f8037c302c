/** Signing in, at the start and when a key or token is not accepted any more. */

import { Problem } from "./api.js";
import { button, el } from "./dom.js";
import { showDialog } from "./dialogs.js";
import { failure } from "./notices.js";
import { signIn } from "./session.js";

/** A form for a key or a token; `done` is called once it is accepted. */
export function signInForm(done) {
  const place = el("div", {});
  const input = el("input", {
    id: "key", type: "password", required: true, autocomplete: "off", autocapitalize: "off", spellcheck: "false",
  });
  const go = el("button", { class: "primary" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    place.replaceChildren();
    const credential = input.value.trim();
    try {
      await signIn(credential);
      input.value = "";
      done();
    } catch (error) {
      place.replaceChildren(failure(error));
      if (error instanceof Problem) input.value = "";
      input.focus();
    } finally {
      go.disabled = false;
    }
  };
  return el("form", { onsubmit: submit, autocomplete: "off" },
    place,
    el("div", { class: "filters" }, el("label", {}, "API key or token", input), go),
    el("p", { class: "muted" }, "It is kept in the memory of this page only, and is gone when the page is closed."));
}

let asking = null;

/** Asks for another key over the view, which stays as it is. Resolves to whether there is one. */
export function askAgain(problem, onSignedIn) {
  asking ??= showDialog("Sign in again", (close) => [
    el("p", {}, `${problem.message} What you have entered stays on this page.`),
    signInForm(() => { onSignedIn(); close(true); }),
    el("div", { class: "actions" }, button("Not now", () => close(false))),
  ]).then(Boolean).finally(() => { asking = null; });
  return asking;
}
