/** One operation on many users, in batches that each take effect once. */

import { ConnectionLost, call, change, patiently, pause } from "./api.js";

const BATCH_SIZE = 500;
const ATTEMPTS = 3;

export class BatchRun {
  /** `items` are those of the API's batch, each with an `id`. A dry run changes nothing. */
  constructor(operation, items, { dryRun = false, reason = "" } = {}) {
    this.reason = reason;
    this.operation = operation;
    this.items = items;
    this.dryRun = dryRun;
    this.position = 0;
    this.succeeded = [];
    this.skipped = 0;
    this.failures = [];
    this.stopped = false;
    this.request = null;
  }

  get isDone() {
    return this.position === this.items.length;
  }

  /** No batch is begun after this. */
  stop() {
    this.stopped = true;
  }

  /** Runs, or goes on after a failure: the batch whose answer was lost is sent again with its key. */
  async run(onProgress) {
    this.stopped = false;
    while (!this.isDone && !this.stopped) {
      const items = this.items.slice(this.position, this.position + BATCH_SIZE);
      this.request ??= this.prepare(items);
      const onWait = (seconds) => onProgress(this, `The service asks to wait for ${seconds} seconds.`);
      this.note(items, await persistently(() => patiently(() => this.request(this.reason), { onWait })));
      this.request = null;
      this.position += items.length;
      onProgress(this, "");
    }
  }

  prepare(items) {
    const path = `users/batch/${this.operation}`;
    const body = { dry_run: this.dryRun, items };
    return this.dryRun ? () => call("POST", path, { body }) : change("POST", path, { body });
  }

  note(items, { items: outcomes }) {
    for (const { index, status, error } of outcomes) {
      if (status === "failed") this.failures.push({ id: items[index].id, code: error.code, detail: error.detail });
      else if (status === "skipped") this.skipped++;
      else this.succeeded.push(items[index]);
    }
  }

  /** How many failed for which reason, the most frequent first. */
  reasons() {
    const counts = new Map();
    for (const { code, detail } of this.failures) {
      const { count = 0 } = counts.get(code) || {};
      counts.set(code, { count: count + 1, detail });
    }
    return [...counts].map(([code, found]) => ({ code, ...found })).sort((one, other) => other.count - one.count);
  }
}

/** The result of a request that is sent again while the connection is lost for a moment. */
async function persistently(request) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await request();
    } catch (error) {
      if (!(error instanceof ConnectionLost) || attempt === ATTEMPTS) throw error;
      await pause(500 * attempt);
    }
  }
}

/** Failures as CSV. */
export function failuresFile(failures) {
  const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const rows = failures.map(({ id, code, detail }) => [id, code, detail].map(cell).join(","));
  return ["id,code,detail", ...rows, ""].join("\r\n");
}
