import type { Client } from "openapi-fetch";
import { ConnectionFailed, ServiceError, UnexpectedResponse, UserServiceError } from "./errors.js";
import { DEADLINE_HEADER, EXTRA_HEADER, now, pauseSeconds, type Retry, sleep } from "./retry.js";
import type { components, operations, paths } from "./schema.js";

type Schemas = components["schemas"];
export type User = Schemas["UserRead"];
export type NewUser = Schemas["UserCreate"];
export type UserPatch = Schemas["UserUpdate"];
export type Change = Schemas["FeedChangeRead"];
export type ChangePage = Schemas["FeedPageRead"];
export type ItemResult = Schemas["ItemOutcome"];
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
const MAX_ITEMS = 1000;
// The service's 2 MiB, less what stands around the items.
const MAX_BYTES = 2 * 1024 * 1024 - 1024;
const UPDATE_TRIES = 10;
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** The users of a service. Methods throw UserServiceError. */
export class Users {
  constructor(
    private readonly api: Client<paths>,
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
    const found = data(await this.api.POST("/api/v1/users/batch/find", { body: { emails: [email] } }));
    return found.found[0] ?? null;
  }

  /** A merge patch. With a User, it fails with `version_mismatch` if the user has changed since it was read. */
  async update(user: User | string, patch: UserPatch): Promise<User> {
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
        for await (const user of readUsers(response)) {
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
   * fails, `results` of the error has what the earlier ones did.
   */
  async createMany(users: Iterable<NewUser>, onConflict: OnConflict = "fail"): Promise<ItemResult[]> {
    const results: ItemResult[] = [];
    for (const chunk of cut(users)) {
      try {
        const part = await this.createChunk(chunk, onConflict);
        const offset = results.length;
        results.push(...part.map((item) => shift(item, offset)));
      } catch (error) {
        if (error instanceof UserServiceError) error.results = results;
        throw error;
      }
    }
    return results;
  }

  private async createChunk(users: NewUser[], onConflict: OnConflict): Promise<ItemResult[]> {
    const body = { items: users.map((user) => ({ data: user })), on_conflict: onConflict };
    const { items } = data(await this.api.POST("/api/v1/users/batch/create", { body }));
    if (items.length !== users.length) throw new UnexpectedResponse(200, "not one result for each item");
    return items;
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

/** The result with its place among all items given, in its pointer too. */
function shift(item: ItemResult, offset: number): ItemResult {
  const index = item.index + offset;
  const { error } = item;
  if (!error?.pointer) return { ...item, index };
  return { ...item, index, error: { ...error, pointer: error.pointer.replace(/^\/items\/\d+/, `/items/${index}`) } };
}

/** Chunks of at most a thousand users and two MiB; a larger user is a chunk of its own, which the service refuses. */
function* cut(users: Iterable<NewUser>): Generator<NewUser[]> {
  const encoder = new TextEncoder();
  let chunk: NewUser[] = [];
  let size = 0;
  for (const user of users) {
    const bytes = encoder.encode(JSON.stringify({ data: user })).length + 1;
    if (chunk.length > 0 && (chunk.length === MAX_ITEMS || size + bytes > MAX_BYTES)) {
      yield chunk;
      chunk = [];
      size = 0;
    }
    chunk.push(user);
    size += bytes;
  }
  if (chunk.length > 0) yield chunk;
}

/** The users of a stream of NDJSON. Throws ConnectionFailed where it is cut off, UnexpectedResponse for other lines. */
async function* readUsers(response: Response): AsyncGenerator<User, void, undefined> {
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((cause: unknown) => {
        throw new ConnectionFailed("The response was cut off", { cause });
      });
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) yield parseUser(line);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
  if (rest !== "") throw new UnexpectedResponse(200, "half a line");
}

function parseUser(line: string): User {
  try {
    const user = JSON.parse(line) as User;
    if (ID.test(user.id)) return user;
  } catch {
    // Said below.
  }
  throw new UnexpectedResponse(200, "a line that is no user");
}

/** Milliseconds since 1970, in a UUIDv7. */
function creationTime(id: string): number {
  return Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16);
}
