// The regions of the photo and their captions: state, the list beside the photo, asking for captions.

import { ask } from "./api.js";
import { $, acting, complain, el, say, sureness } from "./dom.js";
import { bounds, describe, paintedMask } from "./shapes.js";

let serial = 0;

export class Items {
  all = [];
  selected = null;

  /** `options()` gives the fields that go with every request; `onwhy(item)` explains one. */
  constructor(stage, options, onwhy) {
    Object.assign(this, { stage, options, onwhy, photo: null });
  }

  reset(photo) {
    this.photo = photo;
    this.all = [];
    this.select(null);
  }

  /** Add a region, or, `joined`, make it a member of the selected one; then caption it. */
  add(region, { joined = false, ...more } = {}) {
    if (joined && this.selected) {
      const { region: old } = this.selected;
      return this.change(this.selected, { set: [...(old.set ?? [old]), region] });
    }
    const item = { number: ++serial, region, text: null, waiting: true, ...more };
    this.all.push(item);
    this.select(item);
    return this.caption([item]);
  }

  /** Regions of a file, {region, label}; the server's answer has each in our own form. */
  async load(found) {
    const refused = [], { photo } = this;
    for (let start = 0; start < found.length; start += 64) {
      const part = found.slice(start, start + 64), regions = part.map((one) => one.region);
      const { captions } = await ask(photo, "captions", { regions, ...this.options() });
      if (photo !== this.photo) return;
      captions.forEach((answer, index) => {
        if (answer.error) return refused.push(`Entry ${start + index + 1}: ${answer.error.message}`);
        const item = { number: ++serial, region: answer.region, label: part[index].label };
        this.#answer(item, answer);
        this.all.push(item);
      });
      this.render();
    }
    say(`${found.length - refused.length} of ${found.length} regions read`);
    if (refused.length) throw new Error(refused.slice(0, 5).join(" "));
  }

  /** A stroke of the brush: of the mask that is selected, or of a new one. */
  paint(stroke) {
    const before = this.selected?.strokes ?? [];
    const strokes = [...before, stroke];
    const region = paintedMask(strokes, this.photo);
    if (!region) return before.length ? this.remove(this.selected) : null;
    if (!before.length) return this.add(region, { strokes });
    return this.change(this.selected, region, strokes);
  }

  change(item, region, strokes = null) {
    Object.assign(item, { region, strokes, text: null, waiting: true, edited: false, label: null, error: null });
    this.select(item);
    return this.caption([item]);
  }

  /** Ask for the captions of these items in one request; an answer to an older region is not shown. */
  async caption(items) {
    const { photo } = this, regions = items.map((item) => item.region);
    const still = (index) => this.all.includes(items[index]) && items[index].region === regions[index];
    try {
      const { captions } = await ask(photo, "captions", { regions, ...this.options() });
      captions.forEach((answer, index) => {
        if (still(index)) this.#answer(items[index], answer);
      });
      if (items.includes(this.selected)) say(this.words(this.selected));
    } catch (error) {
      items.forEach((item, index) => {
        if (still(index)) this.#answer(item, { error });
      });
      complain(error);
    }
    this.render();
  }

  #answer(item, answer) {
    const { text = null, score = null, confidence = null, reason = null, error = null } = answer;
    Object.assign(item, { text, score, confidence, reason, error: error?.message ?? null, waiting: false });
  }

  /** What is said of an item, with how sure that is. */
  words(item) {
    if (item.waiting) return "...";
    if (item.error) return item.error;
    const sure = item.edited ? "edited" : sureness(item);
    return (item.text ?? `no caption: ${item.reason ?? "not sure"}`) + (sure ? ` (${sure})` : "");
  }

  select(item) {
    this.selected = item;
    this.render();
    $("items").children[this.all.indexOf(item)]?.scrollIntoView({ block: "nearest" });
  }

  remove(item) {
    const place = this.all.indexOf(item);
    this.all.splice(place, 1);
    this.select(this.all[Math.min(place, this.all.length - 1)] ?? null);
    say(`${this.all.length} regions left`);
    ($("items").children[Math.min(place, this.all.length - 1)]?.querySelector("button") ?? $("stage")).focus();
  }

  render() {
    const focus = document.activeElement?.dataset?.key;
    $("items").replaceChildren(...this.all.map((item) => this.#row(item)));
    $("no-items").hidden = this.all.length > 0;
    if (focus) $("items").querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
    this.draw();
  }

  draw() {
    this.stage.draw(this.all, new Set([this.selected]));
    const one = this.selected;
    this.stage.note(one && this.words(one), one && bounds(one.region, this.photo));
  }

  #row(item) {
    const select = el("button", {
      type: "button", className: "caption", ariaPressed: String(item === this.selected),
      onclick: () => this.select(item),
    }, this.words(item));
    const where = el("span", { className: "quiet" }, describe(item.region, this.photo));
    const label = item.label ? [el("span", { className: "tag" }, item.label)] : [];
    const actions = {
      Edit: () => this.#edit(item),
      Copy: () => this.#copy(item),
      Why: () => this.onwhy(item),
      Delete: () => this.remove(item),
    };
    const buttons = Object.entries(actions).map(([name, act]) => el("button", {
      type: "button", ariaLabel: `${name}: ${this.words(item)}`, onclick: acting(act),
    }, name));
    [select, ...buttons].forEach((button, index) => (button.dataset.key = `${item.number}-${index}`));
    const row = el("li", { value: item.number }, select, where, ...label, el("span", { className: "acts" }, ...buttons));
    row.ariaBusy = String(Boolean(item.waiting));
    return row;
  }

  #edit(item) {
    const row = $("items").children[this.all.indexOf(item)];
    const text = el("textarea", { value: item.text ?? "", rows: 2, ariaLabel: "Caption", maxLength: 2000 });
    const done = (keep) => {
      if (keep && text.value.trim()) Object.assign(item, { text: text.value.trim(), edited: true, error: null });
      this.render();
      row.isConnected || $("items").querySelector(`[data-key="${item.number}-1"]`)?.focus();
    };
    text.onkeydown = (event) => {
      if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) {
        event.preventDefault();
        done(event.key === "Enter");
      }
    };
    const save = el("button", { type: "button", onclick: () => done(true) }, "Save");
    const drop = el("button", { type: "button", onclick: () => done(false) }, "Cancel");
    row.replaceChildren(text, el("span", { className: "acts" }, save, drop));
    text.focus();
  }

  async #copy(item) {
    await navigator.clipboard.writeText(item.text ?? "");
    say("Copied");
  }
}
