/** The filters, order and columns of the list. What they say stands in the address, and is not personal. */

import { el } from "./dom.js";
import { COLUMNS, DEFAULT_COLUMNS, LABELS } from "./fields.js";

const STATUSES = [["", "any, not deleted"], ["pending"], ["active"], ["suspended"], ["deleted"]];
const ORDERS = [
  ["created_at", "oldest first"], ["-created_at", "newest first"],
  ["-updated_at", "last changed first"], ["updated_at", "last changed last"],
];
const SIZES = [["25"], ["50"], ["100"], ["200"]];
const TIMES = ["created_after", "created_before", "updated_after"];
const METADATA = "metadata.";
export const DEFAULT_SIZE = "50";

/** The parameters of the API for the query of an address. */
export function apiFilters(query) {
  const known = Object.entries(query).filter(([name]) => ["status", "include", ...TIMES].includes(name) || isMetadata(name));
  return Object.fromEntries(known);
}

function isMetadata(name) {
  return name.startsWith(METADATA) && name.length > METADATA.length;
}

export function chosenColumns(query) {
  const names = (query.columns || "").split(",").filter((name) => COLUMNS.includes(name));
  return names.length ? names : DEFAULT_COLUMNS;
}

/** The fields to ask for. */
export function fieldsOf(columns) {
  const names = columns.flatMap((name) => (name === "name" ? ["display_name", "given_name", "family_name"] : [name]));
  return [...new Set([...names, "version", "status", "email"])].join(",");
}

/** The controls; `onChange` gets the query of the new address. */
export function filterBar(query, onChange) {
  const change = (changes) => {
    const next = { ...query, cursor: "", ...changes };
    onChange(Object.fromEntries(Object.entries(next).filter(([, value]) => value)));
  };
  const choose = (label, name, choices, fallback) => el("label", {}, label,
    el("select", { name, value: query[name] || fallback, onchange: (event) => change({ [name]: event.target.value === fallback ? "" : event.target.value }) },
      ...choices.map(([value, text = value]) => el("option", { value }, text))));
  return el("div", { class: "filters", role: "group", "aria-label": "Filters" },
    choose("Status", "status", STATUSES, ""),
    el("label", { class: "line" },
      el("input", { type: "checkbox", name: "include", checked: query.include === "deleted", onchange: (event) => change({ include: event.target.checked ? "deleted" : "" }) }),
      "with deleted"),
    choose("Order", "sort", ORDERS, "created_at"),
    details("More filters", TIMES.some((name) => query[name]) || Object.keys(query).some(isMetadata),
      dayFilter("Created on or after", "created_after", query, change),
      dayFilter("Created before", "created_before", query, change),
      dayFilter("Changed on or after", "updated_after", query, change),
      metadataFilter(query, change),
      choose("Users on a page", "limit", SIZES, DEFAULT_SIZE)),
    details("Columns", false, ...columnBoxes(query, change)));
}

function details(title, open, ...content) {
  return el("details", { open }, el("summary", {}, title), el("div", { class: "choices" }, ...content));
}

/** A day of the reader's clock; the API gets its first moment. */
export function dayFilter(label, name, query, change) {
  const moment = new Date(query[name] || NaN);
  const value = Number.isNaN(moment.getTime()) ? "" : localDay(moment);
  const onchange = (event) => change({ [name]: event.target.value && new Date(`${event.target.value}T00:00`).toISOString() });
  return el("label", {}, label, el("input", { type: "date", name, value, onchange }));
}

function localDay(moment) {
  const part = (value, size = 2) => String(value).padStart(size, "0");
  return `${part(moment.getFullYear(), 4)}-${part(moment.getMonth() + 1)}-${part(moment.getDate())}`;
}

function metadataFilter(query, change) {
  const value = Object.entries(query).filter(([name]) => isMetadata(name)).map(([name, text]) => `${name.slice(METADATA.length)}=${text}`)[0] || "";
  const onchange = (event) => {
    const [, key, text] = /^([^=]+)=(.+)$/.exec(event.target.value.trim()) || [];
    const without = Object.fromEntries(Object.keys(query).filter(isMetadata).map((name) => [name, ""]));
    if (event.target.value.trim() && !key) {
      event.target.setCustomValidity("Write a key, = and a value, as plan=pro.");
      return event.target.reportValidity();
    }
    event.target.setCustomValidity("");
    return change({ ...without, ...(key && { [METADATA + key.trim()]: text.trim() }) });
  };
  return el("label", {}, "Metadata, as plan=pro", el("input", { name: "metadata", value, onchange, autocomplete: "off", spellcheck: "false" }));
}

function columnBoxes(query, change) {
  const chosen = chosenColumns(query);
  return COLUMNS.map((name) => el("label", { class: "line" },
    el("input", {
      type: "checkbox", name: "column", value: name, checked: chosen.includes(name),
      onchange: (event) => {
        const names = COLUMNS.filter((each) => (each === name ? event.target.checked : chosen.includes(each)));
        change({ columns: names.join(",") === DEFAULT_COLUMNS.join(",") ? "" : names.join(","), cursor: query.cursor });
      },
    }),
    LABELS[name]));
}
