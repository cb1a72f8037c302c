/** The users that are selected in the list, over its pages. */

import { patiently, read } from "./api.js";
import { plural } from "./dom.js";

const PAGE_SIZE = 200;
export const MAX_SELECTED = 100_000;

export class Selection {
  constructor(onChange) {
    this.versions = new Map();
    this.onChange = onChange;
  }

  get size() {
    return this.versions.size;
  }

  has(id) {
    return this.versions.has(id);
  }

  set(user, isSelected) {
    if (isSelected) this.versions.set(user.id, user.version);
    else this.versions.delete(user.id);
    this.onChange();
  }

  setAll(users, isSelected) {
    for (const user of users) {
      if (isSelected) this.versions.set(user.id, user.version);
      else this.versions.delete(user.id);
    }
    this.onChange();
  }

  clear() {
    this.versions.clear();
    this.onChange();
  }

  /** Selects all users that the filters select, up to MAX_SELECTED. `onProgress` gets a sentence. */
  async selectAll(filters, { signal, onProgress }) {
    let cursor;
    do {
      const query = { ...filters, limit: PAGE_SIZE, cursor, fields: "version" };
      const page = await patiently(() => read("users", query, signal), { signal });
      for (const user of page.items) this.versions.set(user.id, user.version);
      cursor = page.next_cursor;
      onProgress(`${plural(this.size, "user")} selected so far.`);
    } while (cursor && this.size < MAX_SELECTED);
    this.onChange();
    return cursor === null;
  }
}
