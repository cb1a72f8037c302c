// Against the live service; see support.ts.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { ConnectionFailed, createClient, ServiceError, UnexpectedResponse, type User } from "../src/index.js";
import { apiKey, collect, connect, PROXIES, rejects } from "./support.js";

const direct = connect("none");

for (const name of ["none", "cut", "drop", "repeat", "mixed", "busy", "garbage", "delay"]) {
  test(`each write takes effect once: ${name}`, async () => {
    const client = connect(name, {}, name === "delay" ? 1 : 30);
    const domain = `${randomUUID()}.example.org`;
    const made: User[] = [];
    for (const number of [0, 1, 2]) {
      made.push(await client.users.create({ email: `u${number}@${domain}`, metadata: { count: 0 } }));
    }
    for (const user of made) {
      await client.users.update(user, { given_name: "Ada" });
      await client.users.updateWith(user.id, (current) => ({
        metadata: { count: Number(current.metadata["count"]) + 1 },
      }));
    }
    await client.users.delete(made[2]!.id);
    const listed = await collect(client.users.list({ email_domain: domain }));
    const results = await client.users.createMany(
      Array.from({ length: 1500 }, (_, number) => ({ email: `b${number}@${domain}` })),
    );
    const exported = await collect(client.users.export({ email_domain: domain }));

    assert.deepEqual(listed.map((user) => user.id), [made[0]!.id, made[1]!.id]);
    const versions = await Promise.all(made.map((user) => direct.users.get(user.id, { includeDeleted: true })));
    assert.deepEqual(versions.map((user) => user.version), [3, 3, 4]);
    assert.deepEqual(results.map((item) => [item.index, item.status]), results.map((_, index) => [index, "created"]));
    assert.equal(results.length, 1500);
    assert.deepEqual(
      exported.map((user) => user.id),
      [...listed.map((user) => user.id), ...results.map((item) => item.id)],
    );
  });
}

test("a single try has its whole time", async () => {
  const user = await connect("slow", { deadlineSeconds: 0 }).users.create({ email: `${randomUUID()}@example.org` });

  assert.equal(user.version, 1);
});

test("an export that is cut off goes on after the last user", async () => {
  const domain = `${randomUUID()}.example.org`;
  const made = await direct.users.createMany(
    Array.from({ length: 2500 }, (_, number) => ({ email: `u${number}@${domain}` })),
  );

  const users = await collect(connect("half").users.export({ email_domain: domain }));

  assert.deepEqual(users.map((user) => user.id), made.map((item) => item.id));
});

test("changes are followed from a cursor on", async () => {
  let cursor: string | undefined;
  for await (const page of direct.users.changePages()) cursor = page.next_cursor;
  const stop = new AbortController();
  const followed = connect("cut").users.changes({ after: cursor, follow: true, signal: stop.signal });
  const coming = followed.next();
  const user = await direct.users.create({ email: `${randomUUID()}@example.org` });

  const first = await coming;
  stop.abort(new Error("enough"));

  assert.equal(first.value?.user_id, user.id);
  await assert.rejects(followed.next(), /enough/);
  assert.deepEqual(
    (await collect(direct.users.changes({ after: cursor, type: "created" }))).map((change) => change.user_id),
    [user.id],
  );
});

test("errors have the code and the request, and nothing personal", async () => {
  const email = `${randomUUID()}@example.org`;
  const user = await direct.users.create({ email });

  await assert.rejects(direct.users.create({ email }), (error) => {
    assert(error instanceof ServiceError);
    assert.deepEqual([error.status, error.code, error.message.includes(email)], [409, "email_taken", false]);
    return error.requestId !== "";
  });
  await direct.users.update(user, { given_name: "Ada" });
  await rejects(direct.users.update(user, { given_name: "Grace" }), ServiceError, /^412 version_mismatch/);
  await rejects(direct.users.create({ email: "no address" }), ServiceError, /^422 validation_failed; \/email email /);
  assert.equal((await direct.users.findByEmail(email.toUpperCase()))?.id, user.id);
  assert.equal(await direct.users.findByEmail(`x${email}`), null);
});

test("filters are sent as the service reads them", async () => {
  const key = `k${randomUUID()}`;
  const user = await direct.users.create({ email: `${randomUUID()}@example.org`, metadata: { [key]: true, t: "a & b=c" } });

  const found = await collect(direct.users.list({ metadata: { [key]: true, t: "a & b=c" }, sort: "-created_at" }));

  assert.deepEqual(found.map((each) => each.id), [user.id]);
});

test("changes have a reason in the audit", async () => {
  const client = createClient({ url: PROXIES["none"]!, apiKey, reason: "Wunsch der Kundin – 4711" });
  const user = await client.users.create({ email: `${randomUUID()}@example.org` });

  const { data } = await client.api.GET("/api/v1/audit", { params: { query: { user_id: user.id } } });

  assert.deepEqual(data?.items.map((entry) => entry.reason), ["Wunsch der Kundin – 4711"]);
});

test("every operation of the document is there with its types", async () => {
  const { data } = await direct.api.GET("/api/v1/users", { params: { query: { count: true, limit: 1 } } });

  assert.equal(typeof data?.total, "number");
  // @ts-expect-error - the document has no such parameter
  await rejects(direct.api.GET("/api/v1/users", { params: { query: { colour: "red" } } }), ServiceError, /^422 /);
});

for (const [name, kind] of [
  ["only busy", ServiceError],
  ["only garbage", UnexpectedResponse],
  ["only dropped", ConnectionFailed],
] as const) {
  test(`a deadline ends the tries: ${name}`, async () => {
    const client = connect(name, { deadlineSeconds: 0.3 });

    await rejects(client.users.create({ email: "ada@example.org" }), kind, /^(?!.*ada@)/);
  });
}

for (const name of ["far retry", "redirect", "html 404", "internal error"]) {
  test(`what waiting does not mend is sent once: ${name}`, async () => {
    const error: unknown = await connect(name).users.create({ email: "ada@example.org" }).catch((caught: unknown) => caught);

    assert(error instanceof ServiceError || error instanceof UnexpectedResponse);
  });
}

test("what is no address, credential or id is refused before anything is sent", async () => {
  assert.throws(() => createClient({ url: "ftp://example.org", apiKey }), TypeError);
  assert.throws(() => createClient({ url: "https://a:b@example.org", apiKey }), TypeError);
  assert.throws(() => createClient({ url: PROXIES["none"]! }), TypeError);
  for (const id of ["me", "", "..", "../cache"]) {
    await assert.rejects(direct.users.get(id), TypeError);
    await assert.rejects(direct.users.update(id, { given_name: "Ada" }), TypeError);
  }
});
