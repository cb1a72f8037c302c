/** Differences between two states of a user, as merge patches (RFC 7396). */

export function isSame(one, other) {
  if (isObject(one) && isObject(other)) {
    const names = Object.keys(one);
    return names.length === Object.keys(other).length && names.every((name) => Object.hasOwn(other, name) && isSame(one[name], other[name]));
  }
  if (Array.isArray(one) && Array.isArray(other)) {
    return one.length === other.length && one.every((value, index) => isSame(value, other[index]));
  }
  return one === other;
}

export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The patch that makes `to` of `from`: objects are patched key by key, everything else is replaced. */
export function makePatch(from, to) {
  const removed = Object.keys(from).filter((name) => !Object.hasOwn(to, name)).map((name) => [name, null]);
  const set = [];
  for (const [name, value] of Object.entries(to)) {
    const before = Object.hasOwn(from, name) ? from[name] : undefined;
    if (isObject(before) && isObject(value)) {
      const inner = makePatch(before, value);
      if (Object.keys(inner).length) set.push([name, inner]);
    } else if (before === undefined || !isSame(before, value)) {
      set.push([name, value]);
    }
  }
  // A name may be `__proto__`, which an assignment would not make a member.
  return Object.fromEntries([...removed, ...set]);
}
