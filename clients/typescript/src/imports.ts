import { createHash, randomUUID } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { extname } from "node:path";
import type { Client } from "openapi-fetch";
import { UserServiceError } from "./errors.js";
import { DEADLINE_HEADER, EXTRA_HEADER, type Send, sleep } from "./retry.js";
import type { components, operations, paths } from "./schema.js";

export type Import = components["schemas"]["ImportRead"];
export type FileFormat = Import["format"];

/** `wasDoneBefore`: the import was complete before this call, which has changed nothing. */
export interface FinishedImport extends Import {
  wasDoneBefore: boolean;
}

/** A record that failed; `record` and `line` count from 1. */
export interface ImportFailure {
  record: number;
  line: number | null;
  code: string;
  detail: string;
  field: string | null;
  pointer: string | null;
}

export interface ImportOptions {
  /** By default, what the name of the file tells. */
  format?: FileFormat;
  onConflict?: Import["on_conflict"];
  ignoreUnknownColumns?: boolean;
  keepIds?: boolean;
  dryRun?: boolean;
  /** By what the import is known; by default, the content of the file. */
  key?: string;
  /** Gets the import each second while it is under way. */
  onProgress?: (current: Import) => void;
}

const FORMATS: Record<string, FileFormat> = {
  ".csv": "csv",
  ".tsv": "csv",
  ".ndjson": "ndjson",
  ".jsonl": "ndjson",
  ".json": "ndjson",
};
const MEDIA_TYPES: Record<FileFormat, string> = { csv: "text/csv", ndjson: "application/x-ndjson" };
// The response comes after the last record, and the service reads no faster than it writes.
const IMPORT_SECONDS = 300;
const PROGRESS_SECONDS = 1;

/** Sends a file, and again as long as the import advances. See `Users.importFile`. */
export async function importFile(
  api: Client<paths>,
  send: Send,
  path: string,
  options: ImportOptions,
): Promise<FinishedImport> {
  const format = options.format ?? FORMATS[extname(path).toLowerCase()];
  if (format === undefined) throw new TypeError("path: the name does not tell whether the file is ndjson or csv");
  const file = await open(path);
  try {
    const key = options.key ?? (await makeKey(file, format, options));
    return await withProgress(api, key, options.onProgress, async (signal) => {
      for (let position = -1; ; ) {
        try {
          return await sendFile(api, send, file, format, key, options, signal);
        } catch (error) {
          if (!(error instanceof UserServiceError) || !error.isTransient) throw error;
          const found = await findImport(api, key);
          if (found === null || found.position <= position) throw error;
          position = found.position;
        }
      }
    });
  } finally {
    await file.close();
  }
}

async function sendFile(
  api: Client<paths>,
  send: Send,
  file: FileHandle,
  format: FileFormat,
  key: string,
  options: ImportOptions,
  signal: AbortSignal,
): Promise<FinishedImport> {
  let tries = 0;
  const openPieces = () => {
    tries++;
    return readPieces(file);
  };
  const query: operations["import_users"]["parameters"]["query"] = {
    on_conflict: options.onConflict ?? "fail",
    unknown_columns: options.ignoreUnknownColumns ? "ignore" : "fail",
    ...(options.keepIds && { keep_ids: true }),
    ...(options.dryRun && { dry_run: true }),
  };
  const { data, response } = await api.POST("/api/v1/users/imports", {
    params: { query, header: { "Idempotency-Key": key } },
    headers: { "Content-Type": MEDIA_TYPES[format], [EXTRA_HEADER]: String(IMPORT_SECONDS) },
    // What is sent are the pieces.
    body: "",
    fetch: (request) => send(request, openPieces),
    signal,
  });
  const isReplay = response.headers.get("idempotency-replayed") === "true";
  return { ...data!, wasDoneBefore: isReplay && tries === 1 };
}

/** The import that this caller has started with a key, or null. */
export async function findImport(
  api: Client<paths>,
  key: string,
  init: { headers?: Record<string, string>; signal?: AbortSignal } = {},
): Promise<Import | null> {
  const { data } = await api.GET("/api/v1/users/imports", { params: { query: { key } }, ...init });
  return data?.items[0] ?? null;
}

/** What `work` gives, while `onProgress` is told of the import. An error of `onProgress` ends the work. */
async function withProgress<T>(
  api: Client<paths>,
  key: string,
  onProgress: ImportOptions["onProgress"],
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const over = new AbortController();
  const reports = reportProgress(api, key, onProgress, over.signal).catch((error: unknown) => over.abort(error));
  try {
    return await work(over.signal);
  } finally {
    over.abort();
    await reports;
  }
}

async function reportProgress(
  api: Client<paths>,
  key: string,
  onProgress: ImportOptions["onProgress"],
  signal: AbortSignal,
): Promise<void> {
  if (onProgress === undefined) return;
  const single = { headers: { [DEADLINE_HEADER]: "0" }, signal };
  for (;;) {
    await sleep(PROGRESS_SECONDS, signal).catch(() => undefined);
    const found = signal.aborted ? null : await findImport(api, key, single).catch(() => null);
    if (signal.aborted) return;
    if (found !== null) onProgress(found);
  }
}

/** As the client for Python makes it, so that either resumes what the other began. */
async function makeKey(file: FileHandle, format: FileFormat, options: ImportOptions): Promise<string> {
  const content = createHash("sha256");
  for await (const piece of readPieces(file)) content.update(piece);
  const parts = ["file", content.digest("hex").slice(0, 32), format, options.onConflict ?? "fail"];
  if (options.keepIds) parts.push("ids");
  // A dry run changes nothing, and may be repeated.
  if (options.dryRun) parts.push("dry", randomUUID());
  return parts.join(":");
}

/** A stream is opened by the first read alone: one that is never read would keep the file open for ever. */
async function* readPieces(file: FileHandle): AsyncGenerator<Uint8Array, void, undefined> {
  yield* file.createReadStream({ start: 0, autoClose: false });
}

/** Undefined for what is no failure of a record. */
export function parseFailure(document: unknown): ImportFailure | undefined {
  const isFailure = typeof document === "object" && document !== null && "record" in document && "code" in document;
  return isFailure ? (document as ImportFailure) : undefined;
}
