// Region files in (ours, COCO, SAM, labelme), captions out (ours, COCO, CSV, a picture, alt text).

import { sureness, words } from "./dom.js";
import { bounds, outline, rings } from "./shapes.js";

const baseName = (path) => String(path).split(/[\\/]/).pop();

/** The regions of a file of any known form, as the server takes them: [{region, label}, ...]. */
export function imported(content, photo) {
  if (!photo) throw new Error("Open the photo of the regions first.");
  if (content.shapes) {
    checkSize(content.imageWidth, content.imageHeight, photo);
    return content.shapes.map((shape) => ({ region: ofLabelme(shape), label: shape.label }));
  }
  if (content.annotations) {
    const names = new Map((content.categories ?? []).map(({ id, name }) => [id, name]));
    const image = content.image ?? ofPhoto(content.images, (one) => one.file_name, photo); // SA-1B has one
    checkSize(image.width, image.height, photo);
    const own = content.annotations.filter((one) => content.image || String(one.image_id) === String(image.id));
    return own.map((one) => ({ region: ofCoco(one), label: names.get(one.category_id) }));
  }
  let list = content.regions ?? content;
  if (content.images) list = ofPhoto(Object.entries(content.images), ([name]) => name, photo)[1];
  if (!Array.isArray(list)) throw new Error("No regions found: give our JSON, COCO, SAM or labelme.");
  const ofAny = (one) => (one.segmentation || one.bbox ? ofCoco(one) : one);
  return list.map((one) => ({ region: ofAny(one), label: one.label }));
}

const ofCoco = ({ segmentation, bbox }) => ({ format: "coco", segmentation, bbox });

function ofPhoto(list, nameOf, photo) {
  const found = list.filter((one) => baseName(nameOf(one)) === baseName(photo.name));
  if (found.length === 1) return found[0];
  if (list.length === 1) return list[0];
  throw new Error(`${found.length} of the file's ${list.length} images are called ${photo.name}.`);
}

function checkSize(width, height, photo) {
  if (!(width > 0 && height > 0) || (width === photo.width && height === photo.height)) return;
  throw new Error(`The file is about a photo of ${width} x ${height} pixels, this has ${photo.width} x ${photo.height}.`);
}

function ofLabelme({ shape_type: kind = "polygon", points }) {
  const [[ax, ay], [bx, by] = []] = points;
  if (kind === "rectangle") return { box: [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)] };
  if (kind === "point") return { point: [ax, ay] };
  if (kind === "polygon") return { polygon: points };
  if (kind === "line" || kind === "linestrip") return { trace: points };
  if (kind !== "circle") throw new Error(`labelme's ${kind} is not read.`);
  const radius = Math.hypot(bx - ax, by - ay);
  const turns = Array.from({ length: 64 }, (_, n) => (n * Math.PI) / 32);
  return { polygon: turns.map((turn) => [ax + radius * Math.cos(turn), ay + radius * Math.sin(turn)]) };
}

/** [file name, content, media type] of the captions in a format. */
export async function exported(format, photo, items, picture) {
  const stem = baseName(photo.name).replace(/\.[^.]*$/, "") || "photo";
  if (format === "png") return [`${stem}-captions.png`, await overlay(photo, items, picture), "image/png"];
  if (format === "txt") return [`${stem}-alt.txt`, altOf(items), "text/plain"];
  if (format === "csv") return [`${stem}-captions.csv`, csv(tableOf(items, photo)), "text/csv"];
  const content = format === "coco" ? toCoco(photo, items) : toOurs(photo, items);
  return [`${stem}-${format}.json`, JSON.stringify(content, null, 1), "application/json"];
}

function altOf(items) {
  const whole = items.find((item) => item.region.whole && item.text);
  if (!whole) throw new Error("Caption the whole photo first: its caption becomes the alt text.");
  return whole.edited ? whole.text : whole.alt;
}

const answer = ({ region, text, score, confidence, reason, error, label }) =>
  ({ region, text, score, confidence, reason: error?.message ?? reason, name: label });

