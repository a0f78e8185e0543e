// The regions of the photo and their captions: state, the list beside the photo, asking for captions.

import { ask } from "./api.js";
import { $, acting, complain, el, say, sureness, words } from "./dom.js";
import { bounds, describe, paintedMask } from "./shapes.js";

const AT_A_TIME = 64; // regions of a file in one request
const FRESH = { text: null, score: null, confidence: null, reason: null, error: null, edited: false, label: null };

export class Items {
  all = [];
  selected = null;
  photo = null;
  #last = 0; // number that was given

  /** `onwhy(item)` explains one. */
  constructor(stage, onwhy) {
    Object.assign(this, { stage, onwhy });
  }

  reset(photo) {
    Object.assign(this, { photo, all: [] });
    this.select(null);
  }

  /** Add a region, or, `joined`, make it a member of the selected one; then caption it. */
  add(region, { joined = false, strokes = null } = {}) {
    const old = joined && this.selected?.region;
    if (old) return this.#change(this.selected, { set: [...(old.set ?? [old]), region] });
    return this.#change(this.#push({}), region, strokes);
  }

  /** A stroke of the brush: of the mask that is selected, or of a new one. */
  paint(stroke) {
    const before = this.selected?.strokes ?? [];
    const strokes = [...before, stroke], region = paintedMask(strokes, this.photo);
    if (!region) return before.length ? this.remove(this.selected) : null;
    return before.length ? this.#change(this.selected, region, strokes) : this.add(region, { strokes });
  }

  #push(item) {
    this.all.push({ number: ++this.#last, ...FRESH, ...item });
    return this.all.at(-1);
  }

  /** Give an item another region and ask for its caption; an answer to an older region is not shown. */
  async #change(item, region, strokes = null) {
    Object.assign(item, FRESH, { region, strokes, waiting: true });
    this.select(item);
    const answer = await ask(this.photo, "captions", { regions: [region], style: $("style").value }).then(
      ({ captions }) => captions[0],
      (error) => (complain(error), { error }),
    );
    if (!this.all.includes(item) || item.region !== region) return;
    Object.assign(item, answer, { region, waiting: false });
    this.render();
    if (item === this.selected) say(this.words(item));
  }

  /** Regions of a file, {region, label}; the server's answer has each in our own form. */
  async load(found) {
    const refused = [], { photo } = this;
    for (let start = 0; start < found.length; start += AT_A_TIME) {
      const part = found.slice(start, start + AT_A_TIME);
      const regions = part.map((one) => one.region);
      const { captions } = await ask(photo, "captions", { regions, style: $("style").value });
      if (photo !== this.photo) return;
      captions.forEach((answer, index) => {
        if (answer.error) refused.push(`Entry ${start + index + 1}: ${answer.error.message}`);
        else this.#push({ ...answer, label: part[index].label });
      });
      this.render();
    }
    say(`${found.length - refused.length} of ${found.length} regions read`);
    if (refused.length) throw new Error(refused.slice(0, 5).join(" "));
  }

  words(item) {
    const sure = item.edited ? "edited" : sureness(item);
    return item.waiting ? "..." : words(item) + (sure && !item.error ? ` (${sure})` : "");
  }

  select(item) {
    this.selected = item;
    this.render();
    $("items").children[this.all.indexOf(item)]?.scrollIntoView({ block: "nearest" });
  }

  remove(item) {
    const place = Math.min(this.all.indexOf(item), this.all.length - 2);
    this.all = this.all.filter((one) => one !== item);
    this.select(this.all[place] ?? null);
    say(`${this.all.length} regions left`);
    ($("items").children[place]?.querySelector("button") ?? $("stage")).focus();
  }

  render() {
    const focus = document.activeElement?.dataset?.key;
    $("items").replaceChildren(...this.all.map((item) => this.#row(item)));
    $("no-items").hidden = this.all.length > 0;
    this.#focus(focus);
    this.draw();
  }

  #focus(key) {
    if (key) $("items").querySelector(`[data-key="${key}"]`)?.focus();
  }

  draw() {
    const one = this.selected;
    this.stage.draw(this.all, new Set([one]));
    this.stage.note(one && this.words(one), one && bounds(one.region, this.photo));
  }

  #row(item) {
    const said = this.words(item), acts = {
      Edit: () => this.#edit(item),
      Copy: () => navigator.clipboard.writeText(item.text ?? "").then(() => say("Copied")),
      Why: () => this.onwhy(item),
      Delete: () => this.remove(item),
    };
    const pressed = String(item === this.selected);
    const button = (props, ...inner) => el("button", { type: "button", ...props }, ...inner);
    const buttons = [
      button({ className: "caption", ariaPressed: pressed, onclick: () => this.select(item) }, said),
      ...Object.entries(acts).map(([name, act]) => button({ ariaLabel: `${name}: ${said}`, onclick: acting(act) }, name)),
    ];
    buttons.forEach((one, index) => (one.dataset.key = `${item.number}-${index}`));
    const where = el("span", { className: "quiet" }, describe(item.region, this.photo));
    const label = item.label ? [el("span", { className: "tag" }, item.label)] : [];
    const row = el("span", { className: "acts" }, ...buttons.slice(1));
    return el("li", { value: item.number }, buttons[0], where, ...label, row);
  }

  #edit(item) {
    const text = el("textarea", { value: item.text ?? "", rows: 2, ariaLabel: "Caption", maxLength: 2000 });
    const done = (keep) => {
      if (keep && text.value.trim()) Object.assign(item, { text: text.value.trim(), edited: true, error: null });
      this.render();
      this.#focus(`${item.number}-1`);
    };
    text.onkeydown = (event) => {
      if (event.key !== "Escape" && (event.key !== "Enter" || event.shiftKey)) return;
      event.preventDefault();
      done(event.key === "Enter");
    };
    const button = (name, keep) => el("button", { type: "button", onclick: () => done(keep) }, name);
    const row = el("span", { className: "acts" }, button("Save", true), button("Cancel", false));
    $("items").children[this.all.indexOf(item)].replaceChildren(text, row);
    text.focus();
  }
}
