// From a picture to the input of a network: the steps of the config's test pipeline, as infer.py does them.
// A placement says where the picture is in the input, x * scale - offset, and how much of it is shown; each is
// a pair for x and y, in px. What is to the right and below is padding.

import { UserError } from './errors.js';
import { resize } from './resize.js';

/** The nearest whole number, of two the even one, as Python and NumPy round. */
export function roundEven(value) {
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low % 2) : Math.round(value);
}

/** `value` as a pair, if it is not one. */
const pair = (value) => (Array.isArray(value) ? value : [value, value]);

/** What says that a step is not known. */
function unknown(step) {
  return new UserError(
    `The step ${JSON.stringify(step)} is not supported; it must be Resize or ResizeEdge with scale, Pad of a ` +
    'constant, or CenterCrop without auto_pad. Export the network with such a test pipeline.'
  );
}

/** Width and height after the step Pad. */
export function padSize(width, height, step) {
  const { size, size_divisor: divisor, pad_to_square: square, padding_mode: mode = 'constant' } = step;
  if (mode !== 'constant' || !(size?.length === 2 || divisor || square)) throw unknown(step);
  const sides = square ? [Math.max(width, height), Math.max(width, height)] : [width, height];
  if (divisor) return sides.map((side) => Math.ceil(side / divisor) * divisor);
  return size ? sides.map((side, axis) => Math.max(side, size[axis])) : sides;
}

/** The step Pad on pixels: a constant at the right and below. */
function pad(pixels, step) {
  const [width, height] = padSize(pixels.width, pixels.height, step);
  const given = step.pad_val?.img ?? (typeof step.pad_val === 'number' ? step.pad_val : 0);
  const values = Array.isArray(given) ? [...given].reverse() : [given, given, given]; // of BGR in the config
  const data = new Uint8Array(width * height * 3).map((_, place) => roundEven(values[place % 3]));
  for (let y = 0; y < pixels.height; y++) {
    data.set(pixels.data.subarray(y * pixels.width * 3, (y + 1) * pixels.width * 3), y * width * 3);
  }
  return { data, width, height };
}

/** Width and height after the step Resize or ResizeEdge. */
export function resizedSize(width, height, step) {
  if (!['Resize', 'ResizeEdge'].includes(step.type) || step.scale == null) throw unknown(step);
  if (step.type === 'ResizeEdge') {
    const { scale, edge = 'short' } = step;
    const setsWidth = edge === 'width' || (edge === 'short' && width < height) || (edge === 'long' && width > height);
    if (setsWidth) return [scale, Math.max(Math.trunc((scale * height) / width), 1)];
    return [Math.max(Math.trunc((scale * width) / height), 1), scale];
  }
  const scale = pair(step.scale);
  if (!step.keep_ratio) return scale;
  const factor = Math.min(
    Math.max(...scale) / Math.max(width, height),
    Math.min(...scale) / Math.min(width, height)
  );
  return [width, height].map((side) => Math.max(Math.trunc(side * factor + 0.5), 1));
}

function crop(pixels, [width, height]) {
  const [left, top] = [pixels.width - width, pixels.height - height].map((rest) => Math.max(0, roundEven(rest / 2)));
  const size = [Math.min(width, pixels.width), Math.min(height, pixels.height)];
  const data = new Uint8Array(size[0] * size[1] * 3);
  for (let y = 0; y < size[1]; y++) {
    const start = ((top + y) * pixels.width + left) * 3;
    data.set(pixels.data.subarray(start, start + size[0] * 3), y * size[0] * 3);
  }
  return { pixels: { data, width: size[0], height: size[1] }, start: [left, top] };
}

/** One step of a test pipeline on pixels and their placement. */
function applyStep({ pixels, placement }, step) {
  if (step.type === 'CenterCrop' && !step.auto_pad) {
    const cropped = crop(pixels, pair(step.crop_size));
    const offset = placement.offset.map((value, axis) => value + cropped.start[axis]);
    const shown = [cropped.pixels.width, cropped.pixels.height];
    return { pixels: cropped.pixels, placement: { ...placement, offset, shown } };
  }
  if (step.type === 'Pad') return { pixels: pad(pixels, step), placement };
  const size = resizedSize(pixels.width, pixels.height, step);
  const factors = [size[0] / pixels.width, size[1] / pixels.height];
  const [scale, offset] = [placement.scale, placement.offset].map((values) =>
    values.map((value, axis) => value * factors[axis])
  );
  const resized = resize(pixels, ...size, step.backend, step.interpolation);
  return { pixels: resized, placement: { ...placement, scale, offset, shown: size } };
}

