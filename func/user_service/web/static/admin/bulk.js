/** What is done with many users at once: a dry run first, then the change, its progress, and the failures as a file. */

import { BatchRun, failuresFile } from "./batches.js";
import { button, el, number, plural, saveFile } from "./dom.js";
import { askToLeave, reasonField, showDialog } from "./dialogs.js";
import { announce, failure } from "./notices.js";
import { guard } from "./router.js";
import { may } from "./session.js";

const VALUE_KINDS = { text: (text) => text, number: Number, "true or false": (text) => text.trim().toLowerCase() === "true" };

/** `data` is the patch of each user; `done` is how a user is called that the change has reached. */
const KINDS = [
  { label: "Suspend", done: "suspended", operation: "update", scope: "users:write", data: { status: "suspended" } },
  { label: "Activate", done: "activated", operation: "update", scope: "users:write", data: { status: "active" } },
  { label: "Set metadata", done: "changed", operation: "update", scope: "users:write", ask: askForMetadata },
  { label: "Delete", done: "deleted", operation: "delete", scope: "users:delete", danger: true },
  { label: "Restore", done: "restored", operation: "restore", scope: "users:write" },
];

/** Buttons for the selection, a map of versions by id. `onDone` is called when something has changed. */
export function bulkButtons(selection, onDone) {
  return KINDS.filter(({ scope }) => may(scope)).map((kind) => button(kind.label, () => start(kind, selection, onDone), kind.danger ? { class: "danger" } : {}));
}

async function start(kind, selection, onDone) {
  const data = kind.ask ? await kind.ask() : kind.data;
  if (data === null) return;
  const items = [...selection].map(([id, version]) => ({ id, if_version: version, ...(data && { data }) }));
  const changed = await showDialog(`${kind.label}: ${plural(items.length, "user")}`, (close, dialog) => {
    const place = el("div", {});
    dryRun(place, kind, items, close);
    dialog.addEventListener("close", () => place.dispatchEvent(new Event("leave")));
    // Escape stops a run, whose outcome is then shown.
    dialog.addEventListener("cancel", (event) => {
      if (!place.querySelector("progress")) return;
      event.preventDefault();
      place.dispatchEvent(new Event("leave"));
    });
    return place;
  });
  if (changed) onDone();
}

/** Runs, shows the progress, and calls `then` with the run when it has ended. */
function follow(place, run, { text, then }) {
  const bar = el("progress", { max: run.items.length, value: 0, "aria-label": text });
  const count = el("p", { role: "status" }, text);
  const stop = button("Stop", () => { run.stop(); stop.disabled = true; });
  const show = (_, wait) => {
    bar.value = run.position;
    count.textContent = `${text} ${number(run.position)} of ${number(run.items.length)}. ${wait}`;
  };
  const work = async () => {
    place.replaceChildren(bar, count, el("div", { class: "actions" }, stop));
    guard(() => askToLeave("What is not done yet is left as it is."));
    try {
      await run.run(show);
      guard(null);
      then(run);
    } catch (error) {
      guard(null);
      place.replaceChildren(failure(error, work), el("p", {}, `${number(run.position)} of ${number(run.items.length)} are done.`));
    }
  };
  place.addEventListener("leave", () => run.stop());
  work();
}

function dryRun(place, kind, items, close) {
  follow(place, new BatchRun(kind.operation, items, { dryRun: true }), {
    text: "Dry run, which changes nothing:",
    then: (run) => {
      const count = run.succeeded.length;
      announce("The dry run has ended.");
      const reason = reasonField();
      const go = button(`${kind.label} ${plural(count, "user")}`, () => apply(place, kind, run.succeeded, reason.querySelector("input").value, close),
        { class: kind.danger ? "danger" : "primary", disabled: count === 0 });
      place.replaceChildren(
        el("p", { role: "status" }, `Dry run: ${plural(count, "user")} can be ${kind.done}, ${number(run.failures.length)} can not.`,
          run.isDone ? "" : ` It was stopped: ${number(run.items.length - run.position)} were not tried and are left as they are.`),
        ...listReasons(run), reason,
        el("div", { class: "actions" }, ...fileButton(run), button("Cancel", () => close(false)), go));
      go.focus();
    },
  });
}

function apply(place, kind, items, reason, close) {
  follow(place, new BatchRun(kind.operation, items, { reason }), {
    text: "Changing users:",
    then: (run) => {
      announce("The change has ended.");
      const end = button("Close", () => close(true), { class: "primary" });
      place.replaceChildren(
        el("p", { role: "status" }, `${plural(run.succeeded.length + run.skipped, "user")} ${kind.done}, ${number(run.failures.length)} failed.`,
          run.isDone ? "" : ` It was stopped: ${number(run.items.length - run.position)} are as they were.`),
        ...listReasons(run),
        el("div", { class: "actions" }, ...fileButton(run), end));
      end.focus();
    },
  });
}

function listReasons(run) {
  const reasons = run.reasons();
  return reasons.length ? [el("ul", {}, ...reasons.map(({ code, count, detail }) => el("li", {}, `${number(count)}: ${detail} (${code})`)))] : [];
}

function fileButton(run) {
  if (!run.failures.length) return [];
  const name = `failures-${run.operation}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.csv`;
  return [button("Save the failures as a file", () => saveFile(name, [failuresFile(run.failures)], "text/csv"))];
}

/** The patch that sets or removes one metadata value; null to do nothing. */
function askForMetadata() {
  return showDialog("Set metadata", (close, dialog) => {
    const submit = (event) => {
      event.preventDefault();
      const { key, value, kind } = Object.fromEntries(new FormData(event.target));
      close({ metadata: { [key]: value === "" ? null : VALUE_KINDS[kind](value) } });
    };
    const check = (event) => {
      const { kind, value } = event.target.form.elements;
      const isNumber = kind.value !== "number" || value.value === "" || Number.isFinite(Number(value.value));
      value.setCustomValidity(isNumber ? "" : "This is not a number.");
    };
    return el("form", { onsubmit: submit, autocomplete: "off" },
      el("div", { class: "fields" },
        el("label", {}, "Key, as plan", el("input", { name: "key", required: true })),
        el("label", {}, "Value; empty to remove the key", el("input", { name: "value", oninput: check })),
        el("label", {}, "Kind of value", el("select", { name: "kind", onchange: check }, ...Object.keys(VALUE_KINDS).map((name) => el("option", {}, name))))),
      el("div", { class: "actions" }, button("Cancel", () => dialog.close()), el("button", { class: "primary" }, "Dry run")));
  });
}
