/** Signing in, at the start and when a key or token is not accepted any more. */

import { Problem } from "./api.js";
import { button, el } from "./dom.js";
import { showDialog } from "./dialogs.js";
import { failure, notice } from "./notices.js";
import { SignInFailed, prepare, readSettings, refresh, signInAtIssuer } from "./oidc.js";
import { signIn } from "./session.js";

/** A form for a key or a token, and a button for an account where there are accounts; `done` is called after signing in. */
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
    try {
      await signIn(input.value.trim());
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
  const account = el("div", {});
  offerAccount(account, place, done);
  return el("form", { onsubmit: submit, autocomplete: "off" },
    place, account,
    el("div", { class: "filters" }, el("label", {}, "API key or token", input), go),
    el("p", { class: "muted" }, "It is kept in the memory of this page only, and is gone when the page is closed."));
}

/** Offers to sign in at the issuer, where the service has one. */
async function offerAccount(account, place, done) {
  const explain = (error) => {
    if (error.name !== "AbortError") place.replaceChildren(error instanceof SignInFailed ? notice("bad", error.message) : failure(error));
  };
  const offer = async () => {
    try {
      const settings = await readSettings();
      if (settings === null) return;
      const attempt = await prepare(settings);
      const open = button("Sign in with your account", () => run(attempt), { class: "primary" });
      account.replaceChildren(el("p", {}, open));
    } catch (error) {
      explain(error);
    }
  };
  const run = async (attempt) => {
    const stop = new AbortController();
    place.replaceChildren();
    account.replaceChildren(el("p", { role: "status" }, "Sign in in the window that has opened. ", button("Cancel", () => stop.abort())));
    try {
      await signIn(await signInAtIssuer(attempt, stop.signal));
      done();
    } catch (error) {
      explain(error);
    } finally {
      // A code and its verifier are for one attempt.
      offer();
    }
  };
  await offer();
}

let asking = null;

/** Gets another token, or asks for one over the view, which stays as it is. Resolves to whether there is one. */
export function askAgain(problem, onSignedIn) {
  asking ??= renew(problem, onSignedIn).finally(() => { asking = null; });
  return asking;
}

async function renew(problem, onSignedIn) {
  const token = await refresh();
  if (token !== null && (await isAccepted(token))) return true;
  return Boolean(await showDialog("Sign in again", (close) => [
    el("p", {}, `${problem.message} What you have entered stays on this page.`),
    signInForm(() => { onSignedIn(); close(true); }),
    el("div", { class: "actions" }, button("Not now", () => close(false))),
  ]));
}

async function isAccepted(token) {
  try {
    await signIn(token);
    return true;
  } catch {
    return false;
  }
}
