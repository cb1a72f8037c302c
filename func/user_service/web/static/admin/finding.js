/**
 * Finds users by whatever a person has at hand: an e-mail address, a name, a phone number, a username, an id of either
 * kind, or `key=value` of the metadata. The text of a search stays in the memory of this page: it is not in the address.
 */

import { call, read } from "./api.js";
import { announce } from "./notices.js";
import { go, link } from "./router.js";

const UUID = /^[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}$/i;
const NUMBER = /^\+?[\d\s().-]{5,}$/;

/** The last search: `text`, the `filters` of the list that it stands for (null if no user can match), and users whose key is exactly the text. */
let search = null;

export function lastSearch() {
  return search;
}

export function forgetSearch() {
  search = null;
}

/** Shows the user that the text finds, or the list of those it finds. Raises Problem, ConnectionLost. */
export async function find(text) {
  if (UUID.test(text)) return go(link("user", { id: text.toLowerCase() }));
  const [, key, value] = /^([^=@\s][^=@]*)=(.*\S.*)$/.exec(text) || [];
  if (key) return go(link("users", { query: { [`metadata.${key.trim()}`]: value.trim() } }));
  announce("Finding users.");
  const exact = await findByKey(text);
  const filters = findFilters(text);
  const { items, filters: used } = exact.length && filters.email ? { items: [], filters } : await firstMatches(text, filters);
  const ids = new Set([...exact, ...items].map((user) => user.id));
  if (ids.size === 1) {
    announce("One user is found.");
    return go(link("user", { id: [...ids][0] }));
  }
  search = { text, filters: used, exact };
  announce(ids.size ? "Several users are found." : "No user is found.");
  return go(link("users", { query: { found: "search" } }));
}

/** Living users whose address, username or external id is the text. It is sent in a body, which no proxy logs. */
async function findByKey(text) {
  if (text.startsWith("@")) return [];
  const keys = text.includes("@") ? { emails: [text] } : {};
  const body = { ...keys, usernames: [text], external_ids: [text] };
  return (await call("POST", "users/batch/find", { body })).found;
}

function findFilters(text) {
  if (/^@[^@\s]+$/.test(text)) return { email_domain: text.slice(1) };
  if (text.includes("@")) return { email: text };
  if (NUMBER.test(text)) return { phone: text.startsWith("+") ? text : `+${text.replace(/^\s*00/, "")}` };
  return { q: text };
}

/** The first users that match; deleted ones where there is no other, also by the key that they had. */
async function firstMatches(text, filters) {
  const former = text.includes("@") ? [] : [{ username: text }, { external_id: text }];
  let usable = null;
  for (const tried of [filters, ...[filters, ...former].map((each) => ({ ...each, include: "deleted" }))]) {
    const items = await readSome(tried);
    if (items?.length) return { items, filters: tried };
    if (items !== null) usable ??= tried;
  }
  return { items: [], filters: usable };
}

/** The first users that match; null for a value that no user can have. */
async function readSome(filters) {
  try {
    return (await read("users", { ...filters, limit: 2, fields: "id" })).items;
  } catch (error) {
    if (error.code === "validation_failed") return null;
    throw error;
  }
}
