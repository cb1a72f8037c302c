/** Who is signed in, and what the scopes of the key or token allow. */

import { call, setCredential } from "./api.js";

let caller = null;

export function current() {
  return caller;
}

export function may(scope) {
  return caller !== null && caller.scopes.includes(scope);
}

/** Signs in with a key or a token. Raises Problem, ConnectionLost; then nothing has changed. */
export async function signIn(credential) {
  const before = setCredential(credential);
  try {
    caller = await call("GET", "whoami", { mayRenew: false });
  } catch (error) {
    setCredential(before);
    throw error;
  }
  return caller;
}

export function signOut() {
  setCredential("");
  caller = null;
}
