// The photo, what is drawn over it, and the pointer (or the keyboard's cursor) turned into strokes in pixels.

import { $ } from "./dom.js";
import { cellBox, outline, regionOf, toPixels } from "./shapes.js";

const CLICK = 6; // CSS pixels that a pointer may move in a click
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ZOOMS = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 };

function svg(tag, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

export class Stage {
  tool = "look";
  brush = 24; // CSS pixels across
  erase = false;
  #photo = null;
  #zoom = 1;
  #points = null; // of the stroke under way
  #cursor = null; // where the keyboard is
  #noted = null; // [text, box] of the bubble

  /** `onlook(pixel, byKeyboard)`, `onleave()`, `onregion(region)`, `onstroke(stroke)` of the brush, `onsmall()`. */
  constructor(handlers) {
    Object.assign(this, handlers);
    this.root = $("stage");
    this.frame = $("frame");
    for (const name of ["down", "move", "up", "cancel", "leave"]) {
      this.frame.addEventListener(`pointer${name}`, (event) => this[`_${name}`](event));
    }
    this.root.addEventListener("keydown", (event) => this.#key(event));
    this.root.addEventListener("wheel", (event) => event.ctrlKey && this.#wheel(event), { passive: false });
    this.root.addEventListener("scroll", () => this.#place());
    new ResizeObserver(() => this.#fit()).observe(this.root);
  }

  /** Show a photo: {url, name, width, height, ...}; the size is the server's. */
  async show(photo) {
    this.#photo = this.#points = this.#cursor = null;
    const picture = Object.assign($("photo"), { src: photo.url });
    await picture.decode().catch(() => {
      throw new Error(`${photo.name}: this browser cannot show it. Save it as JPEG or PNG.`);
    });
    const { naturalWidth: across, naturalHeight: down } = picture, { width, height } = photo;
    if (across !== width || down !== height) {
      const sizes = `this browser shows ${across} x ${down} pixels, the server reads ${width} x ${height}`;
      throw new Error(`${photo.name}: ${sizes}. Save it as JPEG, so that regions land where they are drawn.`);
    }
    this.#photo = photo;
    this.root.style.aspectRatio = width / height;
    $("marks").setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.zoom(0);
  }

  /** 0 fits the photo in; else a factor on the zoom, keeping the place (a client point) where it is. */
  zoom(factor, at = null) {
    if (!this.#photo) return;
    const box = this.root.getBoundingClientRect();
    const [x, y] = at ?? [box.left + box.width / 2, box.top + box.height / 2];
    const [px, py] = toPixels(x, y, this.frame.getBoundingClientRect(), this.#photo);
    this.#zoom = factor ? Math.min(Math.max(this.#zoom * factor, 1), 32) : 1;
    this.#fit();
    const rect = this.frame.getBoundingClientRect();
    this.root.scrollLeft += rect.left + (px / this.#photo.width) * rect.width - x;
    this.root.scrollTop += rect.top + (py / this.#photo.height) * rect.height - y;
  }

  #fit() {
    if (!this.#photo) return;
    const { width, height } = this.#photo;
    const least = Math.min(this.root.clientWidth / width, this.root.clientHeight / height);
    this.frame.style.width = `${Math.max(1, width * least * this.#zoom)}px`;
    this.frame.style.height = `${Math.max(1, height * least * this.#zoom)}px`;
    this.#place();
  }

  /** CSS pixels -> pixels of the photo. */
  #pixels(css) {
    return (css * this.#photo.width) / this.frame.getBoundingClientRect().width;
  }

  #at({ clientX, clientY }) {
    return toPixels(clientX, clientY, this.frame.getBoundingClientRect(), this.#photo);
  }

  _down(event) {
    if (!this.#photo || event.button !== 0 || !event.isPrimary) return;
    this.frame.setPointerCapture(event.pointerId);
    this.#start(this.#at(event));
  }

  _move(event) {
    if (!this.#photo || !event.isPrimary) return;
    const at = this.#at(event);
    if (this.#points) {
      this.#points.push(...(event.getCoalescedEvents?.() ?? []).map((one) => this.#at(one)), at);
      this.#draft();
    }
    if (this.tool === "look") this.onlook(at, false);
  }

  _up(event) {
    if (!this.#points || !event.isPrimary) return;
    this.#points.push(this.#at(event));
    this.#finish();
  }

  _cancel() {
    this.#points = null;
    this.#draft();
  }

  _leave() {
    if (!this.#points) this.onleave();
  }

  #start(at) {
    this.#points = [at];
    if (this.tool === "look") this.onlook(at, false);
    this.#draft();
  }

  #finish() {
    const points = this.#points, radius = this.#pixels(this.brush) / 2;
    this._cancel();
    if (this.tool === "brush") return this.onstroke({ points, radius, erase: this.erase });
    const region = regionOf(this.tool, points, this.#pixels(CLICK));
    if (region) this.onregion(region);
    else if (this.tool !== "look") this.onsmall();
  }

  #key(event) {
    if (!this.#photo || event.target !== this.root || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = ARROWS[event.key], zoom = ZOOMS[event.key];
    if (step) this.#walk(step, event.shiftKey ? 1 / 8 : 1);
    else if (zoom != null) this.zoom(zoom);
    else if (event.key === "Enter" || event.key === " ") this.#press();
    else if (event.key === "Escape") this._cancel();
    else return;
    event.preventDefault();
  }

  #walk([x, y], share) {
    const { cell, width, height } = this.#photo;
    const [cx, cy] = this.#cursor ?? [width / 2, height / 2];
    const along = (at, move, end) => Math.min(Math.max(Math.round((at + move * share) * 100) / 100, 0), end);
    this.#cursor = [along(cx, x * cell[0], width), along(cy, y * cell[1], height)];
    this.#points?.push(this.#cursor);
    this.#draft();
    this.onlook(this.#cursor, true);
  }

  #press() {
    this.#cursor ??= [this.#photo.width / 2, this.#photo.height / 2];
    if (!this.#points) this.#start(this.#cursor);
    else if (this.tool !== "look") this.#points.push(this.#cursor);
    if (this.tool === "look" || this.#points.length > 1) this.#finish();
  }

  #wheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 200), [event.clientX, event.clientY]);
  }

  #draft() {
    const group = $("draft"), points = this.#points;
    group.replaceChildren();
    if (points && this.tool === "brush") {
      const { d } = outline({ trace: points }, this.#photo)[0];
      const look = { class: this.erase ? "erased" : "painted", "stroke-width": this.#pixels(this.brush) };
      svg("path", { d: `${d}h.01`, ...look }, group);
    } else if (points && this.tool !== "look") {
      const region = regionOf(this.tool, points, 0);
      if (region) this.#outline(region, group);
    }
    if (this.#cursor) this.#outline({ point: this.#cursor }, group);
  }

  #outline(region, parent) {
    for (const { d, style } of outline(region, this.#photo)) {
      if (style !== "fill") svg("path", { d, class: `casing ${style}` }, parent);
      svg("path", { d, class: `edge ${style}` }, parent);
    }
  }

  /** Draw the items' regions, the lit ones (a Set) brighter. */
  draw(items, lit = new Set()) {
    const group = $("regions");
    group.replaceChildren();
    if (!this.#photo) return;
    for (const item of [...items].sort((one, two) => lit.has(one) - lit.has(two))) {
      this.#outline(item.region, svg("g", { class: lit.has(item) ? "lit" : "" }, group));
    }
  }

  /** Outline the patch that is looked at; null none. */
  patch(cell) {
    const group = $("hovered");
    group.replaceChildren();
    if (cell) this.#outline({ box: cellBox(cell, this.#photo) }, group);
  }

  /** Lay a value per patch over the photo; `colour(value)` gives [red, green, blue, alpha]. Null takes it away. */
  heat(grid, colour) {
    const group = $("heat");
    group.replaceChildren();
    if (!grid) return;
    const canvas = document.createElement("canvas");
    [canvas.height, canvas.width] = [grid.length, grid[0].length];
    const pixels = new Uint8ClampedArray(grid.flat().flatMap(colour));
    canvas.getContext("2d").putImageData(new ImageData(pixels, canvas.width), 0, 0);
    const { origin: [x, y], cell } = this.#photo;
    const place = { x, y, width: cell[0] * canvas.width, height: cell[1] * canvas.height };
    svg("image", { ...place, href: canvas.toDataURL(), preserveAspectRatio: "none" }, group);
  }

  /** A text beside a box (XYXY pixels of the photo), as far as possible on what is shown; null hides it. */
  note(text, box) {
    this.#noted = text == null ? null : [text, box];
    this.#place();
  }

  #place() {
    const bubble = $("bubble");
    bubble.hidden = !this.#noted;
    if (!this.#noted) return;
    const [text, [x1, y1, x2, y2]] = this.#noted;
    if (bubble.textContent !== text) bubble.textContent = text;
    const rect = this.frame.getBoundingClientRect(), view = this.root.parentElement.getBoundingClientRect();
    const across = (x) => rect.left - view.left + (x / this.#photo.width) * rect.width;
    const down = (y) => rect.top - view.top + (y / this.#photo.height) * rect.height;
    const { offsetWidth: wide, offsetHeight: high } = bubble;
    const beside = across(x2) + 8 + wide <= view.width, below = down(y2) + 8 + high <= view.height;
    const left = beside ? across(x2) + 8 : across(x1);
    const top = beside ? down(y1) : below ? down(y2) + 8 : down(y1) - high - 8;
    const within = (at, most) => Math.max(4, Math.min(at, most));
    bubble.style.left = `${within(left, view.width - wide - 4)}px`;
    bubble.style.top = `${within(top, view.height - high - 4)}px`;
  }
}

