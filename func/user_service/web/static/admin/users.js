/** The list of users: what a search has found, or what the filters of the address select. */

import { ConnectionLost, patiently, read } from "./api.js";
import { button, el, isolated, plural, table } from "./dom.js";
import { LABELS, show, title } from "./fields.js";
import { DEFAULT_SIZE, apiFilters, chosenColumns, fieldsOf, filterBar } from "./filters.js";
import { toolButtons } from "./list_tools.js";
import { forgetSearch, lastSearch } from "./finding.js";
import { announce, empty, failure, loading } from "./notices.js";
import { go, link } from "./router.js";
import { Selection } from "./selection.js";
import { may } from "./session.js";

export const TITLE = "users";
/** The cursor of the page before, by the cursor of a page. */
const before = new Map();

export function open(place, { query, signal }) {
  const list = new UserList(place, signal);
  list.update(query);
  return list;
}

class UserList {
  constructor(place, signal) {
    this.signal = signal;
    this.reading = null;
    /** The filters whose users are shown: they stay while another page of them is read. */
    this.shows = null;
    this.bar = el("div", {});
    this.found = el("div", {});
    this.total = el("p", { class: "muted", role: "status" });
    this.tools = el("div", { class: "actions" });
    this.message = el("div", {});
    this.rows = el("div", {});
    this.pager = el("div", { class: "actions" });
    this.chosen = el("div", { class: "bar", role: "group", "aria-label": "Selected users", hidden: true });
    this.selection = new Selection(() => this.showChosen());
    place.append(el("h1", { tabindex: "-1" }, "Users"), this.found, this.bar,
      el("div", { class: "actions" }, this.total, this.tools), this.message, this.rows, this.pager, this.chosen);
  }

  update(query) {
    this.query = query;
    this.search = query.found ? lastSearch() : null;
    if (!query.found) forgetSearch();
    this.showBar();
    this.message.replaceChildren();
    this.tools.replaceChildren();
    this.found.replaceChildren(...this.describeSearch());
    this.pager.replaceChildren();
    this.reading?.abort();
    if (!may("users:read")) {
      this.rows.replaceChildren(empty("This key does not allow reading users: it lacks the scope users:read."));
    } else if (query.found && this.search === null) {
      this.rows.replaceChildren(empty("The text of a search is kept on the page only, not in its address: search again."));
    } else if (this.search?.filters === null) {
      this.total.textContent = "0 users";
      this.shows = null;
      this.selection.clear();
      this.showRows([], []);
    } else {
      this.load();
    }
  }

  /** The controls are made anew, and the one that has the focus keeps it. */
  showBar() {
    const focused = this.bar.contains(document.activeElement) ? document.activeElement : null;
    const opened = [...this.bar.querySelectorAll("details")].map((each) => each.open);
    this.bar.replaceChildren(filterBar(this.query, (next) => go(link("users", { query: next }))));
    this.bar.querySelectorAll("details").forEach((each, index) => { each.open ||= opened[index] ?? false; });
    if (focused !== null) {
      const same = [...this.bar.querySelectorAll(`[name="${focused.name}"]`)];
      (same.find((each) => each.type !== "checkbox" || each.value === focused.value) || same[0])?.focus();
    }
  }

  get filters() {
    return { ...this.search?.filters, ...apiFilters(this.query) };
  }

  describeSearch() {
    if (this.search === null) return [];
    const { text, exact } = this.search;
    const links = exact.flatMap((user) => [" ", el("a", { href: link("user", { id: user.id }) }, isolated(title(user)))]);
    return [el("div", { class: "notice" },
      el("p", {}, "Found for ", el("b", {}, isolated(text)), ". ", button("Show all users", () => go(link("users")), { class: "plain" })),
      exact.length > 0 && el("p", {}, "With exactly this key:", ...links))];
  }

