/**
 * What can be done with one user, as far as its status and the caller's scopes allow. A `view` is told what came of it:
 * `done(sentence, user)` with the user as it is now (null if it is to be read again), `say(box)`, and `stale()`.
 */

import { ConnectionLost, change, isStale } from "./api.js";
import { button, el, isolated } from "./dom.js";
import { confirm, reasonField } from "./dialogs.js";
import { download } from "./download.js";
import { title } from "./fields.js";
import { failure, notice } from "./notices.js";
import { may } from "./session.js";

const CHANGES = {
  activate: { label: "Activate", scope: "users:write", from: ["pending", "suspended"], method: "POST", ending: "/activate", sentence: "The user is active." },
  suspend: {
    label: "Suspend", scope: "users:write", from: ["pending", "active"], method: "POST", ending: "/suspend", sentence: "The user is suspended.",
    question: "The user stays, with the status suspended, until it is activated.",
  },
  restore: { label: "Restore", scope: "users:write", from: ["deleted"], method: "POST", ending: "/restore", sentence: "The user is restored." },
  delete: {
    label: "Delete", scope: "users:delete", from: ["pending", "active", "suspended"], method: "DELETE", ending: "", sentence: "The user is deleted.",
    question: "A deleted user can be restored.", danger: true,
  },
};

/** Whether a user is a tombstone, which an erasure has left. */
export function isErased(user) {
  return user.status === "deleted" && user.email === null;
}

export function actionBar(user, view) {
  const allowed = Object.values(CHANGES).filter(({ scope, from }) => may(scope) && from.includes(user.status) && !isErased(user));
  return el("div", { class: "actions", role: "group", "aria-label": "Actions" },
    ...allowed.map((kind) => button(kind.label, () => start(kind, user, view), kind.danger ? { class: "danger" } : {})),
    may("users:read") && button("Export the person", () => saveExport(user, view)));
}

async function start({ label, method, ending, sentence, question, danger }, user, view) {
  const request = change(method, `users/${user.id}${ending}`, { version: user.version });
  if (!question) return attempt(request, sentence, view);
  const result = await confirm([`${label} `, isolated(title(user)), "?"], { text: question, label, danger, act: request });
  if (isStale(result)) return view.stale();
  return result === null ? undefined : view.done(sentence, result === true ? null : result);
}

/** Makes a change, and explains a failure with a way to try again, which takes effect once. */
async function attempt(request, sentence, view) {
  try {
    await view.done(sentence, await request());
  } catch (error) {
    if (isStale(error)) return view.stale();
    const mayHelp = error instanceof ConnectionLost || error.status >= 500;
    view.say(failure(error, mayHelp ? () => attempt(request, sentence, view) : undefined));
  }
  return undefined;
}

async function saveExport(user, view) {
  view.say(notice("", "Reading all that is stored about this person."));
  try {
    await download(`users/${user.id}/export`, `user-${user.id}.json`);
    view.say(notice("good", "The file with all that is stored about this person is saved. Protect it: it is not encrypted."));
  } catch (error) {
    view.say(failure(error, () => saveExport(user, view)));
  }
}

/** Erasing and purging, which can't be undone: the e-mail address has to be typed. Null where neither is allowed. */
export function dangerZone(user, view) {
  const kinds = [
    may("users:erase") && !isErased(user) && {
      label: "Erase the person", method: "POST", path: `users/${user.id}/erase`, sentence: "The person is erased.",
      text: "Erasing removes all personal data for good. The id, the times and the audit trail stay.",
    },
    may("users:purge") && {
      label: "Purge the record", method: "DELETE", path: `users/${user.id}`, query: { purge: "true" }, sentence: "The record is purged.",
      text: "Purging removes the whole record for good. The audit trail stays.",
    },
  ].filter(Boolean);
  if (!kinds.length) return null;
  const wanted = user.email ?? user.id;
  const reason = reasonField();
  const buttons = kinds.map(({ label, method, path, query, sentence }) => button(label, () => {
    const request = change(method, path, { query, version: user.version });
    return attempt(() => request(reason.querySelector("input").value), sentence, view);
  }, { class: "danger", disabled: true }));
  const allow = (event) => {
    const isTyped = event.target.value.trim().toLowerCase() === wanted.toLowerCase();
    for (const each of buttons) each.disabled = !isTyped;
  };
  return el("section", { "aria-labelledby": "danger" },
    el("h2", { id: "danger" }, "Remove for good"),
    ...kinds.map(({ text }) => el("p", {}, text)),
    el("form", { onsubmit: (event) => event.preventDefault(), autocomplete: "off" },
      el("label", {}, el("span", {}, user.email === null ? "To allow it, type the id: " : "To allow it, type the e-mail address: ", isolated(wanted)),
        el("input", { name: "confirmation", oninput: allow, autocomplete: "off", autocapitalize: "off", spellcheck: "false" })),
      reason, el("div", { class: "actions" }, ...buttons)));
}
