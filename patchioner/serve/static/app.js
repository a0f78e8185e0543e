// The page: where photos come from, the tools, and what the parts tell one another.

import { keepToken, read, upload } from "./api.js";
import { $, acting, complain, download, say, sureness } from "./dom.js";
import { exported, imported } from "./files.js";
import { Items } from "./items.js";
import { Panels } from "./panels.js";
import { Patches } from "./patches.js";
import { Review } from "./review.js";
import { cellAt, cellBox } from "./shapes.js";
import { Stage } from "./stage.js";

let patches = null, latest = 0, quietly = true;

const stage = new Stage({
  onlook(at, byKeyboard) {
    quietly = !byKeyboard;
    patches?.look(cellAt(at, items.photo));
  },
  onleave() {
    stage.patch(null);
    items.draw();
  },
  onregion: (region) => items.add(region, { joined: $("join").checked }),
  onstroke: (stroke) => items.paint(stroke),
  onsmall: () => say("Too small: hold and drag."),
});
const items = new Items(stage, options, (item) => panels.why(item));
const panels = new Panels(stage, items);
const review = new Review();

function options() {
  return $("style").value ? { style: $("style").value } : {};
}

/** Show and encode a photo; of two that are opened the later one stays. */
async function open(blob, name) {
  const turn = ++latest;
  $("busy").hidden = false;
  $("fault").hidden = true;
  say(`Encoding ${name} ...`);
  try {
    const photo = { blob, name, url: URL.createObjectURL(blob), ...(await upload(blob, name)) };
    if (turn !== latest) return;
    photo.origin ??= [0, 0];
    photo.cell ??= [photo.width / photo.grid[1], photo.height / photo.grid[0]];
    await show(photo);
  } catch (error) {
    if (turn === latest) say("");
    if (error.status === 401) askToken();
    complain(error);
  } finally {
    if (turn === latest) $("busy").hidden = true;
  }
}

async function show(photo) {
  patches?.stop();
  patches = null;
  if (items.photo) URL.revokeObjectURL(items.photo.url);
  panels.reset();
  items.reset(null);
  $("empty").hidden = true;
  $("frame").hidden = false;
  swap(false);
  await stage.show(photo);
  items.reset(photo);
  watch();
  stage.root.dataset.grid = photo.grid.join("x");
  stage.root.ariaLabel = `Photo ${photo.name}, ${photo.width} by ${photo.height} pixels`;
  say(`${photo.name}: ${photo.width} x ${photo.height} pixels, ${photo.grid[0]} x ${photo.grid[1]} patches. Move over it.`);
}

/** Captions of patches from now on. */
function watch() {
  patches?.stop();
  patches = new Patches(items.photo, options(), {
    onready(cell, caption) {
      const words = caption.error?.message ?? caption.text ?? `no caption: ${caption.reason ?? "not sure"}`;
      stage.patch(cell);
      stage.note([words, sureness(caption)].filter(Boolean).join(" · "), cellBox(cell, items.photo));
      if (!quietly) say(words);
    },
    onprogress: (known, all) => (stage.root.dataset.ready = `${known}/${all}`),
    onfault: complain,
  });
}

function askToken() {
  $("token-dialog").onclose = () => $("token").value && keepToken($("token").value);
  $("token-dialog").showModal();
}

/** Between one photo and the review of many. */
function swap(many) {
  $("explore").hidden = many;
  $("review").hidden = !many;
}

async function shoot() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const video = $("video"), dialog = $("camera-dialog");
  video.srcObject = stream;
  await video.play();
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((close) => (dialog.onclose = close));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  stream.getTracks().forEach((track) => track.stop());
  if (dialog.returnValue !== "shoot") return;
  canvas.toBlob((blob) => open(blob, "camera.jpg"), "image/jpeg", 0.95);
}

function take(files) {
  const photos = [...files].filter((file) => file.type.startsWith("image/"));
  if (photos.length > 1) return startReview(photos);
  if (photos.length) return open(photos[0], photos[0].name);
  complain(new Error("That is no photo: give a picture file."));
}

function startReview(files) {
  swap(true);
  return review.start(files);
}

/** A file input hands over its files, and can be given the same ones again. */
function onfiles(id, handler) {
  $(id).onchange = acting(async ({ target }) => {
    const files = [...target.files];
    target.value = "";
    if (files.length) await handler(files);
  });
}

onfiles("file", take);
onfiles("folder", (files) => startReview(files.filter((file) => file.type.startsWith("image/"))));
onfiles("import", async ([file]) => items.load(imported(JSON.parse(await file.text()), items.photo)));
$("camera").onclick = acting(shoot);
for (const button of document.querySelectorAll("[data-sample]")) {
  button.onclick = acting(async () => {
    const { sample } = button.dataset;
    await open(await (await fetch(`static/samples/${sample}`)).blob(), sample);
  });
}
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
$("fault-close").onclick = () => ($("fault").hidden = true);
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.onclick = () => stage.zoom(Number(button.dataset.zoom));
}
$("tools").onsubmit = (event) => event.preventDefault();
$("tools").onchange = () => {
  stage.tool = $("tools").elements.tool.value;
  stage.brush = Number($("brush").value);
  stage.erase = $("erase").checked;
  stage.root.dataset.tool = stage.tool;
  $("brush-options").hidden = stage.tool !== "brush";
};
$("new-mask").onclick = () => items.select(null);
$("whole").onclick = acting(() => items.photo && items.add({ whole: true }));
$("clear").onclick = () => items.reset(items.photo);
$("style").onchange = () => items.photo && watch();
$("export").onchange = acting(async ({ target }) => {
  const format = target.value;
  target.value = "";
  if (items.photo && format) download(...(await exported(format, items.photo, items.all, $("photo"))));
});
$("review-close").onclick = () => swap(false);
