// Captions of patches: under the pointer first, then around it, then everywhere; each is asked for once.

import { ask } from "./api.js";
import { $ } from "./dom.js";

const AT_A_TIME = 8;
const keyOf = (cell) => `${cell} ${$("style").value}`;

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
    const key = keyOf(cell), caption = this.#known.get(key) ?? null;
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
    if (!this.#known.has(keyOf(this.#here))) return [this.#here];
    const [rows, columns] = this.photo.grid;
    const all = Array.from({ length: rows * columns }, (_, at) => [Math.floor(at / columns), at % columns]);
    const far = ([row, column]) => Math.hypot(row - this.#here[0], column - this.#here[1]);
    return all.filter((cell) => !this.#known.has(keyOf(cell))).sort((one, two) => far(one) - far(two)).slice(0, AT_A_TIME);
  }

  async #fetch(cells) {
    this.#asked = cells.map(keyOf);
    const { captions } = await ask(this.photo, "patches", { cells, style: $("style").value }, this.#turn.signal);
    this.#asked.forEach((key, index) => this.#known.set(key, captions[index]));
    if (this.#asked.includes(keyOf(this.#here))) this.onready(this.#here, this.#known.get(keyOf(this.#here)));
  }
}
