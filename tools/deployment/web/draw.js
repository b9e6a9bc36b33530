// The picture on its canvas, with what was found in it.

import { placeNames } from './names.js';
import { nameOf } from './results.js';

const ENLARGED_SIDE = 640; // CSS px, to which smaller pictures are enlarged
const HEIGHT_SHARE = 0.72; // of the window, at most
const FONT = '600 13px system-ui, sans-serif';
const LABEL_HEIGHT = 18;
const TINT = 128; // opacity of masks, of 255
const BACKGROUND = 'background'; // this class keeps the picture's own colours

/** The colour of a class, [R, G, B]: steps of the golden section round the circle of hues. */
export function colorOf(label) {
  const hue = ((label * 0.618) % 1) * 6, saturation = 0.85, value = 1 - (label % 2) * 0.2;
  return [5, 3, 1].map((turn) => {
    const part = (turn + hue) % 6;
    return Math.round(255 * value * (1 - saturation * Math.max(0, Math.min(part, 4 - part, 1))));
  });
}

/** The colour of a class, or null for the background of a segmentor, which is not tinted. */
export function tintOf(about, label) {
  return about.task === 'segmentation' && nameOf(about, label) === BACKGROUND ? null : colorOf(label);
}

export const css = (color) => `rgb(${color.join(' ')})`;

/** Black or white, whatever can be read on a colour. */
function inkOn([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 110 ? '#000' : '#fff';
}

/** A canvas of `width` by `height` px, whose pixel i has the colour and opacity `colorAt(i)`, or none. */
function layer(width, height, colorAt) {
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const color = colorAt(i);
    if (color) data.data.set([...color, TINT], 4 * i);
  }
  const canvas = document.createElement('canvas');
  Object.assign(canvas, { width, height });
  canvas.getContext('2d').putImageData(data, 0, 0);
  return canvas;
}

function drawMask(context, { label, paste }, scale) {
  const { left, top, width, height, data } = paste();
  if (!width || !height) return;
  const color = colorOf(label);
  const mask = layer(width, height, (i) => data[i] && color);
  context.drawImage(mask, left * scale, top * scale, width * scale, height * scale);
}

function drawBoxes(context, about, objects, scale, frame) {
  const boxes = objects.map(({ box }) => box.map((side) => side * scale));
  const colors = objects.map(({ label }) => colorOf(label));
  const texts = objects.map(({ label, score }) => `${nameOf(about, label)} ${score.toFixed(2)}`);
  const sizes = texts.map((text) => [context.measureText(text).width + 10, LABEL_HEIGHT]);
  boxes.forEach(([left, top, right, bottom], index) => {
    context.strokeStyle = css(colors[index]);
    context.strokeRect(left, top, right - left, bottom - top);
  });
  placeNames(boxes, sizes, frame).forEach(([x, y], index) => {
    context.beginPath();
    context.roundRect(x, y, ...sizes[index], 3);
    context.fillStyle = css(colors[index]);
    context.fill();
    context.fillStyle = inkOn(colors[index]);
    context.fillText(texts[index], x + 5, y + LABEL_HEIGHT / 2 + 0.5);
  });
}

function drawClasses(context, about, { map, classes }, size, width, height) {
  const colors = new Map(classes.map(({ label }) => [label, tintOf(about, label)]));
  context.imageSmoothingEnabled = false;
  context.drawImage(layer(...size, (i) => colors.get(map[i])), 0, 0, width, height);
}

/** How large a picture is shown in `room` CSS px: its scale. */
function scaleFor({ width, height }, room) {
  const enlarged = Math.max(1, ENLARGED_SIDE / Math.max(width, height));
  return Math.min(room / width, (HEIGHT_SHARE * window.innerHeight) / height, enlarged);
}

/** Draw a picture, and what was found in it (or null), on a canvas that is at most `room` CSS px wide. */
export function draw(canvas, room, picture, about, what, threshold) {
  const { width: columns, height: rows } = picture.pixels;
  const scale = scaleFor(picture.pixels, room), density = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(columns * scale)), height = Math.max(1, Math.round(rows * scale));
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  canvas.style.width = `${width}px`;
  const context = canvas.getContext('2d');
  context.scale(density, density);
  context.imageSmoothingQuality = 'high';
  context.drawImage(picture.image, 0, 0, width, height);
  if (what?.map) drawClasses(context, about, what, [columns, rows], width, height);
  if (!what?.objects) return;
  Object.assign(context, { font: FONT, textBaseline: 'middle', lineWidth: 2, lineJoin: 'round' });
  const kept = what.objects.filter(({ score }) => score >= threshold);
  for (const object of [...kept].reverse()) if (object.paste) drawMask(context, object, scale); // the best on top
  drawBoxes(context, about, kept, scale, [width, height]);
}
