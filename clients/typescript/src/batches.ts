import { ServiceError, UnexpectedResponse, UserServiceError } from "./errors.js";
import type { components } from "./schema.js";

export type ItemResult = components["schemas"]["ItemOutcome"];

/** `atomic` applies all items or none, and takes one request; `dryRun` changes nothing. */
export interface BatchOptions {
  atomic?: boolean;
  dryRun?: boolean;
}

type Flags = { mode: "partial" | "atomic"; dry_run: boolean };
type Send<T> = (items: T[], flags: Flags) => Promise<{ items: ItemResult[] }>;

export const MAX_ITEMS = 1000;
// The service's 2 MiB, less what stands around the items.
const MAX_BYTES = 2 * 1024 * 1024 - 1024;

/**
 * Sends any number of items, in requests of up to a thousand; the results are in their order. If a request fails,
 * `results` of the error has what the earlier ones did, or the items for which an atomic batch was refused.
 */
export async function runBatch<T>(items: Iterable<T>, options: BatchOptions, send: Send<T>): Promise<ItemResult[]> {
  const flags: Flags = { mode: options.atomic ? "atomic" : "partial", dry_run: options.dryRun ?? false };
  const results: ItemResult[] = [];
  for (const chunk of options.atomic ? only(cut(items)) : cut(items)) {
    try {
      const part = await send(chunk, flags);
      if (part.items.length !== chunk.length) throw new UnexpectedResponse(200, "not one result for each item");
      const offset = results.length;
      results.push(...part.items.map((item) => shift(item, offset)));
    } catch (error) {
      if (error instanceof UserServiceError) error.results = refusedItems(error) ?? results;
      throw error;
    }
  }
  return results;
}

/** Throws RangeError for more than one. */
function only<T>(chunks: Iterable<T[]>): T[][] {
  const all = [...chunks];
  if (all.length > 1) throw new RangeError("an atomic batch has at most 1,000 items and 2 MiB");
  return all;
}

function refusedItems(error: UserServiceError): ItemResult[] | undefined {
  return error instanceof ServiceError && error.code === "batch_refused" ? error.problem.items : undefined;
}

/** The result with its place among all items given, in its pointer too. */
function shift(item: ItemResult, offset: number): ItemResult {
  const index = item.index + offset;
  const { error } = item;
  if (!error?.pointer) return { ...item, index };
  return { ...item, index, error: { ...error, pointer: error.pointer.replace(/^\/items\/\d+/, `/items/${index}`) } };
}

/** Chunks of at most a thousand items and two MiB; a larger item is a chunk of its own, which the service refuses. */
function* cut<T>(items: Iterable<T>): Generator<T[]> {
  const encoder = new TextEncoder();
  let chunk: T[] = [];
  let size = 0;
  for (const item of items) {
    const bytes = encoder.encode(JSON.stringify(item)).length + 1;
    if (chunk.length > 0 && (chunk.length === MAX_ITEMS || size + bytes > MAX_BYTES)) {
      yield chunk;
      chunk = [];
      size = 0;
    }
    chunk.push(item);
    size += bytes;
  }
  if (chunk.length > 0) yield chunk;
}
