/** Differences between two states of a user, as merge patches (RFC 7396). */

export function isSame(one, other) {
  if (isObject(one) && isObject(other)) {
    const names = Object.keys(one);
    return names.length === Object.keys(other).length && names.every((name) => name in other && isSame(one[name], other[name]));
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
  const patch = {};
  for (const name of Object.keys(from)) {
    if (!(name in to)) patch[name] = null;
  }
  for (const [name, value] of Object.entries(to)) {
    if (isObject(from[name]) && isObject(value)) {
      const inner = makePatch(from[name], value);
      if (Object.keys(inner).length) patch[name] = inner;
    } else if (!(name in from) || !isSame(from[name], value)) {
      patch[name] = value;
    }
  }
  return patch;
}
