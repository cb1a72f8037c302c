/** What the service does for others: batches at work, the keys that it accepts, and SCIM. */

import { read } from "./api.js";
import { el, isolated, number, table, time } from "./dom.js";
import { empty, failure, loading } from "./notices.js";
import { link } from "./router.js";
import { may } from "./session.js";

export const TITLE = "service";
const REFRESH_MILLISECONDS = 5000;
const STATE_CLASSES = { succeeded: "good", partial: "warn", running: "muted" };

export function open(place, { signal }) {
  const batches = el("div", {}, loading("Loading the batches."));
  const keys = el("div", {}, loading("Loading the keys."));
  const scim = el("p", { id: "scim" });
  place.append(el("h1", { tabindex: "-1" }, "Service"));
  if (!may("cache:manage")) {
    place.append(empty("This key does not allow reading the state of the service: it lacks the scope cache:manage."));
    return {};
  }
  place.append(
    el("p", {}, "Health, requests, cache, database, outbox and feed are on the ", el("a", { href: "status" }, "status page"),
      ". Imports are listed where they are made, under ", el("a", { href: link("import") }, "Import"), "."),
    scim,
    section("batches", "Batches of this replica", batches),
    section("keys", "API keys, and when this replica was last called with them", keys));
  refresh(batches, keys, scim, signal);
  return {};
}

function section(id, title, content) {
  return el("section", { "aria-labelledby": id }, el("h2", { id }, title), content);
}

/** Shows the state, and again after a pause, until the view is left. */
async function refresh(batches, keys, scim, signal) {
  try {
    const status = await read("status", {}, signal);
    showBatches(batches, status.jobs.filter(({ kind }) => kind === "batch"));
    showKeys(keys, status.api_keys);
    scim.textContent = status.scim === null
      ? "SCIM is off: identity providers can't provision this directory (setting SCIM)."
      : `SCIM is on. The base URL for an identity provider is ${status.scim}.`;
  } catch (error) {
    if (signal.aborted) return;
    batches.replaceChildren(failure(error, () => refresh(batches, keys, scim, signal)));
    return;
  }
  const timer = setTimeout(() => refresh(batches, keys, scim, signal), REFRESH_MILLISECONDS);
  signal.addEventListener("abort", () => clearTimeout(timer));
}

function showBatches(place, batches) {
  if (!batches.length) return place.replaceChildren(empty("There was no batch since the start of this replica."));
  const rows = batches.map((batch) => el("tr", {},
    el("td", {}, batch.operation),
    el("td", { class: STATE_CLASSES[batch.state] || "bad" }, batch.state),
    el("td", {}, `${number(batch.done)} of ${number(batch.total)}`),
    el("td", {}, number(batch.failed)),
    el("td", {}, time(batch.started_at))));
  return replaceRows(place, table("Batches", ["Operation", "State", "Progress", "Failed", "Started"], rows));
}

function showKeys(place, keys) {
  if (!keys.length) return place.replaceChildren(empty("This service accepts tokens only."));
  const rows = keys.map((key) => el("tr", {},
    el("th", { scope: "row" }, isolated(key.name)),
    el("td", {}, key.fingerprint),
    el("td", {}, key.scopes.join(", ")),
    el("td", {}, key.expires ? time(key.expires) : "never"),
    el("td", {}, key.last_used_at ? time(key.last_used_at) : "not since the start")));
  return replaceRows(place, table("API keys", ["Name", "Fingerprint", "Scopes", "Expires", "Last used"], rows));
}

/** Changes the rows of the table that is there, so that it keeps the focus and its place. */
function replaceRows(place, made) {
  const body = place.querySelector("tbody");
  if (body === null) place.replaceChildren(made);
  else body.replaceWith(made.querySelector("tbody"));
}
