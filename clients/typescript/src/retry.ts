import { Readable } from "node:stream";
import { ConnectionFailed, isProblem, ServiceError, UnexpectedResponse, UserServiceError } from "./errors.js";

/**
 * How long a request is tried again: until `deadlineSeconds` after its start; 0 for a single try. Pauses double from the
 * first to the longest one, and are spread at random. `Retry-After` is kept in any case.
 */
export interface Retry {
  deadlineSeconds: number;
  firstPauseSeconds: number;
  longestPauseSeconds: number;
}

export const DEFAULT_RETRY: Retry = { deadlineSeconds: 60, firstPauseSeconds: 0.1, longestPauseSeconds: 10 };

export interface FetchOptions {
  retry: Retry;
  timeoutSeconds: number;
  /** The headers of the API key or the token, made for each try. */
  credentials: () => Promise<Record<string, string>>;
  fetch: (request: Request) => Promise<Response>;
}

/** `open` gives the pieces of the body for each try, in place of the body of the request. */
export type Send = (request: Request, open?: () => AsyncIterable<Uint8Array>) => Promise<Response>;

/** Overrides of one request: another deadline, or more time for one that waits for changes. Never sent. */
export const DEADLINE_HEADER = "x-client-deadline-seconds";
export const EXTRA_HEADER = "x-client-extra-seconds";

const WRITES = new Set(["POST", "PUT", "PATCH", "DELETE"]);
const STREAMED = "application/x-ndjson";
const MAX_DOUBLINGS = 16;
// A timer of Node.js takes no more than 32 bits of milliseconds.
const LONGEST_TIMER_SECONDS = 2_000_000;

/**
 * A `fetch` that repeats a request while its failure is transient and the deadline allows it. The first try has
 * `timeoutSeconds`, each further one no more than is left, and at least a second; a body in pieces has that time anew
 * after each piece. Every write carries an Idempotency-Key, made once for all its tries. Resolves to a success, whose
 * body has arrived as a whole unless it is NDJSON; everything else is thrown as a UserServiceError.
 */
export function makeFetch(options: FetchOptions): Send {
  return async (request, open) => {
    const headers = new Headers(request.headers);
    const deadlineSeconds = takeNumber(headers, DEADLINE_HEADER) ?? options.retry.deadlineSeconds;
    const extraSeconds = takeNumber(headers, EXTRA_HEADER) ?? 0;
    if (WRITES.has(request.method) && !headers.has("idempotency-key")) {
      headers.set("idempotency-key", crypto.randomUUID());
    }
    const whole = open !== undefined || request.body === null ? null : await request.arrayBuffer();
    const deadline = now() + deadlineSeconds;
    for (let failures = 0; ; failures++) {
      const { timeoutSeconds } = options;
      const limit = failures === 0 ? timeoutSeconds : Math.max(1, Math.min(timeoutSeconds, deadline - now()));
      try {
        for (const [name, value] of Object.entries(await options.credentials())) headers.set(name, value);
        const make = (signal: AbortSignal, advance: () => void) => {
          const body = open === undefined ? { body: whole } : { body: toStream(open(), advance), duplex: "half" };
          return new Request(request.url, { method: request.method, headers, redirect: "manual", signal, ...body });
        };
        return await tryOnce(make, options.fetch, limit + extraSeconds, request.signal);
      } catch (error) {
        if (!(error instanceof UserServiceError) || !error.isTransient) throw error;
        const pause = pauseSeconds(options.retry, failures, error.retryAfterSeconds);
        if (now() + pause > deadline) throw error;
        await sleep(pause, request.signal);
      }
    }
  };
}

/** `make` gives the request; it calls `advance` when a piece of its body was taken. */
async function tryOnce(
  make: (signal: AbortSignal, advance: () => void) => Request,
  fetch: (request: Request) => Promise<Response>,
  timeoutSeconds: number,
  signal: AbortSignal,
): Promise<Response> {
  const watch = new AbortController();
  const timer = setTimeout(() => watch.abort(new Error("time-out")), timeoutSeconds * 1000);
  const stop = () => watch.abort(signal.reason);
  signal.addEventListener("abort", stop);
  const request = make(watch.signal, () => timer.refresh());
  try {
    signal.throwIfAborted();
    const response = await fetch(request);
    if (response.ok && mediaType(response) === STREAMED) return response;
    const content = await response.arrayBuffer();
    checkResponse(response, content);
    const hasBody = response.status !== 204 && response.status !== 205;
    return new Response(hasBody ? content : null, { status: response.status, headers: response.headers });
  } catch (error) {
    if (error instanceof UserServiceError) throw error;
    signal.throwIfAborted();
    throw new ConnectionFailed(`No response from ${new URL(request.url).origin}`, { cause: error });
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
}

/** Throws ServiceError or UnexpectedResponse unless the response is a success of the service. */
function checkResponse(response: Response, content: ArrayBuffer): void {
  if (response.status === 204) return;
  const media = mediaType(response);
  const document = media.endsWith("json") ? parseJson(content) : undefined;
  if (response.ok) {
    if (media === "text/csv" || document !== undefined) return;
    throw new UnexpectedResponse(response.status, "no JSON");
  }
  const error = isProblem(document)
    ? new ServiceError(response.status, document)
    : new UnexpectedResponse(response.status, "no problem document");
  error.retryAfterSeconds = parseRetryAfter(response.headers.get("retry-after"));
  throw error;
}

/** Undefined for what is no JSON. */
function parseJson(content: ArrayBuffer): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(content));
  } catch {
    return undefined;
  }
}

function toStream(pieces: AsyncIterable<Uint8Array>, advance: () => void): ReadableStream {
  const watched = async function* () {
    for await (const piece of pieces) {
      advance();
      yield piece;
    }
  };
  return Readable.toWeb(Readable.from(watched())) as ReadableStream;
}

function mediaType(response: Response): string {
  return (response.headers.get("content-type") ?? "").split(";")[0]!.trim().toLowerCase();
}

/** Seconds from now, of a number or an HTTP date; undefined for what is neither. */
export function parseRetryAfter(text: string | null): number | undefined {
  if (text === null) return undefined;
  if (/^\s*\d+\s*$/.test(text)) return Number(text);
  const moment = /GMT\s*$/.test(text) ? Date.parse(text) : NaN;
  return Number.isNaN(moment) ? undefined : Math.max(0, (moment - Date.now()) / 1000);
}

export function pauseSeconds(retry: Retry, failures: number, retryAfterSeconds: number | undefined): number {
  const doubled = retry.firstPauseSeconds * 2 ** Math.min(failures, MAX_DOUBLINGS);
  return (retryAfterSeconds ?? 0) + Math.random() * Math.min(doubled, retry.longestPauseSeconds);
}

export function now(): number {
  return performance.now() / 1000;
}

/** Rejects with the signal's reason when it is aborted. */
export function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, Math.min(seconds, LONGEST_TIMER_SECONDS) * 1000);
    signal?.addEventListener("abort", stop, { once: true });
    if (signal?.aborted) stop();
  });
}

function takeNumber(headers: Headers, name: string): number | undefined {
  const text = headers.get(name);
  headers.delete(name);
  return text === null ? undefined : Number(text);
}
