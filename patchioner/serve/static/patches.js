// Captions of patches: under the pointer first, then around it, then everywhere; each is asked for once.

import { ask } from "./api.js";

const AT_A_TIME = 8;

export class Patches {
  #known = new Map();
  #here = null;
  #running = false;
  #ended = new AbortController();

  /** `onready` is told of the caption under the pointer; `onfault` of a failure. */
  constructor(photo, options, { onready, onprogress, onfault }) {
    Object.assign(this, { photo, options, onready, onprogress, onfault });
  }

  /** The pointer is over this [row, column]. */
  look(cell) {
    this.#here = cell;
    if (this.#known.has(String(cell))) this.onready(cell, this.#known.get(String(cell)));
    this.#run();
  }

  stop() {
    this.#ended.abort();
  }

  async #run() {
    if (this.#running || this.#ended.signal.aborted) return;
    this.#running = true;
    try {
      for (let cells; (cells = this.#next()).length; ) await this.#fetch(cells);
    } catch (error) {
      this.onfault(error);
    } finally {
      this.#running = false;
    }
  }

  #next() {
    if (!this.#known.has(String(this.#here))) return [this.#here];
    const [rows, columns] = this.photo.grid, left = [];
    for (let index = 0; index < rows * columns; index++) {
      const cell = [Math.floor(index / columns), index % columns];
      if (!this.#known.has(String(cell))) left.push(cell);
    }
    const far = ([row, column]) => Math.hypot(row - this.#here[0], column - this.#here[1]);
    return left.sort((one, two) => far(one) - far(two)).slice(0, AT_A_TIME);
  }

  async #fetch(cells) {
    const body = { cells, ...this.options };
    const { captions } = await ask(this.photo, "patches", body, this.#ended.signal);
    for (const [index, cell] of cells.entries()) {
      this.#known.set(String(cell), captions[index]);
      if (String(cell) === String(this.#here)) this.onready(cell, captions[index]);
    }
    this.onprogress(this.#known.size, this.photo.grid[0] * this.photo.grid[1]);
  }
}
