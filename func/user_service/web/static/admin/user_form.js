/** The fields of one user as a form. */

import { button, el } from "./dom.js";
import { reasonField } from "./dialogs.js";
import { EDITABLE, LABELS } from "./fields.js";
import { isObject, makePatch } from "./patches.js";

/** `onSave` gets the patch, the values that were entered, and the reason; it raises what the service refused. */
export class UserForm {
  constructor(user, { readonly, onChange, onSave }) {
    this.user = user;
    this.inputs = new Map();
    this.errors = new Map();
    this.onChange = onChange;
    this.changes = el("span", {});
    this.place = el("div", {});
    this.saving = el("button", { class: "primary" }, "Save");
    this.reason = reasonField();
    this.bar = el("div", { class: "bar", hidden: true }, this.changes, this.reason,
      button("Discard", () => this.reset()), this.saving);
    const save = async (event) => {
      event.preventDefault();
      await this.save(onSave);
    };
    this.element = el("form", { onsubmit: save, oninput: () => this.notice(), novalidate: true, autocomplete: "off", "aria-label": "Fields of the user" },
      el("div", { class: "fields" }, ...EDITABLE.map((field) => this.control(field, readonly))),
      this.place, this.bar);
  }

  control(field, readonly) {
    const { name, label, kind, hint } = field;
    const error = el("p", { class: "error", id: `error_${name}`, hidden: true });
    this.errors.set(name, error);
    if (kind === "flag") {
      const input = el("input", { type: "checkbox", name, checked: this.user[name], disabled: readonly });
      this.inputs.set(name, input);
      return el("div", {}, el("label", { class: "line" }, input, label), error);
    }
    const isLong = kind !== "text";
    const input = el(isLong ? "textarea" : "input", {
      name, value: toText(kind, this.user[name]), readonly, dir: "auto", autocomplete: "off", spellcheck: "false",
      ...(!isLong && { type: field.type || "text" }), "aria-describedby": `${hint ? `hint_${name} ` : ""}error_${name}`,
    });
    this.inputs.set(name, input);
    return el("div", isLong ? { class: "wide" } : {},
      el("label", {}, label, input),
      hint && !readonly && el("span", { class: "muted", id: `hint_${name}` }, hint),
      error);
  }

  /** What is entered. Raises InvalidField. */
  values() {
    const entries = EDITABLE.map(({ name, kind }) => {
      const input = this.inputs.get(name);
      const value = kind === "flag" ? input.checked : fromText(name, kind, input.value);
      return [name, value];
    });
    return Object.fromEntries(entries);
  }

  /** The names of fields that are not as they were. */
  changed() {
    return EDITABLE.filter(({ name, kind }) => {
      const input = this.inputs.get(name);
      return kind === "flag" ? input.checked !== this.user[name] : input.value !== toText(kind, this.user[name]);
    }).map(({ name }) => name);
  }

  notice() {
    const names = this.changed();
    this.bar.hidden = names.length === 0;
    this.changes.textContent = `Not saved yet: ${names.map((name) => LABELS[name]).join(", ")}`;
    this.onChange(names.length > 0);
  }

  reset() {
    for (const { name, kind } of EDITABLE) {
      const input = this.inputs.get(name);
      if (kind === "flag") input.checked = this.user[name];
      else input.value = toText(kind, this.user[name]);
    }
    this.showErrors([]);
    this.notice();
  }

  async save(onSave) {
    this.showErrors([]);
    let values;
    try {
      values = this.values();
    } catch (error) {
      if (!(error instanceof InvalidField)) throw error;
      return this.showErrors([{ pointer: `/${error.field}`, detail: error.message }]);
    }
    const before = Object.fromEntries(Object.keys(values).map((name) => [name, this.user[name]]));
    const patch = makePatch(before, values);
    if (!Object.keys(patch).length) return this.reset();
    this.saving.disabled = true;
    try {
      return await onSave(patch, values, this.reason.querySelector("input").value);
    } finally {
      this.saving.disabled = false;
    }
  }

  /** Shows faults beside their fields; gives those that belong to none. */
  showErrors(faults) {
    for (const [name, place] of this.errors) {
      const own = faults.filter((fault) => fault.pointer.split("/")[1] === name);
      place.textContent = own.map((fault) => fault.detail).join("; ");
      place.hidden = own.length === 0;
      if (own.length) this.inputs.get(name).setAttribute("aria-invalid", "true");
      else this.inputs.get(name).removeAttribute("aria-invalid");
    }
    this.element.querySelector("[aria-invalid]")?.focus();
    return faults.filter((fault) => !this.errors.has(fault.pointer.split("/")[1]));
  }
}

class InvalidField extends Error {
  constructor(field, text) {
    super(text);
    this.field = field;
  }
}

function toText(kind, value) {
  if (kind === "addresses") return (value || []).join("\n");
  if (kind === "json") return value && Object.keys(value).length ? JSON.stringify(value, null, 2) : "";
  return value ?? "";
}

function fromText(name, kind, text) {
  if (kind === "addresses") return text.split(/[\s;,]+/).filter(Boolean);
  if (kind === "text") return text === "" ? null : text;
  if (!text.trim()) return {};
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new InvalidField(name, 'This is not JSON. Write it as {"key": "value"}.');
  }
  if (!isObject(value)) throw new InvalidField(name, 'This is no object. Write it as {"key": "value"}.');
  return value;
}
