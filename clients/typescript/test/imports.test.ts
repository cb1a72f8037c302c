import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ConnectionFailed, createClient, type Import, ServiceError } from "../src/index.js";
import { collect, connect, PROXIES, rejects } from "./support.js";

const direct = connect("none");
const folder = await mkdtemp(join(tmpdir(), "imports-"));

/** A file of so many users, with some text each. */
async function makeFile(count: number, bytes = 0, name = "users.ndjson"): Promise<{ path: string; emails: string[] }> {
  const domain = `${randomUUID()}.example.org`;
  const emails = Array.from({ length: count }, (_, number) => `u${number}@${domain}`);
  const path = join(folder, `${randomUUID()}-${name}`);
  const preferences = { text: "x".repeat(bytes) };
  await writeFile(path, emails.map((email) => `${JSON.stringify({ email, preferences })}\n`).join(""));
  return { path, emails };
}

test("a file is imported once however often it is sent", async () => {
  const { path, emails } = await makeFile(1200);

  const [first, second] = [await direct.users.importFile(path), await direct.users.importFile(path)];

  assert.deepEqual([first.state, first.format, first.created, first.position], ["completed", "ndjson", 1200, 1200]);
  assert.deepEqual([first.wasDoneBefore, second.wasDoneBefore, second.id], [false, true, first.id]);
  assert.notEqual(await direct.users.findByEmail(emails.at(-1)!), null);
  assert.equal((await direct.users.getImport(first.id)).created, 1200);
});

for (const name of ["drop", "cut", "half", "cut upload"]) {
  test(`an import takes effect once: ${name}`, async () => {
    const { path, emails } = await makeFile(3000, 1000);

    const done = await connect(name).users.importFile(path);

    assert.deepEqual([done.state, done.created, done.failed], ["completed", 3000, 0]);
    assert.equal((await direct.users.findByEmail(emails[2999]!))?.version, 1);
  });
}

test("an import that never arrives as a whole goes on as long as it advances", async () => {
  const { path } = await makeFile(400, 2000);

  const error: unknown = await connect("only cut uploads", { deadlineSeconds: 0 })
    .users.importFile(path)
    .catch((caught: unknown) => caught);

  assert(error instanceof ConnectionFailed);
  assert.equal((await direct.users.importFile(path)).position, 400);
});

test("an import that reaches no service ends with the deadline", async () => {
  const { path } = await makeFile(20_000, 100);

  const sent = connect("only dropped", { deadlineSeconds: 0.3 }).users.importFile(path);

  await rejects(sent, ConnectionFailed, /^No response/);
});

test("failed records are listed with their lines", async () => {
  const path = join(folder, "people.csv");
  await writeFile(path, `email,shoe_size\na-${randomUUID()}@example.org,5\nno-address,6\n`);

  const done = await direct.users.importFile(path, { ignoreUnknownColumns: true });
  const failures = await collect(direct.users.importFailures(done.id));

  assert.deepEqual([done.created, done.failed], [1, 1]);
  assert.deepEqual(
    failures.map(({ record, line, field, code }) => [record, line, field, code]),
    [[2, 3, "email", "validation_failed"]],
  );
  await rejects(direct.users.importFile(path, { key: randomUUID() }), ServiceError, /^422 /);
});

test("a dry run changes nothing and may be repeated", async () => {
  const { path, emails } = await makeFile(3);

  for (const _ of [1, 2]) {
    const tried = await direct.users.importFile(path, { dryRun: true });
    assert.deepEqual([tried.created, tried.dry_run, tried.wasDoneBefore], [3, true, false]);
  }
  assert.equal(await direct.users.findByEmail(emails[0]!), null);
});

test("another file under the same key is refused", async () => {
  const key = randomUUID();
  await direct.users.importFile((await makeFile(2)).path, { key });

  await rejects(direct.users.importFile((await makeFile(2)).path, { key }), ServiceError, /^4\d\d import_differs/);
  assert.equal((await direct.users.findImport(key))?.created, 2);
  assert.equal(await direct.users.findImport(randomUUID()), null);
});

test("progress is what the service has applied, and an error of its receiver ends the import", async () => {
  // They take a few times as long as the pause between two reports.
  const MANY = 50_000;
  const seen: Import[] = [];
  const { path } = await makeFile(MANY, 1000);

  const done = await direct.users.importFile(path, { onProgress: (current) => seen.push(current) });
  const other = (await makeFile(MANY, 1000)).path;
  const stopped = direct.users.importFile(other, {
    onProgress: () => {
      throw new Error("enough");
    },
  });

  assert.equal(done.created, MANY);
  assert(seen.length > 0 && seen.every((current) => current.id === done.id && current.position <= MANY));
  await rejects(stopped, Error, /^enough$/);
});

test("a file of no known format, a file that is not there, and a wrong key", async () => {
  const { path } = await makeFile(20_000, 100);
  const stranger = createClient({ url: PROXIES["none"]!, apiKey: "another-key-than-the-service-has-0123" });

  await rejects(direct.users.importFile("users.txt"), TypeError, /ndjson or csv/);
  await assert.rejects(direct.users.importFile(join(folder, "absent.csv")), { code: "ENOENT" });
  await rejects(stranger.users.importFile(path), ServiceError, /^401 unauthenticated/);
});
