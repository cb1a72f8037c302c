/**
 * The first records of a file as an import understands them. It reads as the service does: CSV with comma, semicolon or
 * tab, a `sep=` line, a byte order mark and any line end; names of columns in any case; trimmed cells; NDJSON.
 */

import { EDITABLE } from "./fields.js";
import { isObject } from "./patches.js";

const HEAD_BYTES = 256 * 1024;
const RECORDS = 5;
const SEPARATORS = [",", ";", "\t"];
const SEPARATOR_LINE = /^"?sep=(.?)([" ,;\t]*)$/i;
const FIELDS = [
  ...EDITABLE.map(({ name }) => name), "id", "status", "created_at", "last_login_at", "version", "updated_at", "deleted_at",
];
const FLAGS = { true: true, false: false, 1: true, 0: false, yes: true, no: false };

/** The format of a file by its name, else by its first character: `csv` or `ndjson`. */
export async function findFormat(file) {
  const ending = /\.(csv|tsv|ndjson|jsonl|json)$/i.exec(file.name)?.[1].toLowerCase();
  if (ending) return ["csv", "tsv"].includes(ending) ? "csv" : "ndjson";
  return (await file.slice(0, 1024).text()).trimStart().startsWith("{") ? "ndjson" : "csv";
}

/** `records` as pairs of names and values, `columns` of a CSV file, and `notes`: sentences about what is unusual. */
export async function preview(file, format) {
  const bytes = await file.slice(0, HEAD_BYTES).arrayBuffer();
  const text = new TextDecoder().decode(bytes);
  const notes = [];
  if (file.size === 0) notes.push("The file is empty.");
  if (text.includes("\ufffd") || text.includes("\0")) notes.push("Some bytes are not UTF-8: save the file in UTF-8.");
  return format === "csv" ? previewCsv(text, notes) : previewLines(text, notes);
}

function previewLines(text, notes) {
  const lines = text.split(/\r\n|\n|\r/).filter((line) => line.trim()).slice(0, RECORDS);
  const records = [];
  for (const [index, line] of lines.entries()) {
    let record;
    try {
      record = JSON.parse(line);
    } catch {
      record = null;
    }
    if (isObject(record)) records.push(Object.entries(record));
    else notes.push(`Record ${index + 1} is not a JSON object.`);
  }
  return { records, columns: [], notes };
}

function previewCsv(text, notes) {
  const { rows, separator } = readRows(text);
  const [header = [], ...others] = rows.filter((row) => row.some((cell) => cell.trim()));
  const names = header.map((cell) => cell.trim());
  while (names.length && !names.at(-1)) names.pop();
  const columns = names.map((name) => ({ name, field: findField(name) }));
  const unknown = columns.filter(({ field }) => field === null).map(({ name }) => name || "(empty)");
  if (unknown.length) notes.push(`No field is called: ${unknown.join(", ")}.`);
  notes.push(`Cells are separated by ${{ ",": "commas", ";": "semicolons", "\t": "tabs" }[separator]}.`);
  const records = others.slice(0, RECORDS).map((row) => columns.flatMap(({ field }, index) => {
    const cell = (row[index] || "").trim();
    return field === null || !cell ? [] : [[field, readCell(field, cell)]];
  }));
  return { records, columns, notes };
}

function findField(name) {
  const lowered = name.toLowerCase();
  if (FIELDS.includes(lowered)) return lowered;
  return lowered.startsWith("metadata.") && name.length > "metadata.".length ? `metadata.${name.slice("metadata.".length)}` : null;
}

function readCell(field, cell) {
  if (field === "aliases") return cell.split(/[\s;]+/).filter(Boolean);
  if (field === "email_verified") return FLAGS[cell.toLowerCase()] ?? `${cell} (neither true nor false)`;
  if (field !== "metadata" && field !== "preferences") return cell;
  try {
    return JSON.parse(cell);
  } catch {
    return `${cell} (not JSON)`;
  }
}

/** The rows of the beginning of a CSV file; the last one may be cut off and is left out unless it is the only one. */
function readRows(text) {
  let separator = null;
  let rest = text;
  const [first] = text.split(/\r\n|\n|\r/, 1);
  const declared = SEPARATOR_LINE.exec(first);
  if (declared && SEPARATORS.includes(declared[1])) {
    separator = declared[1];
    rest = text.slice(first.length).replace(/^(?:\r\n|\n|\r)/, "");
  }
  const [header] = rest.split(/\r\n|\n|\r/, 1);
  separator ??= SEPARATORS.map((each) => [splitRow(header, each).length, each]).reduce((best, each) => (each[0] > best[0] ? each : best))[1];
  const rows = [];
  for (let place = 0; place < rest.length && rows.length < RECORDS + 20; ) {
    const row = readRow(rest, place, separator);
    rows.push(row.cells);
    place = row.end;
  }
  return { rows, separator };
}

function splitRow(line, separator) {
  return readRow(line, 0, separator).cells;
}

/** One row from a place on. A quote opens at the start of a cell only, after spaces; two quotes within quotes are one. */
function readRow(text, start, separator) {
  const cells = [];
  let place = start;
  for (;;) {
    let cell = "";
    const quoted = /[ ]*"/y;
    quoted.lastIndex = place;
    if (quoted.test(text)) {
      place = quoted.lastIndex;
      for (;;) {
        const close = text.indexOf('"', place);
        if (close === -1) {
          cell += text.slice(place);
          place = text.length;
          break;
        }
        cell += text.slice(place, close);
        place = close + 1;
        if (text[place] !== '"') break;
        cell += '"';
        place++;
      }
    }
    const end = endOfCell(text, place, separator);
    cell += text.slice(place, end);
    cells.push(cell);
    place = end;
    if (text[place] === separator) {
      place++;
      continue;
    }
    if (text[place] === "\r" && text[place + 1] === "\n") place++;
    return { cells, end: place + 1 };
  }
}

function endOfCell(text, start, separator) {
  let place = start;
  while (place < text.length && text[place] !== separator && text[place] !== "\n" && text[place] !== "\r") place++;
  return place;
}
