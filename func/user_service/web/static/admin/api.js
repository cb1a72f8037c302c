/** Requests to the HTTP API. The key or token is in the memory of this module only. */

import { randomKey } from "./dom.js";

const BASE = new URL("api/v1/", document.baseURI);
let credential = "";
/** Asks for another key when this one is refused; resolves to whether there is one. */
let renew = async () => false;

/** A refusal of the service (RFC 9457). */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The service has answered with status ${status}.`);
    this.status = status;
    this.code = document.code || "";
    this.requestId = document.request_id || "";
    this.errors = document.errors || [];
    this.document = document;
    this.retryAfterSeconds = 0;
  }
}

/** Whether a change was refused because the user is not as it was when it was read. */
export function isStale(error) {
  return error instanceof Problem && ["version_mismatch", "user_not_found"].includes(error.code);
}

/** No answer has come. Whether a change was applied is not known. */
export class ConnectionLost extends Error {
  constructor() {
    super("The service does not respond. Check the connection, then try again.");
  }
}

/** Gives the credential that it replaces. */
export function setCredential(text) {
  const before = credential;
  credential = text;
  return before;
}

export function onRefused(handler) {
  renew = handler;
}

/** Asks for another key after a refusal; resolves to whether there is one. */
export function renewAfter(problem) {
  return renew(problem);
}

export function authorization() {
  return `Bearer ${credential}`;
}

export function address(path, query = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

/**
 * The response of a request, whatever was changed. Raises Problem, ConnectionLost, and AbortError for a `signal`.
 * `once` is an Idempotency-Key: a caller that repeats a request passes the same one.
 */
export async function send(method, path, options = {}) {
  const { query, body, headers = {}, signal, once, version, reason, mayRenew = true } = options;
  const own = { Accept: "application/json", ...headers, Authorization: authorization() };
  if (body !== undefined) own["Content-Type"] = method === "PATCH" ? "application/merge-patch+json" : "application/json";
  if (once) own["Idempotency-Key"] = once;
  if (reason) own["X-Change-Reason"] = asHeader(reason);
  if (version) own["If-Match"] = `"${version}"`;
  const init = { method, headers: own, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) init.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(address(path, query), init);
  } catch (error) {
    throw error.name === "AbortError" ? error : new ConnectionLost();
  }
  if (response.ok) return response;
  const problem = await readProblem(response);
  if (problem.status === 401 && mayRenew && (await renew(problem))) return send(method, path, { ...options, mayRenew: false });
  throw problem;
}

/** A text as the bytes of its UTF-8, of which `fetch` takes each for a character. */
export function asHeader(text) {
  return String.fromCharCode(...new TextEncoder().encode(text.trim()));
}

export async function readProblem(response) {
  let document = {};
  try {
    document = await response.json();
  } catch {
    // A proxy has answered, or the connection was lost: the status is all that is known.
  }
  const problem = new Problem(response.status, document);
  problem.retryAfterSeconds = Number(response.headers.get("Retry-After")) || 0;
  return problem;
}

/** The JSON of a response, or its text with `as: "text"`; null for an empty one. */
export async function call(method, path, options = {}) {
  const response = await send(method, path, options);
  try {
    if (options.as === "text") return await response.text();
    return response.status === 204 ? null : await response.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new ConnectionLost();
  }
}

export function read(path, query, signal) {
  return call("GET", path, { query, signal });
}

/**
 * A function that makes one change. It takes effect once, also when it is called again because no answer came; a
 * refusal ends it, so that the next call is another request. It takes a reason, which the audit trail keeps.
 */
export function change(method, path, options = {}) {
  let once = randomKey();
  return async (reason = "") => {
    try {
      return await call(method, path, { ...options, once, reason });
    } catch (error) {
      const isRefused = error instanceof Problem && error.status < 500 && error.code !== "idempotency_in_progress";
      if (isRefused) once = randomKey();
      throw error;
    }
  };
}

const PATIENT_ATTEMPTS = 8;

/** The result of `request`, which is repeated while the service asks to come back later. */
export async function patiently(request, { signal, onWait = () => {} } = {}) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await request();
    } catch (error) {
      if (![429, 503].includes(error.status) || attempt === PATIENT_ATTEMPTS) throw error;
      const seconds = Math.min(error.retryAfterSeconds || 1, 60);
      onWait(seconds);
      await pause(seconds * 1000, signal);
    }
  }
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
  });
}
