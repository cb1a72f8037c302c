/** Builds elements. Text is set as text and never parsed, so nothing that a user has entered becomes markup. */

export function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key === "value" || key === "checked") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  if (name === "select" && properties.value !== undefined) node.value = properties.value;
  return node;
}

/** Text that persons have written: its direction does not change that of the text around it. */
export function isolated(text) {
  return el("bdi", {}, String(text));
}

/** A table that scrolls by itself where it is too wide; the keyboard scrolls it too. `caption` is shown, `name` is read. */
export function table(name, heads, rows, caption = null) {
  const head = el("tr", {}, ...heads.map((each) => (each.tagName === "TH" ? each : el("th", { scope: "col" }, each))));
  const content = el("table", {}, caption ? el("caption", {}, caption) : el("caption", { class: "quiet" }, name), el("thead", {}, head), el("tbody", {}, ...rows));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${name}` }, content);
}

export function button(text, onclick, properties = {}) {
  return el("button", { type: "button", onclick, ...properties }, text);
}

/** A time as the reader's clock shows it, with the time in UTC as its title. */
export function time(text) {
  if (!text) return "–";
  const moment = new Date(text);
  const shown = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  return el("time", { datetime: text, title: moment.toISOString() }, shown);
}

export function number(value) {
  return value.toLocaleString("en");
}

export function plural(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}

/** A value for requests that take effect once. `crypto.randomUUID` is not there without TLS. */
export function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function saveFile(name, parts, type) {
  const address = URL.createObjectURL(new Blob(parts, { type }));
  const link = el("a", { href: address, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
