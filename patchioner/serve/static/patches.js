// Captions of patches: under the pointer first, then around it, then everywhere; each is asked for once.

import { ask } from "./api.js";

const AT_A_TIME = 8;

export class Patches {
  #known = new Map();
  #here = null;
  #asked = []; // keys of the cells under way
  #turn = new AbortController(); // of what is under way
  #ended = false;

  /** `onready(cell, caption)` is told of the patch under the pointer, null while it is asked for; `onfault` of a failure. */
  constructor(photo, { onready, onfault }) {
    Object.assign(this, { photo, onready, onfault });
  }

  /** The pointer is over this [row, column]; what was asked for ahead gives way to it. */
  look(cell) {
    const key = String(cell), caption = this.#known.get(key) ?? null;
    this.#here = cell;
    this.onready(cell, caption);
    if (!caption && this.#asked.length > 1 && !this.#asked.includes(key)) this.#turn.abort();
    if (!this.#asked.length && !this.#ended) this.#run().catch(this.onfault).finally(() => (this.#asked = []));
  }

  stop() {
    this.#ended = true;
    this.#turn.abort();
  }

  async #run() {
    for (let cells; !this.#ended && (cells = this.#next()).length; ) {
      this.#turn = new AbortController();
      await this.#fetch(cells).catch((error) => {
        if (error.name !== "AbortError") throw error;
      });
    }
  }

  #next() {
    if (!this.#known.has(String(this.#here))) return [this.#here];
    const [rows, columns] = this.photo.grid;
    const all = Array.from({ length: rows * columns }, (_, at) => [Math.floor(at / columns), at % columns]);
    const far = ([row, column]) => Math.hypot(row - this.#here[0], column - this.#here[1]);
    const left = all.filter((cell) => !this.#known.has(String(cell)));
    return left.sort((one, two) => far(one) - far(two)).slice(0, AT_A_TIME);
  }

  async #fetch(cells) {
    this.#asked = cells.map(String);
    const { captions } = await ask(this.photo, "patches", { cells }, this.#turn.signal);
    for (const [index, key] of this.#asked.entries()) {
      this.#known.set(key, captions[index]);
      if (key === String(this.#here)) this.onready(this.#here, captions[index]);
    }
  }
}
