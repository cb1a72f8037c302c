import type { ItemResult } from "./batches.js";

/** One fault of a request. `pointer` is a JSON pointer into the body, or `?name`, `path:name`, `header:name`. */
export interface FieldError {
  pointer: string;
  code: string;
  detail: string;
}

/** All errors of this client. `isTransient`: the same request may succeed later. */
export class UserServiceError extends Error {
  isTransient = false;
  retryAfterSeconds: number | undefined;
  /** Of a batch: what its earlier requests did, or the items for which an atomic one was refused. */
  results: readonly ItemResult[] = [];
  override name = "UserServiceError";
}

/** No response, or half of one; `cause` says why. A write may have been applied. */
export class ConnectionFailed extends UserServiceError {
  override name = "ConnectionFailed";
  override isTransient = true;
}

/** A response that no version of this service sends: of a proxy, or damaged. */
export class UnexpectedResponse extends UserServiceError {
  override name = "UnexpectedResponse";

  constructor(
    readonly status: number,
    reason: string,
  ) {
    super(`The response ${status} is not one of the User Service: ${reason}`);
    // A success that can't be read: the repeated request gets the first response.
    this.isTransient = (status >= 200 && status < 300) || TRANSIENT_STATUSES.has(status);
  }
}

/** The service refused a request (RFC 9457). Decide on `code`; the text has no value of the request. */
export class ServiceError extends UserServiceError {
  override name = "ServiceError";
  readonly code: string;
  readonly detail: string;
  readonly requestId: string;
  readonly errors: readonly FieldError[];

  constructor(
    readonly status: number,
    readonly problem: Problem,
  ) {
    const errors = problem.errors ?? [];
    const faults = errors.slice(0, 5).map((error) => `; ${error.pointer} ${error.code}`);
    super(`${status} ${problem.code}${faults.join("")} (request ${problem.request_id ?? ""})`);
    this.code = problem.code;
    this.detail = problem.detail ?? "";
    this.requestId = problem.request_id ?? "";
    this.errors = errors;
    this.isTransient = TRANSIENT_STATUSES.has(status) || TRANSIENT_CODES.has(problem.code);
  }
}

export interface Problem {
  code: string;
  detail?: string;
  request_id?: string;
  errors?: FieldError[];
  /** Of an atomic batch: the items for which it was refused. */
  items?: ItemResult[];
}

const TRANSIENT_STATUSES = new Set([408, 429, 502, 503, 504]);
const TRANSIENT_CODES = new Set(["idempotency_in_progress", "import_in_progress"]);

export function isProblem(document: unknown): document is Problem {
  if (typeof document !== "object" || document === null || !("code" in document)) return false;
  const errors: unknown = "errors" in document ? document.errors : [];
  return typeof document.code === "string" && Array.isArray(errors) && errors.every(isFieldError);
}

function isFieldError(value: unknown): value is FieldError {
  return typeof value === "object" && value !== null && "code" in value && "pointer" in value;
}