  async load() {
    this.reading = new AbortController();
    const { signal } = this.reading;
    this.signal.addEventListener("abort", () => this.reading.abort());
    const columns = chosenColumns(this.query);
    const { sort, limit = DEFAULT_SIZE, cursor } = this.query;
    const shows = JSON.stringify(this.filters);
    if (this.shows !== shows) {
      this.rows.replaceChildren(loading("Loading users."));
      this.selection.clear();
    }
    this.shows = shows;
    this.rows.setAttribute("aria-busy", "true");
    this.count(signal);
    try {
      const page = await read("users", { ...this.filters, sort, limit, cursor, fields: fieldsOf(columns) }, signal);
      this.showRows(page.items, columns);
      this.showPager(page);
      this.tools.replaceChildren(...toolButtons(this));
    } catch (error) {
      if (signal.aborted) return;
      this.rows.replaceChildren(failure(error, () => this.retry(error)));
    } finally {
      if (!signal.aborted) this.rows.removeAttribute("aria-busy");
    }
  }

  retry(error) {
    if (error.code === "invalid_cursor") go(link("users", { query: { ...this.query, cursor: "" } }));
    else this.load();
  }

  /** The total takes longer than a page where there are many users, so it is asked for beside it. */
  async count(signal) {
    this.total.textContent = "Counting.";
    try {
      const query = { ...this.filters, limit: 1, fields: "id", count: "true" };
      const { total } = await patiently(() => read("users", query, signal), { signal });
      this.total.textContent = plural(total, "user");
    } catch {
      if (!signal.aborted) this.total.textContent = "How many users there are could not be counted.";
    }
  }

  showRows(users, columns) {
    if (!users.length) {
      this.rows.replaceChildren(empty(this.search || Object.keys(this.filters).length
        ? "No user matches. Search for another text, or take a filter away."
        : "There are no users yet."));
      return announce("No user matches.");
    }
    this.users = users;
    const boxes = { type: "checkbox", "aria-label": "Select the users on this page", onchange: (event) => this.selection.setAll(users, event.target.checked) };
    this.all = el("input", boxes);
    const heads = [el("th", { class: "short" }, this.all), ...columns.map((name) => LABELS[name])];
    this.rows.replaceChildren(table("Users", heads, users.map((user) => this.row(user, columns))));
    this.showChosen();
    return announce(`${plural(users.length, "user")} shown.`);
  }

  row(user, columns) {
    const cells = columns.map((name, index) => {
      const content = name === "name" ? isolated(title(user)) : show(name, user[name]);
      const anchor = index === 0 && el("a", { href: link("user", { id: user.id }) }, ...[content].flat());
      return anchor ? el("th", { scope: "row" }, anchor) : el("td", {}, ...[content].flat());
    });
    const box = el("input", {
      type: "checkbox", checked: this.selection.has(user.id), "aria-label": `Select ${title(user)}`,
      onchange: (event) => this.selection.set(user, event.target.checked),
    });
    return el("tr", { "data-id": user.id }, el("td", { class: "short" }, box), ...cells);
  }

  /** The bar with what can be done with the selected users; the boxes say who they are. */
  async showChosen() {
    const { selection } = this;
    this.chosen.hidden = selection.size === 0;
    if (this.all) {
      const count = this.users.filter(({ id }) => selection.has(id)).length;
      this.all.checked = count === this.users.length;
      this.all.indeterminate = count > 0 && count < this.users.length;
    }
    for (const row of this.rows.querySelectorAll("tbody tr")) {
      const isSelected = selection.has(row.dataset.id);
      row.classList.toggle("chosen", isSelected);
      row.querySelector("input").checked = isSelected;
    }
    if (selection.size === 0) return;
    let buttons;
    try {
      const { bulkButtons } = await import("./bulk.js");
      buttons = bulkButtons(selection.versions, () => { selection.clear(); this.load(); });
    } catch {
      buttons = [failure(new ConnectionLost(), () => this.showChosen())];
    }
    this.chosen.replaceChildren(el("b", { role: "status" }, `${plural(selection.size, "user")} selected`),
      ...buttons,
      button("Clear the selection", () => selection.clear(), { class: "plain" }));
  }

  showPager({ next_cursor: next }) {
    const { cursor = "" } = this.query;
    const page = (to) => link("users", { query: { ...this.query, cursor: to } });
    if (next) before.set(next, cursor);
    const previous = before.get(cursor);
    this.pager.replaceChildren(...[
      cursor && previous !== undefined && el("a", { class: "button", href: page(previous) }, "Previous page"),
      cursor && el("a", { class: "button", href: page("") }, "First page"),
      next && el("a", { class: "button", href: page(next), rel: "next" }, "Next page"),
    ].filter(Boolean));
  }
}
