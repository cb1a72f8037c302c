/** Imports: a file is dropped, its first records are shown, a dry run says what would happen, then it is applied. */

import { asHeader, call } from "./api.js";
import { button, el, isolated, number, plural, randomKey, table } from "./dom.js";
import { askToLeave, reasonField } from "./dialogs.js";
import { labelOf, show } from "./fields.js";
import { findFormat, preview } from "./file_preview.js";
import { ImportList, countsOf, failuresButton } from "./import_list.js";
import { announce, empty, explain, failure, loading, notice } from "./notices.js";
import { guard } from "./router.js";
import { may } from "./session.js";
import { Stopped, Upload } from "./upload.js";

export const TITLE = "import";
const MEDIA_TYPES = { csv: "text/csv", ndjson: "application/x-ndjson" };
const POLL_MILLISECONDS = 1000;
const SHOWN_FAILURES = 20;

export function open(place, { signal }) {
  return new ImportView(place, signal);
}

class ImportView {
  constructor(place, signal) {
    this.signal = signal;
    this.file = null;
    this.body = el("div", {});
    this.result = el("div", {});
    this.list = new ImportList(signal);
    place.append(el("h1", { tabindex: "-1" }, "Import"), ...(may("users:write") ? [this.dropZone(), this.body, this.result]
      : [empty("This key does not allow imports: it lacks the scope users:write.")]), this.list.element);
    signal.addEventListener("abort", () => this.upload?.stop());
  }

  dropZone() {
    const input = el("input", { type: "file", accept: ".csv,.tsv,.ndjson,.jsonl,text/csv", onchange: () => this.take(input.files[0]) });
    const zone = el("div", { class: "drop" }, el("label", {}, "Drop a file of CSV or NDJSON here, or choose one", input));
    const over = (isOver) => (event) => { event.preventDefault(); zone.classList.toggle("over", isOver); };
    zone.addEventListener("dragover", over(true));
    zone.addEventListener("dragleave", over(false));
    zone.addEventListener("drop", (event) => { over(false)(event); this.take(event.dataTransfer.files[0]); });
    return zone;
  }

  /** Shows the first records of a file. */
  async take(file) {
    if (!file || this.upload) return;
    this.file = file;
    this.result.replaceChildren();
    this.body.replaceChildren(loading("Reading the first records."));
    try {
      this.format = await findFormat(file);
      const { records, notes } = await preview(file, this.format);
      this.body.replaceChildren(this.describe(records, notes), this.options());
      announce(`${plural(records.length, "record")} of the file ${records.length === 1 ? "is" : "are"} shown.`);
    } catch {
      this.body.replaceChildren(notice("bad", "The file can't be read. Choose it again."));
    }
  }

  describe(records, notes) {
    const names = [...new Set(records.flatMap((record) => record.map(([name]) => name)))];
    const rows = records.map((record) => {
      const values = Object.fromEntries(record.map(([name, value]) => [`field ${name}`, value]));
      return el("tr", {}, ...names.map((name) => el("td", {}, ...[show("", values[`field ${name}`])].flat())));
    });
    return el("section", { "aria-labelledby": "first" },
      el("h2", { id: "first" }, "The first records as they are understood"),
      el("p", {}, isolated(this.file.name), `, ${number(Math.ceil(this.file.size / 1024))} KiB, ${this.format.toUpperCase()}`),
      ...notes.map((text) => el("p", { class: "muted" }, text)),
      rows.length ? table("First records", names.map((name) => isolated(labelOf(name))), rows)
        : empty("No record is found at the beginning of the file."));
  }

  options() {
    this.once = null;
    const renew = () => { this.once = null; };
    return el("form", { class: "filters", onchange: renew, onsubmit: (event) => { event.preventDefault(); this.run(event.target, event.submitter.value === "dry"); } },
      el("label", {}, "If a user exists already",
        el("select", { name: "on_conflict" },
          el("option", { value: "fail" }, "count the record as failed"), el("option", { value: "skip" }, "leave the user as it is"), el("option", { value: "update" }, "change the user"))),
      this.format === "csv" && el("label", { class: "line" }, el("input", { type: "checkbox", name: "unknown_columns", value: "ignore" }), "pass over unknown columns"),
      el("label", { class: "line" }, el("input", { type: "checkbox", name: "keep_ids", value: "true" }), "keep the ids of an export"),
      reasonField(), el("button", { value: "dry" }, "Dry run"), el("button", { value: "apply", class: "primary" }, "Import"));
  }

