/** What can be done with all users that the list selects, on whatever page they are: select them, or save them as a file. */

import { button, el, number } from "./dom.js";
import { download } from "./download.js";
import { announce, failure, notice } from "./notices.js";
import { MAX_SELECTED } from "./selection.js";

const FORMATS = { CSV: "text/csv", NDJSON: "application/x-ndjson" };

export function toolButtons(list) {
  return [
    button("Select all", () => selectAll(list)),
    ...Object.keys(FORMATS).map((name) => button(`Export as ${name}`, () => save(list, name))),
  ];
}

/** Shows a sentence that changes, with a button that stops the work; gives its signal and a function to say more. */
function progress(list, text) {
  const stop = new AbortController();
  list.signal.addEventListener("abort", () => stop.abort());
  const sentence = el("p", { role: "status" }, text);
  list.message.replaceChildren(el("div", { class: "notice" }, sentence, el("p", {}, button("Stop", () => stop.abort()))));
  return { signal: stop.signal, say: (more) => { sentence.textContent = more; } };
}

async function selectAll(list) {
  const { signal, say } = progress(list, "Selecting users.");
  try {
    const isAll = await list.selection.selectAll(list.filters, { signal, onProgress: say });
    list.message.replaceChildren();
    if (!isAll) list.message.replaceChildren(notice("warn", `The first ${number(MAX_SELECTED)} are selected; more are not selected at a time.`));
    announce(`${number(list.selection.size)} users are selected.`);
  } catch (error) {
    if (list.signal.aborted) return;
    if (signal.aborted) list.message.replaceChildren();
    else list.message.replaceChildren(failure(error, () => selectAll(list)));
    list.selection.clear();
  }
}

async function save(list, format) {
  const { signal, say } = progress(list, "Reading users.");
  const name = `users-${new Date().toISOString().slice(0, 10)}.${format.toLowerCase()}`;
  try {
    const size = await download("users/export", name, {
      query: list.filters, headers: { Accept: FORMATS[format] }, signal,
      onProgress: (bytes) => say(`${number(Math.ceil(bytes / 1024))} KiB read.`),
    });
    list.message.replaceChildren(notice("good", `The file ${name} is saved (${number(Math.ceil(size / 1024))} KiB). Protect it: it is not encrypted.`));
  } catch (error) {
    if (list.signal.aborted) return;
    if (signal.aborted) list.message.replaceChildren(notice("warn", "The export is stopped. No file is saved."));
    else list.message.replaceChildren(failure(error, () => save(list, format)));
  }
}
