// From the outputs of a network to what was found in its picture, as infer.py does it. An output is
// { data, dims } with one image: the first of its dims is 1.

import { sample } from './resize.js';

export const TOP = 5; // classes of a classifier that are named
const MASK_THRESHOLD = 0.5;
const clip = (value, low, high) => Math.min(Math.max(value, low), high);

/** Name of a class, or its number if the file has no names. */
export function nameOf(about, label) {
  return about.labels[label] ?? String(label);
}

/** The best classes, [{ label, score }]; of the logits if more are wanted than the file names. */
export function bestClasses(outputs, top = TOP) {
  let scores = Array.from(outputs.scores.data);
  let labels = Array.from(outputs.labels.data, Number);
  if (top > scores.length) {
    const logits = Array.from(outputs.logits.data), highest = Math.max(...logits);
    const powers = logits.map((value) => Math.exp(value - highest));
    const sum = powers.reduce((a, b) => a + b, 0);
    labels = powers.map((_, label) => label).sort((a, b) => powers[b] - powers[a]);
    scores = labels.map((label) => powers[label] / sum);
  }
  return labels.slice(0, top).map((label, rank) => ({ label, score: scores[rank] }));
}

/** All objects, [{ label, score, box, paste }], the best first; `paste()` gives the mask, if there are masks. */
export function allObjects(outputs, placement) {
  const objects = [];
  for (let index = 0; index < outputs.scores.data.length; index++) {
    const whole = [0, 1, 2, 3].map((side) => {
      const axis = side % 2;
      return (outputs.boxes.data[4 * index + side] + placement.offset[axis]) / placement.scale[axis];
    });
    const box = whole.map((value, side) => clip(value, 0, placement.size[side % 2]));
    const score = outputs.scores.data[index];
    const inside = box[2] > box[0] && box[3] > box[1]; // a box may be in the padding
    if (score <= 0 || !inside) continue;
    const object = { label: Number(outputs.labels.data[index]), score, box };
    if (outputs.masks) {
      const [height, width] = outputs.masks.dims.slice(2);
      const mask = outputs.masks.data.slice(index * height * width, (index + 1) * height * width);
      let pasted; // costs time, and only what is shown needs it
      object.paste = () => (pasted ??= paste(mask, width, height, whole, placement.size));
    }
    objects.push(object);
  }
  return objects;
}

/** A mask of 0 to 1 with zeros around it, as mmdet has it. */
function padded(mask, width, height) {
  const wide = new Float32Array((width + 2) * (height + 2));
  for (let y = 0; y < height; y++) {
    wide.set(mask.subarray(y * width, (y + 1) * width), (y + 1) * (width + 2) + 1);
  }
  return wide;
}

/** A mask of 0 to 1 in a box -> the pixels of a picture: { left, top, width, height, data of 0 or 1, area }. */
export function paste(mask, width, height, box, size) {
  const [columns, rows] = [width, height].map((side, axis) => {
    const low = box[axis], high = box[axis + 2];
    const [first, last] = [low, high].map((edge) => clip(Math.ceil(edge - 0.5), 0, size[axis]));
    const places = Float64Array.from({ length: Math.max(last - first, 0) }, (_, index) =>
      ((first + index + 0.5 - low) / Math.max(high - low, 1e-6)) * side + 0.5
    );
    return { first, places };
  });
  const values = sample(padded(mask, width, height), height + 2, width + 2, 1, rows.places, columns.places);
  const data = Uint8Array.from(values, (value) => value >= MASK_THRESHOLD);
  return {
    left: columns.first,
    top: rows.first,
    width: columns.places.length,
    height: rows.places.length,
    data,
    area: data.reduce((a, b) => a + b, 0),
  };
}

/** Classes of the input's pixels -> of the picture's (Int32Array), by the nearest, with their shares. */
export function classMap(output, placement) {
  const stride = output.dims[2];
  const [columns, rows] = placement.size.map((count, axis) =>
    Int32Array.from({ length: count }, (_, index) => {
      const place = Math.trunc((index + 0.5) * placement.scale[axis] - placement.offset[axis]);
      return clip(place, 0, placement.shown[axis] - 1);
    })
  );
  const map = new Int32Array(columns.length * rows.length), counts = new Map();
  let place = 0;
  for (const row of rows) {
    for (const column of columns) {
      const label = Number(output.data[row * stride + column]);
      map[place++] = label;
      counts.set(label, (counts.get(label) ?? 0) + 1);
    }
  }
  const classes = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  return { map, classes: classes.map(([label, count]) => ({ label, share: count / map.length })) };
}

/** What was found in a picture: { classes } or { objects } or { map, classes } or { maps }. */
export function found(about, outputs, placement) {
  if (about.task === 'classification') return { classes: bestClasses(outputs) };
  if (about.task === 'detection') return { objects: allObjects(outputs, placement) };
  if (about.task === 'segmentation') return classMap(outputs.classes, placement);
  return { maps: Object.entries(outputs).map(([name, { dims }]) => [name, dims.slice(1)]) };
}

/** What was found with a score of `threshold` or more, as the results.json of infer.py has it. */
export function summary(about, what, threshold) {
  if (what.maps) return { maps: Object.fromEntries(what.maps) };
  const named = ({ label, ...rest }) => ({ name: nameOf(about, label), label, ...rest });
  if (what.classes) return { classes: what.classes.map(named) };
  const kept = what.objects.filter(({ score }) => score >= threshold);
  return {
    objects: kept.map(({ label, score, box, paste: mask }) => {
      const rounded = box.map((value) => Math.round(value * 1000) / 1000);
      return named({ label, score, box: rounded, ...(mask && { mask_area: mask().area }) });
    }),
  };
}
