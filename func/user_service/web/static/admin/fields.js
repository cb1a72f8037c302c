/** The fields of a user: what they are called, how they are shown and how they are entered. */

import { el, isolated, time } from "./dom.js";

/** `kind` is how a field is entered: text, flag, addresses, or json. */
export const EDITABLE = [
  { name: "email", label: "E-mail", kind: "text", type: "email" },
  { name: "email_verified", label: "E-mail is verified", kind: "flag" },
  { name: "display_name", label: "Display name", kind: "text" },
  { name: "given_name", label: "Given name", kind: "text" },
  { name: "family_name", label: "Family name", kind: "text" },
  { name: "username", label: "Username", kind: "text" },
  { name: "phone", label: "Phone", kind: "text", type: "tel", hint: "as +442071838750" },
  { name: "external_id", label: "External id", kind: "text" },
  { name: "locale", label: "Locale", kind: "text", hint: "as en-GB" },
  { name: "timezone", label: "Time zone", kind: "text", hint: "as Europe/London" },
  { name: "aliases", label: "Aliases", kind: "addresses", hint: "one address on each line" },
  { name: "metadata", label: "Metadata", kind: "json", hint: "JSON: an object of texts, numbers, true, false or null" },
  { name: "preferences", label: "Preferences", kind: "json", hint: "JSON: an object" },
];

const OTHERS = {
  id: "Id", name: "Name", status: "Status", version: "Version", created_at: "Created", updated_at: "Changed",
  last_login_at: "Last login", deleted_at: "Deleted",
};

export const LABELS = { ...OTHERS, ...Object.fromEntries(EDITABLE.map(({ name, label }) => [name, label])) };

/** What a field is called; a name that no field has is its own label. */
export function labelOf(name) {
  return Object.hasOwn(LABELS, name) ? LABELS[name] : name;
}

/** The columns of the list, in this order; `name` stands for the three names. */
export const COLUMNS = [
  "name", "email", "status", "username", "phone", "external_id", "aliases", "email_verified", "locale", "timezone", "metadata",
  "created_at", "updated_at", "last_login_at", "deleted_at", "version", "id",
];
export const DEFAULT_COLUMNS = ["name", "email", "status", "created_at"];

export const STATUS_CLASSES = { active: "good", pending: "warn", suspended: "bad", deleted: "muted" };

export function nameText(user) {
  return user.display_name || [user.given_name, user.family_name].filter(Boolean).join(" ");
}

/** What a user is called in sentences and links. */
export function title(user) {
  return nameText(user) || user.email || user.username || user.id;
}

export function statusBadge(status) {
  return el("span", { class: `status ${STATUS_CLASSES[status] || ""}` }, status);
}

/** A field's value as an element or text. */
export function show(name, value) {
  if (value === null || value === undefined || value === "") return "–";
  if (name === "status") return statusBadge(value);
  if (name.endsWith("_at")) return time(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.length ? value.flatMap((each, index) => [index ? ", " : "", isolated(each)]) : "–";
  if (typeof value === "object") return Object.keys(value).length ? isolated(JSON.stringify(value)) : "–";
  return typeof value === "number" ? String(value) : isolated(value);
}