  /** Sends the file. The same file under its key goes on where it has stopped. */
  async run(form, dryRun) {
    const { reason, ...options } = Object.fromEntries(new FormData(form));
    const query = { ...options, dry_run: dryRun ? "true" : "" };
    if (this.once?.dryRun !== dryRun) this.once = { key: randomKey(), dryRun };
    const once = this.once;
    const bar = el("progress", { max: this.file.size || 1, value: 0, "aria-label": "Sent" });
    const sentence = el("p", { role: "status" }, dryRun ? "Dry run, which changes nothing." : "Importing.");
    const headers = { "Content-Type": MEDIA_TYPES[this.format], "Idempotency-Key": once.key, ...(reason && { "X-Change-Reason": asHeader(reason) }) };
    this.upload = new Upload("users/imports", this.file, { query, headers, onProgress: (sent) => { bar.value = sent; } });
    this.result.replaceChildren(el("div", { class: "notice" }, bar, sentence, el("p", {}, button("Stop", () => this.upload?.stop()))));
    for (const each of form.elements) each.disabled = true;
    guard(() => askToLeave("The import stops where it is. What was processed before stays."));
    const watching = this.watch(once.key, sentence, dryRun);
    try {
      const done = await this.upload.result;
      this.once = null;
      this.showResult(done, dryRun);
    } catch (error) {
      this.showStop(error, () => this.run(form, dryRun));
    } finally {
      this.upload = null;
      guard(null);
      clearInterval(watching);
      for (const each of form.elements) each.disabled = false;
      if (!this.signal.aborted) this.list.load();
    }
  }

  /** Says how many records are processed while the file is sent. */
  watch(key, sentence, dryRun) {
    return setInterval(async () => {
      try {
        const { items: [found] } = await call("GET", "users/imports", { query: { key }, signal: this.signal, mayRenew: false });
        if (found) sentence.textContent = `${dryRun ? "Dry run" : "Importing"}: ${plural(found.position, "record")} processed, ${number(found.failed)} failed.`;
      } catch {
        // The upload itself says what is wrong.
      }
    }, POLL_MILLISECONDS);
  }

  async showResult(done, dryRun) {
    const place = el("div", {});
    this.result.replaceChildren(el("section", { "aria-labelledby": "result" },
      el("h2", { id: "result" }, dryRun ? "Dry run: what would happen" : "The file is imported"),
      el("p", { role: "status" }, countsOf(done)), place));
    announce(`${dryRun ? "The dry run has ended" : "The file is imported"}: ${countsOf(done)}`);
    if (!done.failed) return;
    try {
      const response = await call("GET", `users/imports/${done.id}/errors`, { signal: this.signal, as: "text" });
      const failures = response.trim().split("\n").slice(0, SHOWN_FAILURES).map((line) => JSON.parse(line));
      place.append(listFailures(failures, done.failed), el("p", {}, failuresButton(done, this.result)));
    } catch (error) {
      if (!this.signal.aborted) place.append(failure(error, () => this.showResult(done, dryRun)));
    }
  }

  showStop(error, again) {
    const { import: stopped } = error.document || {};
    const applied = stopped?.position === undefined ? [] : [el("p", {}, countsOf(stopped))];
    const faults = (error.errors || []).map((fault) => el("li", {}, fault.detail));
    const isStopped = error instanceof Stopped;
    this.result.replaceChildren(el("div", { class: "notice bad", role: "alert" },
      el("p", {}, isStopped ? "The import is stopped. What was processed before stays." : explain(error)),
      ...applied, faults.length > 0 && el("ul", {}, ...faults),
      el("p", {}, "Going on sends the file again; what was processed before is not applied twice."),
      el("p", {}, button("Go on", again))));
  }
}

function listFailures(failures, count) {
  const rows = failures.map(({ record, line, code, detail, field }) => el("tr", {},
    el("td", { class: "short" }, number(record)), el("td", { class: "short" }, number(line)), el("td", {}, field ?? "–"), el("td", {}, detail), el("td", {}, code)));
  const shown = failures.length < count ? `The first ${failures.length} of ${plural(count, "failure")}` : "Failures";
  return table("Failures", ["Record", "Line", "Field", "What is wrong", "Code"], rows, shown);
}
