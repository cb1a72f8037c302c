// PROXIES has the address of a proxy in front of the live service for each of its faults; see
// tests/clients/typescript/test_client.py.
import assert from "node:assert/strict";
import { createClient, type UserServiceClient } from "../src/index.js";

export const PROXIES = JSON.parse(process.env["PROXIES"] ?? "{}") as Record<string, string>;
export const apiKey = process.env["USER_SERVICE_API_KEY"] ?? "";
const QUICK = { deadlineSeconds: 60, firstPauseSeconds: 0.001, longestPauseSeconds: 0.01 };

export function connect(proxy: string, retry = {}, timeoutSeconds = 30): UserServiceClient {
  return createClient({ url: PROXIES[proxy]!, apiKey, retry: { ...QUICK, ...retry }, timeoutSeconds });
}

export async function collect<T>(values: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const value of values) all.push(value);
  return all;
}

export function rejects(promise: Promise<unknown>, kind: new (...given: never[]) => Error, said: RegExp): Promise<void> {
  return assert.rejects(promise, (error) => error instanceof kind && said.test(error.message));
}
