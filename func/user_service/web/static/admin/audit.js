/** The audit over all users: who changed or exported what, and when, the newest first. */

import { read } from "./api.js";
import { el, isolated, table, time } from "./dom.js";
import { labelOf } from "./fields.js";
import { dayFilter } from "./filters.js";
import { empty, failure, loading } from "./notices.js";
import { go, link } from "./router.js";
import { may } from "./session.js";
import { SENTENCES } from "./timeline.js";

export const TITLE = "audit";
const FILTERS = ["actor", "type", "user_id", "after", "before"];

export function open(place, { query, signal }) {
  const view = new AuditView(place, signal);
  view.update(query);
  return view;
}

class AuditView {
  constructor(place, signal) {
    this.signal = signal;
    this.bar = el("div", {});
    this.rows = el("div", {});
    this.pager = el("div", { class: "actions" });
    place.append(el("h1", { tabindex: "-1" }, "Audit"), this.bar, this.rows, this.pager);
  }

  update(query) {
    this.query = query;
    this.pager.replaceChildren();
    if (!may("audit:read")) return this.rows.replaceChildren(empty("This key does not allow reading the audit: it lacks the scope audit:read."));
    const focused = this.bar.contains(document.activeElement) && document.activeElement.name;
    this.bar.replaceChildren(this.filterBar());
    if (focused) this.bar.querySelector(`[name="${focused}"]`)?.focus();
    return this.load();
  }

  filterBar() {
    const change = (changes) => go(link("audit", { query: { ...this.query, cursor: "", ...changes } }));
    const text = (label, name) => el("label", {}, label, el("input", {
      name, value: this.query[name] || "", autocomplete: "off", spellcheck: "false", onchange: (event) => change({ [name]: event.target.value.trim() }),
    }));
    const types = Object.entries(SENTENCES).map(([value, title]) => el("option", { value }, title));
    return el("div", { class: "filters", role: "group", "aria-label": "Filters" },
      text("Actor, as api-key:billing", "actor"),
      el("label", {}, "What was done", el("select", { name: "type", value: this.query.type || "", onchange: (event) => change({ type: event.target.value }) },
        el("option", { value: "" }, "anything"), ...types)),
      text("Id of the user", "user_id"),
      dayFilter("On or after", "after", this.query, change),
      dayFilter("Before", "before", this.query, change));
  }

  async load() {
    this.reading?.abort();
    this.reading = new AbortController();
    const { signal } = this.reading;
    this.signal.addEventListener("abort", () => this.reading.abort());
    this.rows.replaceChildren(loading("Loading the audit."));
    const filters = Object.fromEntries(FILTERS.map((name) => [name, this.query[name]]));
    try {
      this.show(await read("audit", { ...filters, cursor: this.query.cursor }, signal));
    } catch (error) {
      if (!signal.aborted) this.rows.replaceChildren(failure(error, () => this.load()));
    }
  }

  show({ items, next_cursor: next }) {
    if (!items.length) return this.rows.replaceChildren(empty("Nothing is logged that these filters select. Take a filter away, or look at an earlier time."));
    const heads = ["When", "What", "User", "Fields", "By", "Reason"];
    this.rows.replaceChildren(table("Audit", heads, items.map((entry) => this.row(entry))));
    const page = (cursor) => link("audit", { query: { ...this.query, cursor } });
    return this.pager.replaceChildren(...[
      this.query.cursor && el("a", { class: "button", href: page("") }, "Newest"),
      next && el("a", { class: "button", href: page(next), rel: "next" }, "Earlier"),
    ].filter(Boolean));
  }

  row(entry) {
    const actor = el("a", { href: link("audit", { query: { ...this.query, cursor: "", actor: entry.actor } }) }, isolated(entry.actor));
    return el("tr", {},
      el("td", {}, time(entry.changed_at)),
      el("td", {}, SENTENCES[entry.type] || entry.type, entry.type === "status_changed" ? ` to ${entry.status}` : ""),
      el("td", {}, entry.user_id ? el("a", { href: link("user", { id: entry.user_id }) }, entry.user_id) : "many users"),
      el("td", {}, entry.changed.map(labelOf).join(", ") || "–"),
      el("td", {}, actor),
      el("td", {}, entry.reason ? isolated(entry.reason) : "–"));
  }
}
