/** Sends a file, however long, and tells how much of it is sent. */

import { ConnectionLost, Problem, address, authorization, renewAfter } from "./api.js";

/** An upload that can be stopped. `result` resolves to the response's JSON; it raises Problem, ConnectionLost, Stopped. */
export class Upload {
  constructor(path, file, { query, headers, onProgress }) {
    this.request = new XMLHttpRequest();
    this.result = this.send(path, file, query, headers, onProgress);
  }

  stop() {
    this.request.abort();
  }

  async send(path, file, query, headers, onProgress, mayRenew = true) {
    const { status, document } = await new Promise((resolve, reject) => {
      const { request } = this;
      request.open("POST", address(path, query));
      for (const [name, value] of Object.entries({ ...headers, Authorization: authorization() })) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => onProgress(event.loaded, file.size);
      request.onload = () => {
        resolve({ status: request.status, document: parse(request.responseText) });
      };
      request.onerror = () => reject(new ConnectionLost());
      request.onabort = () => reject(new Stopped());
      request.send(file);
    });
    if (status >= 200 && status < 300) return document;
    const problem = new Problem(status, document);
    if (status === 401 && mayRenew && (await renewAfter(problem))) return this.send(path, file, query, headers, onProgress, false);
    throw problem;
  }
}

export class Stopped extends Error {}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
