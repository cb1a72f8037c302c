/** One user: its fields, what can be done with it, and its audit trail. */

import { actionBar, dangerZone, isErased } from "./actions.js";
import { change, isStale, read } from "./api.js";
import { DISCARD, resolveConflict } from "./conflict.js";
import { el, isolated } from "./dom.js";
import { askToLeave } from "./dialogs.js";
import { LABELS, show, statusBadge, title } from "./fields.js";
import { empty, failure, loading, notice } from "./notices.js";
import { makePatch } from "./patches.js";
import { guard } from "./router.js";
import { may } from "./session.js";
import { Timeline } from "./timeline.js";
import { UserForm } from "./user_form.js";

export const TITLE = "user";
const FACTS = ["id", "version", "created_at", "updated_at", "last_login_at", "deleted_at"];

export function open(place, { id, signal }) {
  const view = new UserView(place, id, signal);
  view.load();
  return view;
}

class UserView {
  constructor(place, id, signal) {
    this.id = id;
    this.signal = signal;
    this.heading = el("h1", { tabindex: "-1" }, "User");
    this.place = el("div", {});
    this.body = el("div", {}, loading("Loading the user."));
    this.timeline = new Timeline(id, signal);
    this.trail = el("section", { "aria-labelledby": "trail" }, el("h2", { id: "trail" }, "Who changed what"), this.timeline.element);
    place.append(this.heading, this.place, this.body);
  }

  async load() {
    if (!may("users:read")) return this.body.replaceChildren(empty("This key does not allow reading users: it lacks the scope users:read."));
    try {
      this.show(await this.read());
    } catch (error) {
      if (this.signal.aborted) return undefined;
      if (error.code === "user_not_found") return this.showGone();
      return this.body.replaceChildren(failure(error, () => this.load()));
    }
    return this.timeline.load();
  }

  read() {
    return read(`users/${this.id}`, { include: "deleted" }, this.signal);
  }

  /** A purged user has no fields any more; its changes are kept. */
  async showGone() {
    this.heading.replaceChildren("No user");
    this.body.replaceChildren(empty("No user has this id. If there was one, it was purged, and only its changes are kept."), this.trail);
    return this.timeline.load();
  }

  show(user) {
    this.user = user;
    guard(null);
    const readonly = !may("users:write") || user.status === "deleted";
    this.form = new UserForm(user, { readonly, onChange: (isChanged) => guard(isChanged ? () => askToLeave("What you have entered is not saved.") : null), onSave: (...entered) => this.save(...entered) });
    this.heading.replaceChildren(isErased(user) ? "Erased person" : isolated(title(user)), " ", statusBadge(user.status));
    const facts = el("dl", { class: "facts" }, ...FACTS.flatMap((name) => [el("dt", {}, LABELS[name]), el("dd", {}, ...[show(name, user[name])].flat())]));
    this.body.replaceChildren(actionBar(user, this),
      el("div", { class: "columns" },
        el("div", {}, this.form.element),
        el("div", {}, el("section", {}, el("h2", {}, "Record"), facts), this.trail, dangerZone(user, this) || "")));
  }

  async save(patch, entered, reason, version = this.user.version) {
    try {
      this.done("The changes are saved.", await this.request(patch, version)(reason));
    } catch (error) {
      if (isStale(error)) return this.resolve(entered, reason);
      const others = this.form.showErrors(error.errors || []);
      if (!error.errors?.length || others.length) this.say(failure(error));
      else this.say(notice("bad", "Nothing is saved yet: correct the fields that are marked."));
    }
    return undefined;
  }

  /** The same patch of the same version is the same request, so that it takes effect once when it is repeated. */
  request(patch, version) {
    const key = JSON.stringify([patch, version]);
    if (this.pending?.key !== key) this.pending = { key, run: change("PATCH", `users/${this.id}`, { body: patch, version }) };
    return this.pending.run;
  }

  async resolve(entered, reason) {
    let stored;
    try {
      stored = await this.read();
    } catch (error) {
      return error.code === "user_not_found" ? this.stale() : this.say(failure(error, () => this.resolve(entered, reason)));
    }
    if (stored.status === "deleted") return this.stale();
    const values = await resolveConflict({ before: this.user, stored, entered });
    if (values === null) return undefined;
    const patch = values === DISCARD ? {} : makePatch(pick(stored, values), values);
    if (Object.keys(patch).length) return this.save(patch, values, reason, stored.version);
    return this.done("Your changes are discarded. The user is shown as it is now.", stored);
  }

  /** Shows the user after a change; reads it where it is null. */
  async done(sentence, user, kind = "good") {
    guard(null);
    if (user === null) await this.load();
    else {
      this.show(user);
      this.timeline.load();
    }
    this.say(notice(kind, sentence));
    this.heading.focus();
  }

  stale() {
    return this.done("This user was changed meanwhile, so nothing was done. It is shown as it is now.", null, "warn");
  }

  say(box) {
    this.place.replaceChildren(box);
    box.scrollIntoView({ block: "nearest" });
  }
}

function pick(user, values) {
  return Object.fromEntries(Object.keys(values).map((name) => [name, user[name]]));
}
