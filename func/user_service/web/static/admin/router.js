/**
 * The views and their addresses: `#/users?status=active`. An address holds ids and filters that are not personal, so
 * that it can be kept in a history and sent to others.
 */

import { ConnectionLost } from "./api.js";
import { failure } from "./notices.js";

const VIEWS = new Map();
let mounted = null;
let shown = "";
/** Whether the view may be left; a view with unsaved changes asks. */
let mayLeave = null;

export function defineView(name, load) {
  VIEWS.set(name, load);
}

export function link(name, { id = "", query = {} } = {}) {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") parameters.set(key, value);
  }
  const text = parameters.toString();
  return `#/${name}${id && `/${encodeURIComponent(id)}`}${text && `?${text}`}`;
}

/** Goes to an address, and shows it anew if it is the current one. */
export function go(hash) {
  if (location.hash === hash) return show();
  location.hash = hash;
}

export function guard(question) {
  mayLeave = question;
}

export function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id = ""] = path.split("/");
  return { name: VIEWS.has(name) ? name : "users", id: safely(id), query: Object.fromEntries(new URLSearchParams(query)) };
}

function safely(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

export function start() {
  window.addEventListener("hashchange", onHashChange);
  window.addEventListener("beforeunload", (event) => { if (mayLeave) event.preventDefault(); });
  return show({ focus: false });
}

export function stop() {
  window.removeEventListener("hashchange", onHashChange);
  mounted?.stop.abort();
  mounted = null;
  mayLeave = null;
}

async function onHashChange() {
  // The link that skips to the content is no view.
  if (location.hash === "#view") return history.replaceState(null, "", shown || "#/users");
  if (location.hash === shown) return;
  if (mayLeave && !(await mayLeave())) return history.pushState(null, "", shown);
  mayLeave = null;
  await show();
}

/** Fetches the files of the view of the address, so that they are there when it is shown. */
export function prepare() {
  VIEWS.get(route().name)().catch(() => {});
}

/** Shows the view of the address: anew, or by an update of the one that is there. */
export async function show({ focus = true } = {}) {
  const place = document.getElementById("view");
  const { name, id, query } = route();
  shown = location.hash;
  markCurrent(name);
  if (mounted?.key === `${name}/${id}` && mounted.view?.update) return mounted.view.update(query);
  mounted?.stop.abort();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  const stop = new AbortController();
  const mine = (mounted = { key: `${name}/${id}`, stop, view: null });
  let module;
  try {
    module = await VIEWS.get(name)();
  } catch {
    // The file of a view is fetched when the view is first shown.
    if (mounted === mine) {
      mounted = null;
      place.replaceChildren(failure(new ConnectionLost(), () => show({ focus })));
    }
    return undefined;
  }
  if (mounted !== mine) return undefined;
  place.replaceChildren();
  mine.view = module.open(place, { id, query, signal: stop.signal });
  document.title = `User Service: ${module.TITLE}`;
  if (focus) place.querySelector("h1")?.focus();
  window.scrollTo(0, 0);
  return undefined;
}

function markCurrent(name) {
  for (const anchor of document.querySelectorAll("#nav a")) {
    const isCurrent = anchor.hash.slice(2).split("?")[0] === name;
    if (isCurrent) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
}
