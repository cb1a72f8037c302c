import type { Client } from "openapi-fetch";
import { type BatchOptions, type ItemResult, MAX_ITEMS, runBatch } from "./batches.js";
import { ServiceError, UnexpectedResponse, UserServiceError } from "./errors.js";
import {
  type FinishedImport,
  findImport,
  type Import,
  importFile,
  type ImportFailure,
  type ImportOptions,
  parseFailure,
} from "./imports.js";
import { DEADLINE_HEADER, EXTRA_HEADER, now, pauseSeconds, type Retry, type Send, sleep } from "./retry.js";
import type { components, operations, paths } from "./schema.js";
import { readLines } from "./streams.js";

type Schemas = components["schemas"];
export type User = Schemas["UserRead"];
export type NewUser = Schemas["UserCreate"];
export type UserPatch = Schemas["UserUpdate"];
export type Change = Schemas["FeedChangeRead"];
export type ChangePage = Schemas["FeedPageRead"];
export type Found = Schemas["FoundRead"];
/** A User or an id: with a User, a change fails if the user has changed since it was read. */
export type UserRef = User | string;
export type OnConflict = "fail" | "skip" | "update";
type ListParameters = NonNullable<operations["list_users"]["parameters"]["query"]>;
type Paging = "cursor" | "limit" | "count" | "fields" | "metadata.<key>";

/** The filters of a list; `metadata` is text as it is, other types as JSON. */
export interface ListQuery extends Omit<ListParameters, Paging> {
  metadata?: Record<string, string | number | boolean | null>;
}
export type ExportQuery = Omit<ListQuery, "sort">;

export interface FollowOptions {
  /** The cursor to go on after; absent: from the beginning of what is kept. */
  after?: string;
  /** Whether to wait for the next changes, and once the service has responded, for a service that is away. */
  follow?: boolean;
  type?: Change["type"];
  signal?: AbortSignal;
}

const PAGE_SIZE = 200;
const CHANGES_PAGE_SIZE = 1000;
const WAIT_SECONDS = 20;
const UPDATE_TRIES = 10;
const KEY_KINDS = ["ids", "emails", "external_ids", "usernames"] as const;
type KeyKind = (typeof KEY_KINDS)[number];
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** The users of a service. Methods throw UserServiceError. */
export class Users {
  constructor(
    private readonly api: Client<paths>,
    private readonly send: Send,
    private readonly retry: Retry,
  ) {}

  async create(user: NewUser): Promise<User> {
    return data(await this.api.POST("/api/v1/users", { body: user }));
  }

  async get(id: string, options: { includeDeleted?: boolean; fresh?: boolean } = {}): Promise<User> {
    const query = options.includeDeleted ? { include: "deleted" as const } : {};
    const header = options.fresh ? { "Cache-Control": "no-cache" } : {};
    return data(
      await this.api.GET("/api/v1/users/{user_id}", { params: { path: { user_id: checkId(id) }, query, header } }),
    );
  }

  /** The user with this address or alias, or null. The address is not in the URL, and so in no log. */
  async findByEmail(email: string): Promise<User | null> {
    return (await this.findMany({ emails: [email] })).found[0] ?? null;
  }

  /** A merge patch. With a User, it fails with `version_mismatch` if the user has changed since it was read. */
  async update(user: UserRef, patch: UserPatch): Promise<User> {
    const isRead = typeof user !== "string";
    const header = isRead ? { "If-Match": `"${user.version}"` } : {};
    const path = { user_id: checkId(isRead ? user.id : user) };
    return data(await this.api.PATCH("/api/v1/users/{user_id}", { params: { path, header }, body: patch }));
  }

  /** Applies what `change` makes of the current user; reads and calls it again if another change came first. */
  async updateWith(id: string, change: (user: User) => UserPatch | null): Promise<User> {
    for (let tried = 1; ; tried++) {
      const current = await this.get(id, { fresh: true });
      const patch = change(current);
      if (patch === null || Object.keys(patch).length === 0) return current;
      try {
        return await this.update(current, patch);
      } catch (error) {
        const isStale = error instanceof ServiceError && error.code === "version_mismatch";
        if (!isStale || tried === UPDATE_TRIES) throw error;
      }
    }
  }

