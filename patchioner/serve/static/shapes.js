// Shapes on a photo, in pixels of the ORIGINAL, x right, y down: the region JSON of docs/regions.md.

const hundredth = (value) => Math.round(value * 100) / 100;

/** A place on the screen -> [x, y] of the original photo, kept inside it; `rect` is what the photo covers. */
export function toPixels(clientX, clientY, rect, { width, height }) {
  const share = (at, start, length) => Math.min(Math.max((at - start) / length, 0), 1);
  const [x, y] = [share(clientX, rect.left, rect.width) * width, share(clientY, rect.top, rect.height) * height];
  return [hundredth(x), hundredth(y)];
}

/** [x, y] -> [row, column] of the patch under it. */
export function cellAt([x, y], { grid, origin, cell }) {
  const along = (at, start, size, count) => Math.min(Math.max(Math.floor((at - start) / size), 0), count - 1);
  return [along(y, origin[1], cell[1], grid[0]), along(x, origin[0], cell[0], grid[1])];
}

/** XYXY box of a patch, cut at the photo's edges. */
export function cellBox([row, column], { origin, cell, width, height }) {
  const [x, y] = [origin[0] + column * cell[0], origin[1] + row * cell[1]];
  return [Math.max(x, 0), Math.max(y, 0), Math.min(x + cell[0], width), Math.min(y + cell[1], height)];
}

