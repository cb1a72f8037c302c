/**
 * Signing in at the issuer of tokens: OpenID Connect's authorization code flow with PKCE (RFC 7636), as a public client.
 * The issuer's page opens in a window of its own, so that this page, what was entered in it and the code verifier stay in
 * memory: nothing is stored.
 */

import { ConnectionLost } from "./api.js";

const CALLBACK = new URL("admin/callback", document.baseURI).href;
const CHANNEL = "user-service-admin-sign-in";
let refreshing = null;

/** Why signing in has failed, in a sentence. */
export class SignInFailed extends Error {}
/** The issuer has answered, and gives no token. */
class Refused extends SignInFailed {}

/** How persons sign in here; null where they do not. Raises SignInFailed. */
export async function readSettings() {
  let response;
  try {
    response = await fetch(new URL("admin/sign-in", document.baseURI), { cache: "no-store", credentials: "omit" });
  } catch {
    throw new ConnectionLost();
  }
  const found = await response.json();
  if (!response.ok) throw new SignInFailed("Signing in with an account is not possible at the moment: the issuer does not answer.");
  return found.oidc;
}

/** The secrets of one attempt, made before the click so that the browser opens the window for it. */
export async function prepare(settings) {
  if (!crypto.subtle) throw new SignInFailed("Signing in with an account needs this page to be served by https.");
  const [verifier, state] = [random(), random()];
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  const address = new URL(settings.authorization_endpoint);
  const parameters = {
    response_type: "code", client_id: settings.client_id, redirect_uri: CALLBACK, scope: settings.scope, state,
    audience: settings.audience, code_challenge: base64url(new Uint8Array(digest)), code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
  return { settings, verifier, state, address: address.href };
}

/** Opens the issuer's page and waits for its answer; gives an access token. Raises SignInFailed, and AbortError. */
export async function signInAtIssuer({ settings, verifier, state, address }, signal) {
  const opened = window.open("", "_blank", "popup,width=520,height=760");
  if (opened === null) throw new SignInFailed("The browser has not opened the window: allow this page to open windows.");
  const answered = waitForAnswer(state, signal);
  // The issuer's page gets no hold of this one.
  opened.opener = null;
  opened.location.replace(address);
  const answer = await answered;
  if (answer.error) throw new SignInFailed(`The issuer has refused: ${answer.error_description || answer.error}.`);
  if (!answer.code || (answer.iss && answer.iss !== settings.issuer)) throw new SignInFailed("The answer is not one of this issuer.");
  return exchange(settings, { grant_type: "authorization_code", code: answer.code, redirect_uri: CALLBACK, code_verifier: verifier });
}

function waitForAnswer(state, signal) {
  return new Promise((resolve, reject) => {
    const channel = new BroadcastChannel(CHANNEL);
    const end = (settle, value) => { channel.close(); settle(value); };
    channel.addEventListener("message", ({ data }) => {
      if (data.answer?.state !== state) return;
      channel.postMessage({ taken: state });
      end(resolve, data.answer);
    });
    signal.addEventListener("abort", () => end(reject, signal.reason));
  });
}

async function exchange(settings, grant) {
  const body = new URLSearchParams({ ...grant, client_id: settings.client_id });
  let tokens;
  try {
    const response = await fetch(settings.token_endpoint, { method: "POST", body, cache: "no-store", credentials: "omit", headers: { Accept: "application/json" } });
    tokens = await response.json();
    if (!response.ok) throw new Refused(`The issuer gives no token: ${tokens.error_description || tokens.error || response.status}.`);
  } catch (error) {
    throw error instanceof SignInFailed ? error : new SignInFailed("The issuer does not answer this page. Load the page again; if that does not help, the issuer must allow requests from it (CORS).");
  }
  if (typeof tokens.access_token !== "string") throw new SignInFailed("The issuer has sent no access token.");
  const { refresh_token: token } = tokens;
  refreshing = token ? { settings, token } : null;
  return tokens.access_token;
}

/** Another access token without asking; null where the issuer gives none. */
export async function refresh() {
  if (refreshing === null) return null;
  const { settings, token } = refreshing;
  refreshing = null;
  try {
    const access = await exchange(settings, { grant_type: "refresh_token", refresh_token: token });
    refreshing ??= { settings, token };
    return access;
  } catch (error) {
    // A lost connection leaves the token for the next try.
    if (!(error instanceof Refused)) refreshing ??= { settings, token };
    return null;
  }
}

export function forget() {
  refreshing = null;
}

function random() {
  return base64url(crypto.getRandomValues(new Uint8Array(32)));
}

function base64url(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}
