import { createHmac, timingSafeEqual } from "node:crypto";
import { UserServiceError } from "./errors.js";
import type { components } from "./schema.js";

type Status = components["schemas"]["UserRead"]["status"];
type ChangeType = components["schemas"]["FeedChangeRead"]["type"];

/** Not a CloudEvent of this service, or its signature is missing or wrong. */
export class InvalidEvent extends UserServiceError {
  override name = "InvalidEvent";
}

/** A change of a user. `id` is the same in each delivery; of one user, a higher `data.version` is newer. */
export interface UserEvent {
  id: string;
  source: string;
  type: ChangeType;
  time: Date;
  /** Names of fields, never their values: read the user for them. */
  data: { id: string; version: number; status: Status; changed: string[]; actor: string };
  traceparent: string | undefined;
}

export interface VerifyOptions {
  /** The sink's secret, or several while it is rotated. Null: only a broker, which does not sign, reaches the sink. */
  secret: string | readonly string[] | null;
  source?: string;
  toleranceSeconds?: number;
}

/** Of `fetch`, or of a request of node:http. */
type Headers =
  | { forEach: (take: (value: string, name: string) => void) => void }
  | Record<string, string | string[] | undefined>;

// In the order of the document; the compiler compares them with it.
const STATUSES: Record<Status, true> = { active: true, pending: true, suspended: true, deleted: true };
const CHANGE_TYPES: Record<ChangeType, true> = {
  created: true,
  updated: true,
  status_changed: true,
  deleted: true,
  restored: true,
  purged: true,
  erased: true,
};
const EVENT_TYPE = /^org\.userservice\.user\.([a-z_]+)\.v1$/;
const TOLERANCE_SECONDS = 300;

/**
 * The event of a request: CloudEvents 1.0 over HTTP, binary or structured; `body` as it was received. Throws
 * InvalidEvent, and TypeError for a secret that is none.
 *
 * The signature (Standard Webhooks) is checked before anything else is read. It covers the id and the data of a binary
 * event, not its type and time, which TLS protects.
 */
export function verifyEvent(headers: Headers, body: string | Uint8Array, options: VerifyOptions): UserEvent {
  const lowered = lowerNames(headers);
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const { secret } = options;
  if (secret !== null) {
    const secrets = typeof secret === "string" ? [secret] : secret;
    checkSignature(lowered, bytes, secrets, options.toleranceSeconds ?? TOLERANCE_SECONDS);
  }
  const attributes = readAttributes(lowered, bytes);
  const { id, source, subject, time, traceparent, data } = attributes;
  const signedId = lowered.get("webhook-id") ?? "";
  if (secret !== null && id !== signedId && id !== decodePercents(signedId)) {
    throw new InvalidEvent("the id is not the signed one");
  }
  const type = EVENT_TYPE.exec(String(attributes["type"]))?.[1] ?? "";
  if (attributes["specversion"] !== "1.0" || !isKey(CHANGE_TYPES, type)) {
    throw new InvalidEvent("not an event about a user");
  }
  if (source !== (options.source ?? "/user-service")) throw new InvalidEvent("an event of another source");
  const moment = new Date(typeof time === "string" ? time : NaN);
  if (typeof id !== "string" || Number.isNaN(moment.valueOf())) throw new InvalidEvent("the event has no id or time");
  if (!isEventData(data)) throw new InvalidEvent("the data is not that of a change");
  if (subject !== data.id) throw new InvalidEvent("the subject is another user than that of the data");
  const trace = typeof traceparent === "string" ? traceparent : undefined;
  return { id, source, type, time: moment, data, traceparent: trace };
}

function lowerNames(headers: Headers): Map<string, string> {
  const lowered = new Map<string, string>();
  if (typeof headers.forEach === "function") {
    headers.forEach((value, name) => lowered.set(name.toLowerCase(), value));
    return lowered;
  }
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) lowered.set(name.toLowerCase(), String(value));
  }
  return lowered;
}

/** The attributes and `data` of a structured or a binary event. */
function readAttributes(headers: Map<string, string>, body: Uint8Array): Record<string, unknown> {
  const media = (headers.get("content-type") ?? "").split(";")[0]!.trim().toLowerCase();
  let document: unknown;
  try {
    document = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    throw new InvalidEvent("the body is not JSON");
  }
  if (media === "application/cloudevents+json") {
    if (typeof document !== "object" || document === null) throw new InvalidEvent("the body is not an object");
    return document as Record<string, unknown>;
  }
  const named = [...headers].filter(([name]) => name.startsWith("ce-"));
  const attributes = Object.fromEntries(named.map(([name, value]) => [name.slice(3), decodePercents(value)]));
  return { ...attributes, data: document };
}

function isEventData(data: unknown): data is UserEvent["data"] {
  if (typeof data !== "object" || data === null) return false;
  const { id, version, status, changed, actor } = data as Record<string, unknown>;
  return (
    typeof id === "string" &&
    Number.isInteger(version) &&
    isKey(STATUSES, String(status)) &&
    Array.isArray(changed) &&
    changed.every((name) => typeof name === "string") &&
    typeof actor === "string"
  );
}

/** Standard Webhooks: HMAC-SHA256 of id, time and body. */
function checkSignature(
  headers: Map<string, string>,
  body: Uint8Array,
  secrets: readonly string[],
  toleranceSeconds: number,
): void {
  const keys = secrets.map(decodeSecret);
  if (keys.length === 0) throw new TypeError("secret: none is given");
  const [id, stamp, signatures] = ["id", "timestamp", "signature"].map((name) => headers.get(`webhook-${name}`));
  if (id === undefined || signatures === undefined || !/^\d{1,15}$/.test(stamp ?? "")) {
    throw new InvalidEvent("the event has no signature");
  }
  if (!(Math.abs(Date.now() / 1000 - Number(stamp)) <= toleranceSeconds)) {
    throw new InvalidEvent("the signature is too old, or the clocks differ");
  }
  const given = signatures.split(" ").flatMap((part) => (part.startsWith("v1,") ? [Buffer.from(part.slice(3))] : []));
  for (const key of keys) {
    const mac = createHmac("sha256", key).update(`${id}.${stamp}.`).update(body).digest("base64");
    const expected = Buffer.from(mac);
    if (given.some((each) => each.length === expected.length && timingSafeEqual(each, expected))) return;
  }
  throw new InvalidEvent("the signature is wrong");
}

/** The key of a secret such as `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`. */
function decodeSecret(secret: string): Buffer {
  const text = secret.trim().replace(/^whsec_/, "");
  if (!/^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(text) || text === "") {
    throw new TypeError("secret: not base64, as in whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
  }
  return Buffer.from(text, "base64");
}

/** A text whose percent signs encode nothing stays as it is. */
function decodePercents(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function isKey<K extends string>(table: Record<K, true>, name: string): name is K {
  return Object.hasOwn(table, name);
}
