/** Two changes at once: what is stored now stands beside what was entered, and nothing is overwritten unseen. */

import { read } from "./api.js";
import { button, el, isolated, time } from "./dom.js";
import { showDialog } from "./dialogs.js";
import { EDITABLE, show } from "./fields.js";
import { isSame } from "./patches.js";

/** The answer that nothing of what was entered is wanted. */
export const DISCARD = "discard";

/** Asks which value each field shall have; resolves to the values to save, to DISCARD, or to null to go on as before. */
export async function resolveConflict({ before, stored, entered }) {
  const author = await describeAuthor(stored);
  const differing = EDITABLE.filter(({ name }) => !isSame(before[name], stored[name]) || !isSame(before[name], entered[name]));
  return showDialog("This user was changed meanwhile", (close) => {
    const submit = (event) => {
      event.preventDefault();
      const chosen = new FormData(event.target);
      const values = EDITABLE.map(({ name }) => [name, chosen.get(`choose_${name}`) === "entered" ? entered[name] : stored[name]]);
      close(Object.fromEntries(values));
    };
    return [
      el("p", {}, "Your changes are not saved yet. ", ...author, " Choose what each field shall have."),
      el("form", { onsubmit: submit },
        ...differing.map((field) => choice(field, { before, stored, entered })),
        el("div", { class: "actions" },
          button("Discard my changes", () => close(DISCARD)), el("button", { class: "primary" }, "Save what is chosen"))),
    ];
  });
}

/** The stored value is chosen where another change has set it, the entered one where only this form has. */
function choice({ name, label }, { before, stored, entered }) {
  const changedByOthers = !isSame(before[name], stored[name]);
  const changedHere = !isSame(before[name], entered[name]);
  const option = (value, text, checked, content) => el("label", { class: "line" },
    el("input", { type: "radio", name: `choose_${name}`, value, checked }), el("span", {}, el("span", { class: "muted" }, text), ...[content].flat()));
  return el("fieldset", {},
    el("legend", {}, label, changedByOthers && changedHere ? " (changed by both)" : ""),
    el("div", { class: "fields" },
      option("stored", "stored now: ", changedByOthers || !changedHere, show(name, stored[name])),
      changedHere && option("entered", "yours: ", !changedByOthers, show(name, entered[name]))));
}

async function describeAuthor(stored) {
  try {
    const { items } = await read(`users/${stored.id}/audit`, { limit: 200 });
    const last = items.find((change) => change.version === stored.version);
    return last ? ["The other change was made by ", isolated(last.actor), " at ", time(last.changed_at), "."] : [];
  } catch {
    return [];
  }
}
