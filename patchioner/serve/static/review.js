// Alt-text review: photo after photo with its proposed text, edited and accepted by keyboard.

import { ask, readBlob, upload } from "./api.js";
import { $, acting, complain, download, sureness } from "./dom.js";
import { csv } from "./files.js";

const AHEAD = 2; // photos whose text is asked for while one is read

export class Review {
  #entries = [];
  #at = 0;

  constructor() {
    $("review-form").onsubmit = acting(() => this.#accept());
    $("review-back").onclick = () => this.#go(this.#at - 1);
    $("review-skip").onclick = () => this.#go(this.#at + 1);
    $("review-text").oninput = ({ target }) => (this.#entries[this.#at].text = target.value);
    $("review").onkeydown = (event) => this.#key(event);
    for (const [format, type] of [["csv", "text/csv"], ["json", "application/json"], ["html", "text/html"]]) {
      $(`review-${format}`).onclick = () => download(`alt.${format}`, this[format](), type);
    }
  }

  /** Begin with these: [{name, file}, ...], where a file may be missing that the server has. */
  start(photos) {
    this.#entries = photos
      .map((photo) => ({ text: "", accepted: false, proposal: null, ...photo }))
      .sort((one, two) => one.name.localeCompare(two.name, undefined, { numeric: true }));
    $("review-title").focus();
    return this.#go(0);
  }

  #propose(entry) {
    entry.proposal ??= (async () => {
      const blob = await this.#file(entry), photo = { blob, name: entry.name, ...(await upload(blob, "photo")) };
      const [caption] = (await ask(photo, "captions", { regions: [{ whole: true }] })).captions;
      if (caption.error) throw new Error(caption.error.message);
      entry.caption = caption;
      if (caption.text) entry.text ||= caption.alt; // what has been typed meanwhile stays
      return caption.text ? sureness(caption) : `no proposal: ${caption.reason ?? "not sure"}`;
    })().catch((error) => `no proposal: ${error.message}`);
    return entry.proposal;
  }

  #go(place) {
    return this.#show(place).catch(complain);
  }

  async #show(place) {
    this.#at = Math.min(Math.max(place, 0), this.#entries.length - 1);
    const entry = this.#entries[this.#at];
    $("review-text").value = entry.text;
    $("review-note").textContent = "Asking ...";
    this.#tell();
    const file = await this.#file(entry);
    if (this.#entries[this.#at] !== entry) return;
    URL.revokeObjectURL($("review-photo").src);
    $("review-photo").src = URL.createObjectURL(file);
    const note = await this.#propose(entry);
    if (this.#entries[this.#at] !== entry) return;
    $("review-text").value ||= entry.text;
    $("review-note").textContent = `Proposed: ${note}`;
    $("review-text").focus();
    for (const next of this.#entries.slice(this.#at + 1, this.#at + 1 + AHEAD)) await this.#propose(next);
  }

  async #file(entry) {
    return (entry.file ??= await readBlob(`v1/photos/${entry.name.split("/").map(encodeURIComponent).join("/")}`));
  }

  #tell() {
    const { name, accepted } = this.#entries[this.#at];
    const done = this.#entries.filter((entry) => entry.accepted).length;
    $("review-place").textContent = `${this.#at + 1} of ${this.#entries.length}: ${name}${accepted ? " (accepted)" : ""}`;
    $("review-status").textContent = `${done} of ${this.#entries.length} accepted`;
  }

  #accept() {
    const text = $("review-text").value.trim();
    if (!text) throw new Error("The alt text is empty: write one, or skip the photo.");
    Object.assign(this.#entries[this.#at], { text, accepted: true });
    return this.#go(this.#at + 1);
  }

  #key(event) {
    const step = event.altKey && { PageDown: 1, PageUp: -1 }[event.key];
    if (step) this.#go(this.#at + step);
    else if (event.ctrlKey && event.key === "Enter") $("review-form").requestSubmit();
    else return;
    event.preventDefault();
  }

  #accepted() {
    return this.#entries.filter((entry) => entry.accepted);
  }

  csv() {
    return csv([["photo", "alt"], ...this.#accepted().map(({ name, text }) => [name, text])]);
  }

  json() {
    const row = ({ name, text, caption }) => ({ photo: name, alt: text, proposed: caption?.text ?? null });
    return JSON.stringify({ photos: this.#accepted().map(row) }, null, 1);
  }

  html() {
    const quoted = (text) => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");
    const path = (name) => name.split("/").map(encodeURIComponent).join("/");
    return this.#accepted().map(({ name, text }) => `<img src="${path(name)}" alt="${quoted(text)}">\n`).join("");
  }
}
