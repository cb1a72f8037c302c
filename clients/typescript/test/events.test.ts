import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { InvalidEvent, verifyEvent } from "../src/index.js";

// The example of the specification of Standard Webhooks, which has a body of its own.
const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const USER = "0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f";
const ID = "0198c5a4-8a44-7d31-8f0e-6b1d2c3e4f5a";
const TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const DATA = { id: USER, version: 2, status: "active", changed: ["given_name"], actor: "api-key:billing" };
const BODY = JSON.stringify(DATA);
const ATTRIBUTES = {
  specversion: "1.0",
  id: ID,
  source: "/user-service",
  type: "org.userservice.user.updated.v1",
  subject: USER,
  time: "2026-01-31T12:00:00.123456Z",
  sequence: "2",
  partitionkey: USER,
  traceparent: TRACE,
};
const HEADERS: Record<string, string> = {
  "content-type": "application/json",
  ...Object.fromEntries(Object.entries(ATTRIBUTES).map(([name, value]) => [`Ce-${name}`, value])),
};
const STRUCTURED = { "content-type": "application/cloudevents+json; charset=utf-8" };

function structured(changes: object): string {
  return JSON.stringify({ ...ATTRIBUTES, datacontenttype: "application/json", data: DATA, ...changes });
}

function sign(body: string, moment = Date.now() / 1000): Record<string, string> {
  const stamp = String(Math.floor(moment));
  const key = Buffer.from(SECRET.slice("whsec_".length), "base64");
  const mac = createHmac("sha256", key).update(`${ID}.${stamp}.${body}`).digest("base64");
  return { "webhook-id": ID, "webhook-timestamp": stamp, "webhook-signature": `v1a,zzzz v1,${mac}` };
}

function refuses(headers: Record<string, string>, body: string | Uint8Array, secret: string | null, said: RegExp): void {
  assert.throws(
    () => verifyEvent(headers, body, { secret }),
    (error) => error instanceof InvalidEvent && said.test(error.message),
  );
}

test("a binary event is read, and a structured one is the same", () => {
  const event = verifyEvent(HEADERS, BODY, { secret: null });

  assert.deepEqual(event, {
    id: ID,
    source: "/user-service",
    type: "updated",
    time: new Date("2026-01-31T12:00:00.123Z"),
    data: DATA,
    traceparent: TRACE,
  });
  assert.deepEqual(verifyEvent(STRUCTURED, structured({}), { secret: null }), event);
  assert.deepEqual(verifyEvent(new Headers(HEADERS), new TextEncoder().encode(BODY), { secret: null }), event);
});

test("a signature by one of the secrets is accepted", () => {
  const other = `whsec_${Buffer.from("another key of 24 bytes!").toString("base64")}`;

  const event = verifyEvent({ ...HEADERS, ...sign(BODY) }, BODY, { secret: [other, SECRET] });

  assert.equal(event.data.id, USER);
});

test("the example of the specification is signed as this is", () => {
  const body = '{"test": 2432232314}';
  const headers = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
  };

  assert.throws(() => verifyEvent(headers, body, { secret: SECRET, toleranceSeconds: 1e12 }), /the id is not the signed/);
  refuses(headers, body, SECRET, /too old/);
});

for (const [changes, said] of [
  [{ "webhook-signature": "v1,AAAA" }, /the signature is wrong/],
  [{ "webhook-signature": "é" }, /the signature is wrong/],
  [{ "webhook-id": "msg_2" }, /the signature is wrong/],
  [{ "webhook-timestamp": "1" }, /too old/],
  [{ "webhook-timestamp": "soon" }, /no signature/],
  [{ "webhook-timestamp": "9".repeat(5000) }, /no signature/],
  [{ "Ce-id": "0198c5a4-8a44-7d31-8f0e-000000000000" }, /the id is not the signed one/],
] as [Record<string, string>, RegExp][]) {
  test(`a wrong signature is refused: ${JSON.stringify(changes).slice(0, 60)}`, () => {
    refuses({ ...HEADERS, ...sign(BODY), ...changes }, BODY, SECRET, said);
  });
}

test("an unsigned event, and one of another body, is refused where a secret is given", () => {
  refuses(HEADERS, BODY, SECRET, /no signature/);
  refuses({ ...HEADERS, ...sign("other") }, BODY, SECRET, /wrong/);
});

test("a wrong secret is a fault of the program", () => {
  for (const secret of ["", "whsec_", "whsec_no base64!", []]) {
    assert.throws(() => verifyEvent({ ...HEADERS, ...sign(BODY) }, BODY, { secret }), TypeError);
  }
});

for (const body of [
  "",
  "[1]",
  "null",
  new Uint8Array([0xff]),
  "[".repeat(100_000),
  structured({ type: "org.userservice.user.lost.v1" }),
  structured({ type: "org.userservice.user.constructor.v1" }),
  structured({ type: "org.userservice.batch.create.v1" }),
  structured({ type: 7 }),
  structured({ source: "/another" }),
  structured({ subject: "0198c5a4-7d10-7cc2-9b1e-000000000000" }),
  structured({ specversion: "0.3" }),
  structured({ time: "yesterday" }),
  structured({ id: undefined }),
  structured({ data: null }),
  structured({ data: { ...DATA, version: "2" } }),
  structured({ data: { ...DATA, changed: "given_name" } }),
  structured({ data: { ...DATA, status: "lost" } }),
]) {
  test(`what is no event of the service is refused: ${String(body).slice(0, 20)} ${String(body).slice(-40)}`, () => {
    refuses(STRUCTURED, body, null, /./);
  });
}
