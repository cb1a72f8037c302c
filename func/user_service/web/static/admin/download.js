/** Files that the service writes, which the browser saves. */

import { ConnectionLost, send } from "./api.js";
import { saveFile } from "./dom.js";

/** Reads a response to its end and saves it. `onProgress` gets the number of bytes so far. Raises as `send`. */
export async function download(path, name, { query, headers, signal, onProgress = () => {} } = {}) {
  const response = await send("GET", path, { query, headers, signal });
  const pieces = [];
  let size = 0;
  try {
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      onProgress(size += value.length);
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new ConnectionLost();
  }
  saveFile(name, pieces, response.headers.get("Content-Type"));
  return size;
}
