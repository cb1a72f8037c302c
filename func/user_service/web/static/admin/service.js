/** What the service does for others: batches and imports at work, the keys that it accepts, and SCIM. */

import { read } from "./api.js";
import { el, isolated, number, table, time } from "./dom.js";
import { empty, failure, loading } from "./notices.js";
import { may } from "./session.js";

export const TITLE = "service";
const REFRESH_MILLISECONDS = 5000;
const STATE_CLASSES = { succeeded: "good", completed: "good", partial: "warn", interrupted: "warn", running: "muted" };

export function open(place, { signal }) {
  const jobs = el("div", {}, loading("Loading batches and imports."));
  const keys = el("div", {}, loading("Loading the keys."));
  const scim = el("p", { id: "scim" });
  place.append(el("h1", { tabindex: "-1" }, "Service"));
  if (!may("cache:manage")) {
    place.append(empty("This key does not allow reading the state of the service: it lacks the scope cache:manage."));
    return {};
  }
  place.append(
    el("p", {}, "The state of health, cache, database, outbox and requests is on the ", el("a", { href: "status" }, "status page"), "."),
    scim,
    section("jobs", "Batches of this replica, and all imports", jobs),
    section("keys", "API keys, and when this replica was last called with them", keys));
  refresh(jobs, keys, scim, signal);
  return {};
}

function section(id, title, content) {
  return el("section", { "aria-labelledby": id }, el("h2", { id }, title), content);
}

/** Shows the state, and again after a pause, until the view is left. */
async function refresh(jobs, keys, scim, signal) {
  try {
    const status = await read("status", {}, signal);
    showJobs(jobs, status.jobs);
    showKeys(keys, status.api_keys);
    scim.textContent = status.scim === null
      ? "SCIM is off: identity providers can't provision this directory (setting SCIM)."
      : `SCIM is on. The base URL for an identity provider is ${status.scim}.`;
  } catch (error) {
    if (signal.aborted) return;
    jobs.replaceChildren(failure(error, () => refresh(jobs, keys, scim, signal)));
    return;
  }
  const timer = setTimeout(() => refresh(jobs, keys, scim, signal), REFRESH_MILLISECONDS);
  signal.addEventListener("abort", () => clearTimeout(timer));
}

function showJobs(place, jobs) {
  if (!jobs.length) return place.replaceChildren(empty("There is neither a batch since the start of this replica nor an import of the last 30 days."));
  const rows = jobs.map((job) => el("tr", {},
    el("td", {}, `${job.kind} ${job.operation}`),
    el("td", { class: STATE_CLASSES[job.state] || "bad" }, job.state),
    el("td", {}, job.total === null ? `${number(job.done)} so far` : `${number(job.done)} of ${number(job.total)}`),
    el("td", {}, number(job.failed)),
    el("td", {}, time(job.started_at))));
  return replaceRows(place, table("Batches and imports", ["What", "State", "Progress", "Failed", "Started"], rows));
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
