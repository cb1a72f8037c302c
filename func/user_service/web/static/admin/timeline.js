/** The audit trail of one user: who changed what, and when. It has names of fields and never their values. */

import { read } from "./api.js";
import { button, el, isolated, time } from "./dom.js";
import { labelOf, statusBadge } from "./fields.js";
import { empty, failure, loading } from "./notices.js";
import { current } from "./session.js";

const PAGE_SIZE = 200;
const PAGES_AT_ONCE = 5;
export const SENTENCES = {
  created: "Created", updated: "Changed", status_changed: "Status changed", deleted: "Deleted", restored: "Restored",
  erased: "Erased", purged: "Purged", exported: "Exported",
};

export class Timeline {
  constructor(id, signal) {
    this.id = id;
    this.signal = signal;
    this.element = el("div", {}, loading("Loading the changes."));
  }

  /** Reads the trail anew; resolves to the number of changes. */
  async load() {
    this.changes = [];
    this.cursor = undefined;
    return this.more();
  }

  /** The service gives the oldest change first, and this shows the newest first. */
  async more() {
    try {
      for (let page = 0; page < PAGES_AT_ONCE && this.cursor !== null; page++) {
        const { items, next_cursor: next } = await read(`users/${this.id}/audit`, { limit: PAGE_SIZE, cursor: this.cursor }, this.signal);
        this.changes.push(...items);
        this.cursor = next;
      }
      this.show();
    } catch (error) {
      if (this.signal.aborted) return 0;
      if (error.code === "user_not_found") this.element.replaceChildren(empty("There is neither a user nor a change with this id."));
      else this.element.replaceChildren(failure(error, () => this.load()));
    }
    return this.changes.length;
  }

  show() {
    if (!this.changes.length) return this.element.replaceChildren(empty("No change is kept any more."));
    const rest = this.cursor !== null && el("p", {}, button("Read later changes", () => this.more()));
    return this.element.replaceChildren(...[rest, el("ol", { class: "timeline", reversed: true }, ...[...this.changes].reverse().map(describe))].filter(Boolean));
  }
}

export function describe(change) {
  const fields = change.changed.filter((name) => name !== "status").map(labelOf).join(", ");
  return el("li", {},
    el("p", {}, el("b", {}, SENTENCES[change.type] || change.type), " ",
      change.type === "status_changed" || change.type === "restored" ? ["to ", statusBadge(change.status)] : ""),
    fields && change.type !== "created" && el("p", {}, fields),
    el("p", { class: "muted" }, time(change.changed_at), " by ", el("b", {}, isolated(change.actor)), change.actor === current()?.actor ? " (you)" : ""),
    change.reason && el("p", {}, "Reason: ", isolated(change.reason)),
    change.request_id && el("p", { class: "muted" }, "version ", String(change.version), ", request ", isolated(change.request_id)));
}
