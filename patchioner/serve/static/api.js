// The server's answers. A photo that the server has let go of is sent again, and a full queue is waited for.

import { $ } from "./dom.js";

const MOST_TRIES = 8;

/** What the server refused; `type` is its word for it. */
class Refusal extends Error {
  constructor(status, { type, message } = {}) {
    super(message ?? `The server answered with status ${status}.`);
    this.type = type;
  }
}

async function askToken() {
  const dialog = $("token-dialog");
  dialog.showModal();
  await new Promise((close) => (dialog.onclose = close));
  sessionStorage.setItem("token", $("token").value);
}

async function send(path, options = {}) {
  for (let tries = 1; ; tries++) {
    const token = sessionStorage.getItem("token");
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const reply = await fetch(path, { ...options, headers }).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The server cannot be reached: is it running?");
    });
    if (reply.ok) return reply;
    if (![401, 429, 503].includes(reply.status) || tries === MOST_TRIES) {
      throw new Refusal(reply.status, (await reply.json().catch(() => ({}))).error);
    }
    const seconds = Math.min(Number(reply.headers.get("Retry-After")) || 1, 10);
    if (reply.status === 401) await askToken();
    else await new Promise((wake) => setTimeout(wake, 1000 * seconds));
  }
}

/** Send a photo; it is encoded once. Gives {id, width, height, grid, origin, cell}, see docs/serve.md. */
export async function upload(blob, name) {
  const body = new FormData();
  body.append("file", blob, name);
  return (await send("v1/images", { method: "POST", body })).json();
}

async function post(photo, verb, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const options = { method: "POST", signal, body: JSON.stringify(body), headers };
  const path = () => `v1/images/${encodeURIComponent(photo.id)}/${verb}`;
  return send(path(), options).catch(async (error) => {
    if (error.type !== "unknown_image") throw error;
    photo.id = (await upload(photo.blob, photo.name)).id;
    return send(path(), options);
  });
}

export async function readBlob(path) {
  return (await send(path)).blob();
}

/** Ask for `verb` of a photo: captions, patches, explain, labels. */
export async function ask(photo, verb, body, signal) {
  return (await post(photo, verb, body, signal)).json();
}

/** Server-sent events of `verb`, as [event, data] one by one. */
export async function* listen(photo, verb, body, signal) {
  const reader = (await post(photo, verb, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", done = false; !done; ) {
    const part = await reader.read();
    done = part.done;
    const blocks = (rest + (part.value ?? "")).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = block.split(/\r?\n/).map((line) => line.split(/:\s?(.*)/s));
      const of = (name) => fields.filter(([key]) => key === name).map(([, value]) => value).join("\n");
      if (of("data")) yield [of("event") || "message", JSON.parse(of("data"))];
    }
  }
}