  async delete(id: string): Promise<void> {
    await this.api.DELETE("/api/v1/users/{user_id}", { params: { path: { user_id: checkId(id) } } });
  }

  /** All users that match, read page by page while they are taken. */
  async *list(query: ListQuery = {}): AsyncGenerator<User, void, undefined> {
    const parameters: ListParameters = { ...toParameters(query), limit: PAGE_SIZE };
    for (;;) {
      const page = data(await this.api.GET("/api/v1/users", { params: { query: parameters } }));
      // Without `fields`, every user is whole.
      yield* page.items as User[];
      if (page.next_cursor === null) return;
      parameters.cursor = page.next_cursor;
    }
  }

  /** All users that match, in one stream; if it is cut off, it goes on after the last user. */
  async *export(query: ExportQuery = {}): AsyncGenerator<User, void, undefined> {
    let lastId = "";
    let skippedTo = "";
    let failures = 0;
    let deadline = 0;
    const parameters = toParameters(query);
    for (;;) {
      const { response } = await this.api.GET("/api/v1/users/export", {
        params: { query: parameters },
        headers: { Accept: "application/x-ndjson" },
        parseAs: "stream",
      });
      try {
        for await (const user of readLines(response, parseUser)) {
          if (user.id <= skippedTo) continue;
          lastId = user.id > lastId ? user.id : lastId;
          failures = 0;
          yield user;
        }
        return;
      } catch (error) {
        if (failures === 0) deadline = now() + this.retry.deadlineSeconds;
        const pause = pauseSeconds(this.retry, failures++, undefined);
        if (!(error instanceof UserServiceError) || !error.isTransient || now() + pause > deadline) throw error;
        await sleep(pause);
        // The time of creation is in the id (UUIDv7), by which an export is sorted.
        skippedTo = lastId;
        if (lastId !== "") parameters.created_after = new Date(creationTime(lastId) - 1).toISOString();
      }
    }
  }

  /**
   * Creates any number of users, in requests of up to a thousand; the results are in their order. If a later request
   * fails, `results` of the error has what the earlier ones did. The other methods for many users do the same.
   */
  createMany(
    users: Iterable<NewUser>,
    onConflict: OnConflict = "fail",
    options: BatchOptions = {},
  ): Promise<ItemResult[]> {
    const items = map(users, (user) => ({ data: user }));
    return runBatch(items, options, async (chunk, flags) => {
      const body = { items: chunk, on_conflict: onConflict, ...flags };
      return data(await this.api.POST("/api/v1/users/batch/create", { body }));
    });
  }

  /** A merge patch for each user. */
  updateMany(changes: Iterable<readonly [UserRef, UserPatch]>, options: BatchOptions = {}): Promise<ItemResult[]> {
    const items = map(changes, ([user, patch]) => ({ ...toItem(user), data: patch }));
    return runBatch(items, options, async (chunk, flags) =>
      data(await this.api.POST("/api/v1/users/batch/update", { body: { items: chunk, ...flags } })),
    );
  }

  deleteMany(users: Iterable<UserRef>, options: BatchOptions = {}): Promise<ItemResult[]> {
    return runBatch(map(users, toItem), options, async (chunk, flags) =>
      data(await this.api.POST("/api/v1/users/batch/delete", { body: { items: chunk, ...flags } })),
    );
  }

  restoreMany(users: Iterable<UserRef>, options: BatchOptions = {}): Promise<ItemResult[]> {
    return runBatch(map(users, toItem), options, async (chunk, flags) =>
      data(await this.api.POST("/api/v1/users/batch/restore", { body: { items: chunk, ...flags } })),
    );
  }

  /** The users with any number of keys, and the keys that no user has; an alias counts as an e-mail address. */
  async findMany(keys: { [kind in KeyKind]?: Iterable<string> }): Promise<Found> {
    const wanted = KEY_KINDS.flatMap((kind) => [...(keys[kind] ?? [])].map((key) => [kind, key] as const));
    const found = new Map<string, User>();
    const missing: Record<KeyKind, string[]> = { ids: [], emails: [], external_ids: [], usernames: [] };
    for (let start = 0; start < wanted.length; start += MAX_ITEMS) {
      const body: { [kind in KeyKind]?: string[] } = {};
      for (const [kind, key] of wanted.slice(start, start + MAX_ITEMS)) (body[kind] ??= []).push(key);
      const part = data(await this.api.POST("/api/v1/users/batch/find", { body }));
      for (const user of part.found) found.set(user.id, user);
      for (const kind of KEY_KINDS) missing[kind].push(...(part.missing[kind] ?? []));
    }
    return { found: [...found.values()], missing };
  }

