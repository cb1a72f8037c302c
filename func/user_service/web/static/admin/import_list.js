/** The latest imports: how far each is, what came of it, and its failures as a file. */

import { read } from "./api.js";
import { button, el, number, plural, table, time } from "./dom.js";
import { download } from "./download.js";
import { empty, failure, loading } from "./notices.js";
import { may } from "./session.js";

const POLL_MILLISECONDS = 2000;
const STATE_CLASSES = { completed: "good", running: "muted", interrupted: "warn", failed: "bad" };

export function countsOf({ position, created, updated, skipped, failed }) {
  return `${plural(position, "record")}: ${number(created)} created, ${number(updated)} changed, ${number(skipped)} left as they are, ${number(failed)} failed.`;
}

/** Saves the failures of an import; what goes wrong is shown in `place`. */
export function failuresButton({ id }, place) {
  const save = async () => {
    try {
      await download(`users/imports/${id}/errors`, `import-${id}-failures.ndjson`);
    } catch (error) {
      place.append(failure(error, save));
    }
  };
  return button("Save the failures as a file", save);
}

export class ImportList {
  constructor(signal) {
    this.signal = signal;
    this.place = el("div", {}, loading("Loading the imports."));
    this.message = el("div", {});
    this.element = el("section", { "aria-labelledby": "imports" }, el("h2", { id: "imports" }, "Latest imports"), this.message, this.place);
    signal.addEventListener("abort", () => clearTimeout(this.timer));
    if (may("users:read")) this.load();
    else this.place.replaceChildren(empty("This key does not allow reading imports: it lacks the scope users:read."));
  }

  async load() {
    clearTimeout(this.timer);
    try {
      const { items } = await read("users/imports", {}, this.signal);
      this.show(items);
      if (items.some(({ state }) => state === "running")) this.timer = setTimeout(() => this.load(), POLL_MILLISECONDS);
    } catch (error) {
      if (!this.signal.aborted) this.place.replaceChildren(failure(error, () => this.load()));
    }
  }

  show(imports) {
    if (!imports.length) return this.place.replaceChildren(empty("No import has been made in the last 30 days."));
    const rows = imports.map((each) => el("tr", {},
      el("td", {}, time(each.started_at)),
      el("td", { class: STATE_CLASSES[each.state] }, each.state, each.dry_run ? " (dry run)" : ""),
      el("td", {}, each.format.toUpperCase()),
      el("td", {}, countsOf(each)),
      el("td", {}, each.failed ? failuresButton(each, this.message) : "–")));
    return this.place.replaceChildren(table("Latest imports", ["Started", "State", "Format", "What came of it", "Failures"], rows));
  }
}
