import createApi, { type Client } from "openapi-fetch";
import { DEFAULT_RETRY, makeFetch, type Retry } from "./retry.js";
import type { paths } from "./schema.js";
import { Users } from "./users.js";

export type { BatchOptions, ItemResult } from "./batches.js";
export { ConnectionFailed, type FieldError, ServiceError, UnexpectedResponse, UserServiceError } from "./errors.js";
export { InvalidEvent, type UserEvent, verifyEvent, type VerifyOptions } from "./events.js";
export type { FileFormat, FinishedImport, Import, ImportFailure, ImportOptions } from "./imports.js";
export type { Retry } from "./retry.js";
export type { components, operations, paths } from "./schema.js";
export * from "./users.js";

export interface ClientOptions {
  /** The address of the service, such as https://users.example.org. */
  url: string;
  /** One of the two; a function gives a token for each try. */
  apiKey?: string;
  token?: string | (() => string | Promise<string>);
  /** Why this client changes or exports users, for the audit, such as `ticket 4711`. */
  reason?: string;
  timeoutSeconds?: number;
  retry?: Partial<Retry>;
  fetch?: (request: Request) => Promise<Response>;
}

export interface UserServiceClient {
  /** Every operation of the service, typed by its OpenAPI document; errors are thrown, so `data` is there. */
  api: Client<paths>;
  users: Users;
}

/** Throws TypeError for what is no address or no credential. */
export function createClient(options: ClientOptions): UserServiceClient {
  const url = new URL(options.url);
  const isAddress = /^https?:$/.test(url.protocol) && url.username === "" && url.search === "" && url.hash === "";
  if (!isAddress) throw new TypeError("url: not an address such as https://users.example.org");
  const { apiKey, token, reason } = options;
  if (!apiKey === !token) throw new TypeError("give an apiKey or a token");
  const retry = { ...DEFAULT_RETRY, ...options.retry };
  const send = makeFetch({
    retry,
    timeoutSeconds: options.timeoutSeconds ?? 30,
    credentials: async (): Promise<Record<string, string>> => {
      if (apiKey) return { "X-API-Key": apiKey };
      return { Authorization: `Bearer ${typeof token === "function" ? await token() : token}` };
    },
    fetch: options.fetch ?? globalThis.fetch,
  });
  const api = createApi<paths>({
    baseUrl: options.url.replace(/\/+$/, ""),
    // A header has bytes: UTF-8, each as one character.
    headers: reason ? { "X-Change-Reason": String.fromCharCode(...new TextEncoder().encode(reason)) } : {},
    fetch: (request) => send(request),
    querySerializer: { array: { style: "form", explode: false }, object: { style: "form", explode: true } },
  });
  return { api, users: new Users(api, send, retry) };
}
