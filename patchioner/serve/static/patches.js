// Captions of patches: under the pointer first, then around it, then everywhere; each is asked for once.

import { ask } from "./api.js";

const AT_A_TIME = 8;

export class Patches {
  #known = new Map();
  #here = null;
  #running = false;
  #ended = new AbortController();

  /** `onready(cell, caption)` is told of the patch under the pointer, `onfault` of a failure. */
  constructor(photo, { onready, onfault }) {
    Object.assign(this, { photo, onready, onfault });
  }

  /** The pointer is over this [row, column]. */
  look(cell) {
    this.#here = cell;
    if (this.#known.has(String(cell))) this.onready(cell, this.#known.get(String(cell)));
    if (this.#running || this.#ended.signal.aborted) return;
    this.#running = true;
    this.#run().catch(this.onfault).finally(() => (this.#running = false));
  }

  stop() {
    this.#ended.abort();
  }

  async #run() {
    for (let cells; (cells = this.#next()).length; ) await this.#fetch(cells);
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
    const { captions } = await ask(this.photo, "patches", { cells }, this.#ended.signal);
    for (const [index, cell] of cells.entries()) {
      this.#known.set(String(cell), captions[index]);
      if (String(cell) === String(this.#here)) this.onready(cell, captions[index]);
    }
  }
}