  /**
   * Imports a file of NDJSON or CSV, of any length, and resumes it as long as it advances. The import is known by the
   * content of the file, or by `key`: the same call in another process resumes it, and changes nothing once it is
   * complete. Throws TypeError if the file's name does not tell its format, the errors of the file system, and
   * ServiceError.
   */
  importFile(path: string, options: ImportOptions = {}): Promise<FinishedImport> {
    return importFile(this.api, this.send, path, options);
  }

  async getImport(id: string): Promise<Import> {
    const path = { import_id: checkId(id) };
    return data(await this.api.GET("/api/v1/users/imports/{import_id}", { params: { path } }));
  }

  /** The import that this caller has started with a key, or null. */
  findImport(key: string): Promise<Import | null> {
    return findImport(this.api, key);
  }

  /** The records of an import that failed. Throws ConnectionFailed if the list is cut off: begin again. */
  async *importFailures(id: string): AsyncGenerator<ImportFailure, void, undefined> {
    const { response } = await this.api.GET("/api/v1/users/imports/{import_id}/errors", {
      params: { path: { import_id: checkId(id) } },
      parseAs: "stream",
    });
    yield* readLines(response, parseFailure);
  }

  /** Pages of the feed, for a program that stores each page with its `next_cursor` in one transaction. */
  async *changePages(options: FollowOptions = {}): AsyncGenerator<ChangePage, void, undefined> {
    let after = options.after;
    let headers: Record<string, string> = options.follow ? { [EXTRA_HEADER]: String(WAIT_SECONDS) } : {};
    const fixed = { limit: CHANGES_PAGE_SIZE, wait: options.follow ? WAIT_SECONDS : 0, type: options.type };
    for (;;) {
      const page: ChangePage = data(
        await this.api.GET("/api/v1/users/changes", {
          params: { query: { ...fixed, after } },
          headers,
          signal: options.signal,
        }),
      );
      yield page;
      const isEnd = page.next_cursor === after || (page.items.length === 0 && options.type === undefined);
      after = page.next_cursor;
      if (options.follow) headers = { ...headers, [DEADLINE_HEADER]: "Infinity" };
      else if (isEnd) return;
    }
  }

  /** The changes one by one; `changePages` has the cursors. */
  async *changes(options: FollowOptions = {}): AsyncGenerator<Change, void, undefined> {
    for await (const page of this.changePages(options)) yield* page.items;
  }
}

/** The data of a response: an error was thrown before. */
function data<T>(result: { data?: T; response: Response }): T {
  if (result.data === undefined) throw new UnexpectedResponse(result.response.status, "no data");
  return result.data;
}

/** Throws TypeError for what is no UUID: in a path it would be something else. */
function checkId(id: string): string {
  if (!ID.test(id)) throw new TypeError("id: not a UUID");
  return id;
}

function toParameters<Q extends ExportQuery>(query: Q): Omit<Q, "metadata"> & { "metadata.<key>"?: Record<string, string> } {
  const { metadata, ...rest } = query;
  if (metadata === undefined) return rest;
  const pairs = Object.entries(metadata).map(([key, value]) => [
    `metadata.${key}`,
    typeof value === "string" ? value : JSON.stringify(value),
  ]);
  return { ...rest, "metadata.<key>": Object.fromEntries(pairs) as Record<string, string> };
}

function toItem(user: UserRef): { id: string; if_version?: number } {
  return typeof user === "string" ? { id: checkId(user) } : { id: user.id, if_version: user.version };
}

function* map<T, R>(values: Iterable<T>, change: (value: T) => R): Generator<R> {
  for (const value of values) yield change(value);
}

/** Undefined for what is no user. */
function parseUser(document: unknown): User | undefined {
  const user = document as User | null | undefined;
  return typeof user?.id === "string" && ID.test(user.id) ? user : undefined;
}

/** Milliseconds since 1970, in a UUIDv7. */
function creationTime(id: string): number {
  return Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16);
}