function toOurs({ name, width, height }, items) {
  const regions = items.map(({ region, text }) => (text ? { ...region, label: text } : region));
  return { photo: name, width, height, regions, captions: items.map(answer) };
}

function toCoco({ name, width, height }, items) {
  const annotations = items.map((item, index) => {
    const { region } = item, [x1, y1, x2, y2] = bounds(region, { width, height });
    const bbox = [x1, y1, Math.max(x2 - x1, 1), Math.max(y2 - y1, 1)];
    const segmentation = region.mask ?? (region.polygon ? rings(region).map((ring) => ring.flat()) : []);
    const area = region.mask?.counts.reduce((sum, run, at) => sum + (at % 2) * run, 0) ?? bbox[2] * bbox[3];
    const own = { id: index + 1, image_id: 1, category_id: 1, bbox, area, iscrowd: 0, segmentation };
    return { ...own, caption: item.text, ...answer(item) };
  });
  return { images: [{ id: 1, file_name: name, width, height }], annotations, categories: [{ id: 1, name: "region" }] };
}

function tableOf(items, photo) {
  const head = ["photo", "region", "x1", "y1", "x2", "y2", "caption", "confidence", "score", "label"];
  return [head, ...items.map(({ region, text, confidence, score, label }) => [
    photo.name, JSON.stringify(region), ...bounds(region, photo), text, confidence, score, label,
  ])];
}

/** CSV for spreadsheets too: a text that one would run as a formula is led by an apostrophe. */
export function csv(rows) {
  const field = (value) => {
    const text = typeof value === "string" ? value.replace(/^[=+\-@\t\r]/, "'$&") : String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

/** The photo with the regions drawn and numbered, and their captions below. */
async function overlay(photo, items, picture) {
  const scale = Math.min(1, 4096 / Math.max(photo.width, photo.height));
  const [width, height] = [Math.round(photo.width * scale), Math.round(photo.height * scale)];
  const size = Math.max(12, Math.round(width / 40)), canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d"), font = `${size}px sans-serif`;
  pen.font = font;
  const said = (item, index) => `${index + 1}  ${words(item)} (${item.edited ? "edited" : sureness(item)})`;
  const lines = items.flatMap((item, index) => wrapped(pen, said(item, index), width - size));
  [canvas.width, canvas.height] = [Math.max(width, 160), height + (lines.length + 1) * size * 1.4];
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, 0, 0, width, height);
  items.forEach(({ region }, index) => drawRegion(pen, region, index + 1, photo, scale, size));
  pen.font = font;
  pen.fillStyle = "#000";
  lines.forEach((line, index) => pen.fillText(line, size / 2, height + (index + 1.2) * size * 1.4));
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function drawRegion(pen, region, number, photo, scale, size) {
  const [x, y] = bounds(region, photo).map((edge) => edge * scale), yellow = "#ffd100";
  pen.save();
  pen.scale(scale, scale);
  pen.lineCap = pen.lineJoin = "round";
  for (const { d, style } of outline(region, photo)) {
    const path = new Path2D(d), thick = (style === "dot" ? size / 2 : size / 8) / scale;
    pen.fillStyle = "rgba(255, 209, 0, 0.5)";
    if (style === "fill") pen.fill(path);
    for (const [strokeStyle, lineWidth] of style === "fill" ? [] : [["#000", 2 * thick], [yellow, thick]]) {
      Object.assign(pen, { strokeStyle, lineWidth }).stroke(path);
    }
  }
  pen.restore();
  pen.font = `bold ${size}px sans-serif`;
  Object.assign(pen, { fillStyle: "#000" }).fillRect(x, y, pen.measureText(number).width + size / 2, size * 1.3);
  Object.assign(pen, { fillStyle: yellow }).fillText(number, x + size / 4, y + size);
}

function wrapped(pen, text, width) {
  return text.split(" ").reduce((lines, word) => {
    const longer = [lines.pop(), word].filter(Boolean).join(" ");
    if (pen.measureText(longer).width <= width) return [...lines, longer];
    return [...lines, longer.slice(0, -word.length).trim(), word].filter(Boolean);
  }, []);
}
