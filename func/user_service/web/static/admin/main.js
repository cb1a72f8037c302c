/** The frame of the page: signing in, the views, and finding, which is there in each of them. */

import { onRefused } from "./api.js";
import { button, el } from "./dom.js";
import { find } from "./finding.js";
import { announce, failure, loading } from "./notices.js";
import { forget } from "./oidc.js";
import { defineView, guard, link, prepare, start, stop } from "./router.js";
import { askAgain, signInForm } from "./sign_in.js";
import { current, may, signOut } from "./session.js";

const nav = document.getElementById("nav");
const finder = document.getElementById("find");
const text = document.getElementById("find_text");
const caller = document.getElementById("caller");
const view = document.getElementById("view");

defineView("users", () => import("./users.js"));
defineView("user", () => import("./user.js"));
defineView("import", () => import("./import.js"));
defineView("audit", () => import("./audit.js"));
defineView("service", () => import("./service.js"));

const LINKS = [["users", "Users"], ["import", "Import"], ["audit", "Audit", "audit:read"], ["service", "Service", "cache:manage"]];

function frame() {
  const allowed = LINKS.filter(([, , scope]) => !scope || may(scope));
  nav.replaceChildren(...allowed.map(([name, title]) => el("a", { href: link(name) }, title)));
  caller.replaceChildren(el("span", {}, "Signed in as ", el("b", {}, current().actor)), button("Sign out", leave, { class: "plain" }));
  for (const part of [nav, finder, caller]) part.hidden = false;
}

function leave() {
  guard(null);
  stop();
  signOut();
  forget();
  for (const part of [nav, finder, caller]) part.hidden = true;
  text.value = "";
  showSignIn();
  announce("You are signed out.");
}

function showSignIn() {
  document.title = "User Service: sign in";
  const heading = el("h1", { tabindex: "-1" }, "Sign in");
  view.replaceChildren(heading, el("section", {}, signInForm(enter)));
  view.querySelector("#key").focus();
  requestAnimationFrame(() => setTimeout(prepare));
}

async function enter() {
  frame();
  view.replaceChildren(loading("Loading the view."));
  text.focus();
  await start();
}

finder.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!text.value.trim()) return;
  const place = el("div", {});
  try {
    await find(text.value.trim());
  } catch (error) {
    view.querySelector("#find_failure")?.remove();
    place.id = "find_failure";
    place.append(failure(error, () => finder.requestSubmit()));
    view.prepend(place);
  }
});

onRefused((problem) => (current() === null ? false : askAgain(problem, frame)));
showSignIn();
