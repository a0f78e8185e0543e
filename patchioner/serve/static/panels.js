// Questions about the photo: why this caption, find by words, choose among names, describe.

import { ask, listen } from "./api.js";
import { $, acting, el, say } from "./dom.js";
import { cellsMask } from "./shapes.js";

/** Transparent to yellow: how much a patch counts, 0..1. */
const glow = (share) => [255, 209, 0, Math.round(200 * share)];

/** Values of a grid as shares of its range, 0..1. */
function shares(grid, low = Math.min(...grid.flat())) {
  const range = Math.max(...grid.flat()) - low || 1;
  return grid.map((row) => row.map((value) => (value - low) / range));
}

export class Panels {
  #near = null; // of each patch to the words, 0..1 of its range
  #ended = new AbortController();

  constructor(stage, items) {
    Object.assign(this, { stage, items });
    $("why-close").onclick = $("find-close").onclick = () => this.#close();
    $("find").onsubmit = acting(() => this.find());
    $("threshold").oninput = () => this.#light();
    $("make-region").onclick = acting(() => this.#region());
    $("label").onsubmit = acting(() => this.label());
    $("describe").onsubmit = acting(() => this.describe());
  }

  reset() {
    this.#ended.abort();
    this.#ended = new AbortController();
    $("sentences").replaceChildren();
    this.#show(null);
  }

  #photo() {
    if (!this.items.photo) throw new Error("Open a photo first.");
    return this.items.photo;
  }

  /** Of what shows a heat map, one at a time. */
  #show(id) {
    for (const one of ["why", "found"]) $(one).hidden = one !== id;
    this.stage.heat(null);
  }

  #close() {
    this.#show(null);
    $("stage").focus();
  }

  /** The nearest memory texts of a region's caption, and its patch weights over the photo. */
  async why(item) {
    const { texts, weights } = await ask(this.#photo(), "explain", { region: item.region });
    const rows = texts.map(({ text, similarity, weight }) => {
      const meter = el("meter", { min: 0, max: 1, value: weight, ariaLabel: "weight" });
      return el("li", {}, `${text} `, meter, el("span", { className: "quiet" }, ` cosine ${similarity.toFixed(2)}`));
    });
    $("memory").replaceChildren(...rows);
    this.#show("why");
    this.items.select(item);
    this.stage.heat(shares(weights, 0), glow);
    say(`Nearest memory text: ${texts[0]?.text ?? "none"}`);
  }

  async find() {
    const { similarities } = await ask(this.#photo(), "patches", { text: $("words").value });
    this.#near = shares(similarities);
    this.#show("found");
    this.#light();
  }

  #cells() {
    const least = Number($("threshold").value);
    return this.#near.flatMap((row, y) => row.flatMap((share, x) => (share >= least ? [[y, x]] : [])));
  }

  #light() {
    const least = Number($("threshold").value);
    this.stage.heat(this.#near, (share) => (share >= least ? glow(0.25 + share / 3) : [0, 0, 0, 150]));
    say(`${this.#cells().length} patches match`);
  }

  async #region() {
    const region = cellsMask(this.#cells(), this.#photo());
    if (!region) throw new Error("No patch matches: lower the threshold.");
    this.#close();
    await this.items.add(region);
  }

  /** Choose among the user's names for every region (the whole photo where there is none). */
  async label() {
    const names = $("names").value.split(/[\n,]/).map((name) => name.trim()).filter(Boolean);
    if (names.length < 2) throw new Error("Give two names or more, with commas between.");
    const photo = this.#photo();
    if (!this.items.all.length) await this.items.add({ whole: true });
    const items = [...this.items.all], regions = items.map((item) => item.region);
    const { labels } = await ask(photo, "labels", { regions, names });
    labels.forEach(({ text, probability, error }, index) => {
      items[index].label = error?.message ?? `${text ?? "none of them"}, ${Math.round(100 * probability)} %`;
    });
    this.items.render();
    say(`Labelled ${items.length} regions: ${items.map((item) => item.label).join("; ")}`);
  }

  /** Sentence by sentence; each lights up the regions that it was said of. */
  async describe() {
    const place = $("sentences"), body = { preset: $("detail").value };
    place.replaceChildren();
    for await (const [event, data] of listen(this.#photo(), "detail", body, this.#ended.signal)) {
      if (event === "error") throw new Error(data.error.message);
      if (event === "sentence") place.append(this.#sentence(data), " ");
      if (event === "done") say(data.text || `No description: ${data.reason}`);
    }
  }

  #sentence({ text, support, regions }) {
    const lit = regions.map(({ region }) => ({ region }));
    const light = () => (this.stage.draw([...this.items.all, ...lit], new Set(lit)), this.stage.note(null));
    const dark = () => this.items.draw();
    return el("button", {
      type: "button", className: "sentence", title: support == null ? "" : `support ${support.toFixed(2)}`,
      onpointerenter: light, onfocus: light, onclick: light, onpointerleave: dark, onblur: dark,
    }, text);
  }
}
