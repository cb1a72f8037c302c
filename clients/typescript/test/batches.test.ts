import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { ServiceError, UnexpectedResponse } from "../src/index.js";
import { connect, rejects } from "./support.js";

const direct = connect("none");

function addresses(count: number): { email: string }[] {
  const domain = `${randomUUID()}.example.org`;
  return Array.from({ length: count }, (_, number) => ({ email: `u${number}@${domain}` }));
}

test("results of many users have their places among all", async () => {
  const users = addresses(1001);

  const results = await direct.users.createMany([...users.slice(0, 1000), { email: "no address" }]);

  assert.deepEqual(results.map((item) => item.index), users.map((_, index) => index));
  assert.equal(results[1000]?.error?.pointer, "/items/1000/data/email");
});

test("an error after a thousand users has the results before it", async () => {
  const users = addresses(1001);

  const error: unknown = await connect("stops").users.createMany(users).catch((caught: unknown) => caught);

  assert(error instanceof UnexpectedResponse);
  assert.deepEqual(error.results.map((item) => item.status), users.slice(0, 1000).map(() => "created"));
  assert.equal(await direct.users.findByEmail(users[1000]!.email), null);
});

test("many users are changed, deleted, restored and found, each once", async () => {
  const client = connect("mixed");
  const created = await client.users.createMany(addresses(1200));
  const ids = created.map((item) => item.id!);

  const changed = await client.users.updateMany(ids.map((id, number) => [id, { metadata: { number } }]));
  const deleted = await client.users.deleteMany(ids);
  const restored = await client.users.restoreMany(ids.slice(0, 3));
  const unknown = randomUUID();
  const { found, missing } = await client.users.findMany({ ids: [...ids, unknown], emails: ["absent@example.org"] });

  assert.deepEqual(changed.map((item) => item.status), ids.map(() => "updated"));
  assert.deepEqual(deleted.map((item) => item.status), ids.map(() => "deleted"));
  assert.deepEqual(restored.map((item) => [item.id, item.status]), ids.slice(0, 3).map((id) => [id, "restored"]));
  assert.deepEqual(found.map((user) => [user.version, user.metadata["number"]]).sort(), [[4, 0], [4, 1], [4, 2]]);
  assert.deepEqual(missing.ids, [...ids.slice(3), unknown]);
  assert.deepEqual(missing.emails, ["absent@example.org"]);
});

test("a user that has changed since it was read is not changed by a batch", async () => {
  const [first, second] = [await direct.users.create(addresses(1)[0]!), await direct.users.create(addresses(1)[0]!)];
  await direct.users.update(first.id, { given_name: "Ada" });

  const results = await direct.users.updateMany([
    [first, { given_name: "Grace" }],
    [second, { given_name: "Grace" }],
  ]);

  assert.deepEqual(results.map((item) => item.error?.code ?? item.status), ["version_mismatch", "updated"]);
});

test("an atomic batch is applied as a whole or refused with the items at fault", async () => {
  const users = addresses(2);

  const error: unknown = await direct.users
    .createMany([...users, { email: "no address" }], "fail", { atomic: true })
    .catch((caught: unknown) => caught);

  assert(error instanceof ServiceError);
  assert.equal(error.code, "batch_refused");
  assert.deepEqual(error.results.map((item) => [item.index, item.error?.code]), [[2, "validation_failed"]]);
  assert.equal(await direct.users.findByEmail(users[0]!.email), null);
  await rejects(direct.users.createMany(addresses(1001), "fail", { atomic: true }), RangeError, /at most 1,000/);
});

test("a dry run creates nothing, and an id that is none is refused", async () => {
  const users = addresses(2);

  const results = await direct.users.createMany(users, "fail", { dryRun: true });

  assert.deepEqual(results.map((item) => item.status), ["created", "created"]);
  assert.equal(await direct.users.findByEmail(users[0]!.email), null);
  await rejects(direct.users.deleteMany(["../cache"]), TypeError, /id/);
});
