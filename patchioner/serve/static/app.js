// The page: where photos come from, the tools, and what the parts tell one another.

import { readBlob, upload } from "./api.js";
import { $, acting, complain, download, say, sureness, words } from "./dom.js";
import { exported, imported } from "./files.js";
import { Items } from "./items.js";
import { Panels } from "./panels.js";
import { Patches } from "./patches.js";
import { Review } from "./review.js";
import { cellAt, cellBox } from "./shapes.js";
import { Stage } from "./stage.js";

let patches = null, latest = 0, aloud = false, over = false;

const stage = new Stage({
  onlook(at, byKeyboard) {
    [over, aloud] = [true, byKeyboard];
    patches?.look(cellAt(at, items.photo));
  },
  onleave() {
    over = false;
    stage.patch(null);
    items.draw();
  },
  onregion: (region) => items.add(region, { joined: $("join").checked }),
  onstroke: (stroke) => items.paint(stroke),
  onsmall: () => say("Too small: hold and drag."),
});
const items = new Items(stage, (item) => panels.why(item));
const panels = new Panels(stage, items);
const review = new Review();

/** Show and encode a photo; of two that are opened the later one stays. */
async function open(blob, name) {
  const turn = ++latest;
  $("busy").hidden = false;
  $("fault").hidden = true;
  say(`Encoding ${name} ...`);
  try {
    const photo = { blob, name, url: URL.createObjectURL(blob), ...(await upload(blob, name)) };
    if (turn === latest) await show(photo);
  } catch (error) {
    if (turn === latest) say("");
    complain(error);
  } finally {
    if (turn === latest) $("busy").hidden = true;
  }
}

async function show(photo) {
  patches = void patches?.stop();
  if (items.photo) URL.revokeObjectURL(items.photo.url);
  panels.reset();
  items.reset(null);
  $("empty").hidden = true;
  $("frame").hidden = false;
  swap(false);
  await stage.show(photo);
  items.reset(photo);
  patches = new Patches(photo, { onready: follow, onfault: complain });
  stage.root.ariaLabel = `Photo ${photo.name}, ${photo.width} by ${photo.height} pixels`;
  say(`${photo.name}: ${photo.width} x ${photo.height} pixels, ${photo.grid.join(" x ")} patches. Move over it.`);
}

/** The caption of the patch that is looked at; null is not there yet. */
function follow(cell, caption) {
  if (!over) return;
  stage.patch(cell);
  stage.note(caption ? [words(caption), sureness(caption)].filter(Boolean).join(" · ") : "...", cellBox(cell, items.photo));
  if (caption && aloud) say(words(caption));
}

function swap(many) {
  $("explore").hidden = many;
  $("review").hidden = !many;
}

/** A picture of the camera, which is shown until the button is pressed. */
async function shoot() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const video = $("video"), dialog = $("camera-dialog"), canvas = document.createElement("canvas");
  video.srcObject = stream;
  await video.play();
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((close) => (dialog.onclose = close));
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  stream.getTracks().forEach((track) => track.stop());
  if (dialog.returnValue === "shoot") canvas.toBlob((blob) => open(blob, "camera.jpg"), "image/jpeg", 0.95);
}

/** One photo is opened, several are reviewed. */
function take(files, many = false) {
  const photos = [...files].filter((file) => file.type.startsWith("image/"));
  if (!photos.length) return complain(new Error("There is no photo in that: give picture files."));
  if (photos.length === 1 && !many) return open(photos[0], photos[0].name);
  return startReview(photos.map((file) => ({ file, name: file.webkitRelativePath || file.name })));
}

function startReview(photos) {
  swap(true);
  return review.start(photos);
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
onfiles("folder", (files) => take(files, true));
onfiles("import", async ([file]) => items.load(imported(JSON.parse(await file.text()), items.photo)));
$("camera").hidden = !navigator.mediaDevices; // browsers have it on this machine and over https alone
$("camera").onclick = acting(shoot);
for (const button of $("samples").children) {
  button.onclick = acting(async () => {
    const { src } = button.firstChild;
    await open(await readBlob(src), src.split("/").pop());
  });
}
addEventListener("paste", ({ clipboardData: { files } }) => files.length && take(files));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
$("fault-close").onclick = () => ($("fault").hidden = true);
for (const button of document.querySelectorAll(".zoom button")) {
  button.onclick = () => stage.zoom(Number(button.value));
}
$("tools").onsubmit = (event) => event.preventDefault();
$("tools").onchange = () => {
  const { tool, brush, erase } = $("tools").elements;
  Object.assign(stage, { tool: tool.value, brush: Number(brush.value), erase: erase.checked });
  stage.root.dataset.tool = tool.value;
  $("brush-options").hidden = tool.value !== "brush";
};
$("new-mask").onclick = () => items.select(null);
$("whole").onclick = acting(() => items.photo && items.add({ whole: true }));
$("clear").onclick = () => items.reset(items.photo);
$("export").onchange = acting(async ({ target }) => {
  const format = target.value;
  target.value = "";
  while (items.all.some((item) => item.waiting)) await new Promise((wake) => setTimeout(wake, 50));
  if (items.photo) download(...(await exported(format, items.photo, items.all, $("photo"))));
});
$("review-close").onclick = () => swap(false);
readBlob("v1/photos").then(async (blob) => {
  const { photos } = JSON.parse(await blob.text());
  $("server-folder").hidden = !photos.length;
  $("server-folder").onclick = acting(() => startReview(photos.map((name) => ({ name }))));
}).catch(complain);
