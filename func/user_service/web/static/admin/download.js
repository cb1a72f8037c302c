/** Files that the service writes, which the browser saves. */

import { ConnectionLost, send } from "./api.js";
import { saveFile } from "./dom.js";

/** Reads a response to its end and saves it. `onProgress` gets the number of bytes so far. Raises as `send`. */
export async function download(path, name, { query, headers, signal, onProgress = () => {} } = {}) {
  const response = await send("GET", path, { query, headers, signal });
  const type = response.headers.get("Content-Type");
  let size = 0;
  const counter = new TransformStream({
    transform(piece, controller) {
      onProgress(size += piece.length);
      controller.enqueue(piece);
    },
  });
  try {
    // The browser collects the pieces, on disk where they are many.
    saveFile(name, [await new Response(response.body.pipeThrough(counter)).blob()], type);
  } catch (error) {
    throw error.name === "AbortError" ? error : new ConnectionLost();
  }
  return size;
}
