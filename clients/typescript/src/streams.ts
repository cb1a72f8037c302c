import { ConnectionFailed, UnexpectedResponse } from "./errors.js";

/**
 * The documents of a stream of NDJSON, as `parse` reads them; it gives undefined for what is none. Throws
 * ConnectionFailed where the stream is cut off, UnexpectedResponse for other lines.
 */
export async function* readLines<T>(
  response: Response,
  parse: (document: unknown) => T | undefined,
): AsyncGenerator<T, void, undefined> {
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((cause: unknown) => {
        throw new ConnectionFailed("The response was cut off", { cause });
      });
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) yield readLine(line, parse);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
  if (rest !== "") throw new UnexpectedResponse(200, "half a line");
}

function readLine<T>(line: string, parse: (document: unknown) => T | undefined): T {
  let document: unknown;
  try {
    document = JSON.parse(line);
  } catch {
    // Said below.
  }
  const parsed = parse(document);
  if (parsed === undefined) throw new UnexpectedResponse(200, "a line of another kind");
  return parsed;
}