/** Width and height of the network's input for an image of `width` by `height` px. */
export function paddedSize(about, name, width, height) {
  if (!about.size) {
    const divisor = Math.max(about.pad_divisor, 1), [leastHeight, leastWidth] = about.pad_size ?? [0, 0];
    const sides = [Math.max(width, leastWidth), Math.max(height, leastHeight)];
    return sides.map((side) => Math.ceil(side / divisor) * divisor);
  }
  const [fullHeight, fullWidth] = about.size;
  // A classifier pools over the padding, too, so it takes pictures of its own size alone.
  const isSmaller = about.task === 'classification' && (height < fullHeight || width < fullWidth);
  if (height > fullHeight || width > fullWidth || isSmaller) {
    throw new UserError(
      `${name} takes images of ${fullHeight} x ${fullWidth} px (height x width), but the picture is ${height} x ` +
      `${width} px after the test pipeline's resizing. Export the network with --dynamic or --size ${height} ` +
      `${width}, or give it another picture.`
    );
  }
  return [fullWidth, fullHeight];
}

/** Which channels of RGB the network takes, in its order: all three, or the first of gray pixels. */
function sourcesOf(about) {
  if (about.channels === 'gray') return [0];
  return about.channels === 'BGR' ? [2, 1, 0] : [0, 1, 2];
}

/** float32 (1, C, H, W), normalised; what is padding has one value. */
function normalised(about, pixels, width, height) {
  const sources = sourcesOf(about);
  const input = new Float32Array(sources.length * width * height).fill(about.pad_value ?? 0);
  const { fround } = Math;
  for (const [channel, source] of sources.entries()) {
    const mean = fround(about.mean[channel]), std = fround(about.std[channel]);
    const values = Float32Array.from({ length: 256 }, (_, value) => fround(value - mean) / std);
    for (let y = 0; y < pixels.height; y++) {
      let target = (channel * height + y) * width;
      for (let x = 0, place = y * pixels.width * 3 + source; x < pixels.width; x++, place += 3) {
        input[target++] = values[pixels.data[place]];
      }
    }
  }
  return { type: 'float32', data: input, dims: [1, sources.length, height, width] };
}

/** uint8 (1, H, W, C), RGB or gray, for networks that normalise; the mean, nearest to zero, is the padding. */
function asRead(about, pixels, width, height) {
  const count = sourcesOf(about).length, padding = about.pad_value ?? 0;
  const means = about.mean.map((mean, channel) => roundEven(mean + padding * about.std[channel]));
  if (about.channels === 'BGR') means.reverse();
  const input = new Uint8Array(width * height * count).map((_, place) => Math.min(Math.max(means[place % count], 0), 255));
  for (let y = 0; y < pixels.height; y++) {
    for (let x = 0; x < pixels.width; x++) {
      for (let channel = 0; channel < count; channel++) {
        input[(y * width + x) * count + channel] = pixels.data[(y * pixels.width + x) * 3 + channel];
      }
    }
  }
  return { type: 'uint8', data: input, dims: [1, height, width, count] };
}

/** The network's input (type, data, dims) for `pixels`, a whole picture, and its placement. */
export function prepare(about, name, pixels) {
  const size = [pixels.width, pixels.height];
  if (!['RGB', 'BGR', 'gray'].includes(about.channels)) {
    throw new UserError(`${name} takes images of ${about.channels}, which this page cannot read.`);
  }
  const start = { pixels, placement: { size, scale: [1, 1], offset: [0, 0], shown: size } };
  if (about.task === 'segmentation' && about.resize.some((step) => step.type === 'Pad')) {
    throw new UserError(
      'Pad in the test pipeline of a segmentor is not supported, as mmseg stretches what is padded over the ' +
      'picture; set size_divisor in data_preprocessor.test_cfg instead.'
    );
  }
  const done = about.resize.reduce(applyStep, start);
  const padded = paddedSize(about, name, done.pixels.width, done.pixels.height);
  const make = about.preprocessed ? asRead : normalised;
  return { input: make(about, done.pixels, ...padded), placement: done.placement };
}