/** A stroke of the pointer as the region that the tool draws; null where it is too small to be meant. */
export function regionOf(tool, points, slack) {
  const [x1, y1, x2, y2] = bounds({ trace: points });
  const far = Math.max(x2 - x1, y2 - y1);
  if (tool === "look") return far > slack ? null : { point: points[0] };
  if (tool === "trace") return far > slack ? { trace: thinned(points, slack / 4) } : null;
  if (Math.min(x2 - x1, y2 - y1) < slack / 2) return null;
  if (tool === "polygon") return { polygon: thinned(points, slack / 4) };
  const [[ax, ay], [bx, by]] = [points[0], points.at(-1)];
  const box = [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
  return box[2] - box[0] < slack / 2 || box[3] - box[1] < slack / 2 ? null : { box };
}

function thinned(points, least) {
  return points.reduce((kept, [x, y]) => {
    const [lastX, lastY] = kept.at(-1);
    return Math.hypot(x - lastX, y - lastY) < least ? kept : (kept.push([x, y]), kept);
  }, [points[0]]);
}

/** Strokes of a round brush ({points, radius, erase}, in order) as a mask; a pixel counts by its middle. */
export function paintedMask(strokes, size) {
  const bits = new Uint8Array(size.width * size.height); // column after column, as run lengths are
  for (const { points, radius, erase } of strokes) {
    for (const [x, y] of dense(points, Math.max(1, Math.sqrt(radius)))) {
      const last = Math.min(size.width - 1, Math.floor(x + radius - 0.5));
      for (let column = Math.max(0, Math.ceil(x - radius - 0.5)); column <= last; column++) {
        const half = Math.sqrt(Math.max(0, radius ** 2 - (column + 0.5 - x) ** 2));
        fillColumn(bits, size, column, y - half, y + half, erase ? 0 : 1);
      }
    }
  }
  return maskOf(bits, size);
}

/** Patches as a mask; null of none. */
export function cellsMask(cells, photo) {
  const bits = new Uint8Array(photo.width * photo.height);
  for (const cell of cells) {
    const [x1, y1, x2, y2] = cellBox(cell, photo);
    for (let column = Math.ceil(x1 - 0.5); column + 0.5 < x2; column++) {
      fillColumn(bits, photo, column, y1, y2, 1);
    }
  }
  return maskOf(bits, photo);
}

function* dense(points, step) {
  yield points[0];
  for (let index = 1; index < points.length; index++) {
    const [[ax, ay], [bx, by]] = [points[index - 1], points[index]];
    const count = Math.ceil(Math.hypot(bx - ax, by - ay) / step);
    for (let n = 1; n <= count; n++) yield [ax + ((bx - ax) * n) / count, ay + ((by - ay) * n) / count];
  }
}

function fillColumn(bits, { height }, column, top, bottom, value) {
  const first = Math.max(0, Math.ceil(top - 0.5)), end = Math.min(height, Math.ceil(bottom - 0.5));
  if (end > first) bits.fill(value, column * height + first, column * height + end);
}

function maskOf(bits, { width, height }) {
  const counts = [];
  let run = 0, value = 0;
  for (const bit of bits) {
    if (bit !== value) {
      counts.push(run);
      [run, value] = [0, bit];
    }
    run++;
  }
  return counts.length ? { mask: { size: [height, width], counts: [...counts, run] } } : null;
}

/** Runs of a mask as [column, first row, end row], a run over several columns cut at each. */
function* runs({ size: [height], counts }) {
  let at = 0;
  for (const [index, count] of counts.entries()) {
    for (let left = index % 2 ? count : 0, from = at; left > 0; ) {
      const row = from % height, length = Math.min(left, height - row);
      yield [(from - row) / height, row, row + length];
      from += length;
      left -= length;
    }
    at += count;
  }
}

/** What to draw of a region: [{d: an SVG path, style: "ring" | "line" | "dot" | "fill"}, ...]. */
export function outline(region, photo) {
  const rectangle = ([x1, y1, x2, y2]) => [{ d: `M${x1} ${y1}H${x2}V${y2}H${x1}Z`, style: "ring" }];
  const path = (points) => `M${points.map((point) => point.join(" ")).join("L")}`;
  if (region.box) return rectangle(region.box);
  if (region.whole) return rectangle([0, 0, photo.width, photo.height]);
  if (region.patch) return rectangle(cellBox(region.patch, photo));
  if (region.point) return [{ d: `M${region.point.join(" ")}h.01`, style: "dot" }];
  if (region.polygon) return rings(region).map((ring) => ({ d: `${path(ring)}Z`, style: "ring" }));
  if (region.trace) return [{ d: path(tracePixels(region, photo)), style: "line" }];
  if (region.set) return region.set.flatMap((member) => outline(member, photo));
  const bars = Array.from(runs(region.mask), ([x, top, end]) => `M${x} ${top}h1V${end}h-1z`);
  return [{ d: bars.join(""), style: "fill" }];
}

/** XYXY around a region. */
export function bounds(region, photo) {
  const points = corners(region, photo);
  const among = (choose, axis) => points.reduce((found, point) => choose(found, point[axis]), points[0][axis]);
  return [among(Math.min, 0), among(Math.min, 1), among(Math.max, 0), among(Math.max, 1)];
}

function corners(region, photo) {
  const ends = ([x1, y1, x2, y2]) => [[x1, y1], [x2, y2]];
  if (region.box) return ends(region.box);
  if (region.whole) return ends([0, 0, photo.width, photo.height]);
  if (region.patch) return ends(cellBox(region.patch, photo));
  if (region.point) return [region.point];
  if (region.polygon) return rings(region).flat();
  if (region.trace) return tracePixels(region, photo);
  if (region.set) return region.set.flatMap((member) => corners(member, photo));
  return Array.from(runs(region.mask), ([x, top, end]) => ends([x, top, x + 1, end])).flat();
}

/** The rings of a polygon, which may be given as one. */
export function rings({ polygon }) {
  return typeof polygon[0][0] === "number" ? [polygon] : polygon;
}

function tracePixels({ trace, normalized }, photo) {
  return normalized ? trace.map(([x, y]) => [x * photo.width, y * photo.height]) : trace;
}

/** A few words: "box at 10, 20, 190 by 200 pixels". */
export function describe(region, photo) {
  const kind = Object.keys(region)[0];
  if (kind === "whole") return "whole photo";
  const [x1, y1, x2, y2] = bounds(region, photo).map(Math.round);
  const size = kind === "point" ? "" : `, ${x2 - x1} by ${y2 - y1} pixels`;
  const what = kind === "set" ? `set of ${region.set.length} regions` : kind;
  return `${what} at ${x1}, ${y1}${size}`;
}
