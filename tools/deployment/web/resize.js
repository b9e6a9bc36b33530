// Resizing as the networks were trained with, to the last bit or nearly: a canvas has filters of its own.
// Pixels are { data: Uint8Array, width, height }, RGB, row by row.

import { UserError } from './errors.js';

const FRACTION_BITS = 22; // of the weights of Pillow, which adds up whole numbers
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/** Filters of Pillow: how far each reaches, and its weight at a distance; both in pixels. */
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(1 - Math.abs(x), 0)],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
  bicubic: [2, cubic],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/** Cubic convolution with a = -0.5. */
function cubic(x) {
  const d = Math.abs(x);
  if (d < 1) return 1.5 * d ** 3 - 2.5 * d ** 2 + 1;
  return d < 2 ? -0.5 * d ** 3 + 2.5 * d ** 2 - 4 * d + 2 : 0;
}

/** `pixels` at another size, as OpenCV or Pillow makes it (they differ in shrinking). */
export function resize(pixels, width, height, backend = 'cv2', interpolation = 'bilinear') {
  const filter = interpolation.toLowerCase();
  if (backend === 'pillow' && filter === 'nearest') return resizeNearest(pixels, width, height);
  if (backend === 'pillow' && filter in FILTERS) return resizeFiltered(pixels, width, height, FILTERS[filter]);
  if (backend === 'cv2' && interpolation === 'bilinear') return resizeBilinear(pixels, width, height);
  throw new UserError(
    `Resizing with backend ${backend} and interpolation ${interpolation} is not supported; it must be cv2 ` +
    `with bilinear, or pillow with nearest, ${Object.keys(FILTERS).join(', ')}.`
  );
}

/** As OpenCV: between the four nearest pixels, however much is shrunk. */
function resizeBilinear(pixels, width, height) {
  const [rows, columns] = [[height, pixels.height], [width, pixels.width]].map(([count, old]) =>
    Float64Array.from({ length: count }, (_, index) => (index + 0.5) * (old / count) - 0.5)
  );
  const values = sample(pixels.data, pixels.height, pixels.width, 3, rows, columns);
  return { data: Uint8Array.from(values, (value) => Math.fround(value + 0.5)), width, height };
}

/** The two neighbours of each place on an axis, and the share of the higher one. */
function neighbours(places, side) {
  const low = new Int32Array(places.length), high = new Int32Array(places.length);
  const share = new Float32Array(places.length);
  places.forEach((place, index) => {
    const clipped = Math.min(Math.max(place, 0), side - 1);
    low[index] = Math.floor(clipped);
    high[index] = Math.min(low[index] + 1, side - 1);
    share[index] = clipped - low[index];
  });
  return { low, high, share };
}

/**
 * Bilinear values (Float32Array) of `values` at places between its pixels. Pixel 0 is at 0; beyond the
 * outermost pixels, these go on. All steps are rounded to float32, as NumPy does.
 */
export function sample(values, height, width, channels, rows, columns) {
  const { fround } = Math;
  const vertical = neighbours(rows, height), horizontal = neighbours(columns, width);
  const line = new Float32Array(width * channels); // one row of the result, still of the old width
  const result = new Float32Array(rows.length * columns.length * channels);
  let place = 0;
  for (let row = 0; row < rows.length; row++) {
    const above = vertical.low[row] * line.length, below = vertical.high[row] * line.length;
    const lower = vertical.share[row], upper = fround(1 - lower);
    for (let i = 0; i < line.length; i++) {
      line[i] = fround(values[above + i] * upper) + fround(values[below + i] * lower);
    }
    for (let column = 0; column < columns.length; column++) {
      const left = horizontal.low[column] * channels, right = horizontal.high[column] * channels;
      const later = horizontal.share[column], earlier = fround(1 - later);
      for (let channel = 0; channel < channels; channel++) {
        result[place++] = fround(line[left + channel] * earlier) + fround(line[right + channel] * later);
      }
    }
  }
  return result;
}

/** As Pillow: the pixel below the centre of each new one. */
function resizeNearest(pixels, width, height) {
  const [columns, rows] = [[width, pixels.width], [height, pixels.height]].map(([count, old]) => {
    let place = (old / count) * 0.5; // added up, not multiplied: of two equally near, this decides
    return Int32Array.from({ length: count }, () => {
      const index = Math.min(Math.floor(place), old - 1);
      place += old / count;
      return index;
    });
  });
  const data = new Uint8Array(width * height * 3);
  let target = 0;
  for (const row of rows) {
    for (const column of columns) {
      const source = (row * pixels.width + column) * 3;
      for (let channel = 0; channel < 3; channel++) data[target++] = pixels.data[source + channel];
    }
  }
  return { data, width, height };
}

/**
 * As Pillow: a filter that grows as the picture shrinks, along one axis and then along the other. Which comes
 * first is what Pillow 13 does, by observation; older releases begin with the rows always, and differ by 1.
 */
function resizeFiltered(pixels, width, height, filter) {
  const lostRows = pixels.height - height, lostColumns = pixels.width - width;
  const columnsFirst = lostRows > 0 && lostRows > 2 * lostColumns;
  const steps = columnsFirst ? [resizeColumns, resizeRows] : [resizeRows, resizeColumns];
  const sides = columnsFirst ? [height, width] : [width, height];
  return steps.reduce((done, step, index) => step(done, sides[index], filter), pixels);
}

/** Every row at another width. */
function resizeRows({ data, width, height }, side, filter) {
  if (side === width) return { data, width, height };
  const weights = weightsFor(width, side, filter);
  return { data: convolve(data, weights, height, width * 3, 3), width: side, height };
}

/** Every column at another height: what a pixel is to a row, a row is to the picture. */
function resizeColumns({ data, width, height }, side, filter) {
  if (side === height) return { data, width, height };
  const weights = weightsFor(height, side, filter);
  return { data: convolve(data, weights, 1, 0, width * 3), width, height: side };
}

/** For each new pixel of an axis the first old one, and the weights of this and the next as whole numbers. */
function weightsFor(old, count, [support, weight]) {
  const scale = old / count, stretch = Math.max(scale, 1), reach = support * stretch;
  return Array.from({ length: count }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), old);
    const weights = [];
    for (let i = first; i < end; i++) weights.push(weight((i - centre + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map((value) => roundAway((value / sum) * 2 ** FRACTION_BITS))];
  });
}

/** The nearest whole number, of two the one further from zero. */
function roundAway(value) {
  return Math.trunc(value + Math.sign(value) * 0.5);
}

/** Weighted sums of groups of `size` bytes, in `lines` lines that are `stride` bytes apart. */
function convolve(data, weights, lines, stride, size) {
  const result = new Uint8ClampedArray(lines * weights.length * size);
  const sums = new Float64Array(size); // which holds such whole numbers exactly
  let place = 0;
  for (let line = 0; line < lines; line++) {
    for (const [first, factors] of weights) {
      sums.fill(2 ** (FRACTION_BITS - 1));
      let source = line * stride + first * size;
      for (const factor of factors) {
        for (let i = 0; i < size; i++) sums[i] += data[source++] * factor;
      }
      for (let i = 0; i < size; i++) result[place++] = Math.floor(sums[i] / 2 ** FRACTION_BITS);
    }
  }
  return new Uint8Array(result.buffer);
}
