// Small helpers of the page. Text is only ever set as text: no name or caption can become markup.

export const $ = (id) => document.getElementById(id);

/** An element with properties (listeners too) and children, which are nodes or text. */
export function el(tag, props = {}, ...children) {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...children);
  return made;
}

/** Tell everybody, screen readers too, what has happened. */
export function say(text) {
  $("status").textContent = text;
}

/** Show what went wrong, until the next photo. */
export function complain(error) {
  if (error.name === "AbortError") return;
  $("fault-text").textContent = error.message || String(error);
  $("fault").hidden = false;
}

/** Run a handler of an event; its failure is shown, and the control is busy meanwhile. */
export function acting(handler) {
  return async (event) => {
    const control = event.submitter ?? event.currentTarget;
    event.preventDefault();
    control.ariaBusy = "true";
    await Promise.resolve(event).then(handler).catch(complain);
    control.ariaBusy = "false";
  };
}

/** Offer a text or blob as a file of that name. */
export function download(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** "82 % sure", or the score where the model gives no confidence. */
export function sureness({ confidence, score }) {
  if (confidence != null) return `${Math.round(100 * confidence)} % sure`;
  return score == null ? "" : `score ${score.toFixed(2)}`;
}

/** What is said of an answer: its caption, its error, or why it has none. */
export function words({ text, reason, error }) {
  return error?.message ?? text ?? `no caption: ${reason ?? "not sure"}`;
}
