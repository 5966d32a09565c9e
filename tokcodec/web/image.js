/** Placing images on the grid of a model, and resizing them (config/geometry.py). */

import { refuseUnless } from "./format.js";

/**
 * @typedef {object} Image
 * @property {Uint8ClampedArray} data RGBA
 * @property {number} width
 * @property {number} height
 */

/** Rows and columns of the grid of at most `tokens` tokens that fits the image best. */
export function nearestGrid({ width, height }, tokens, pixels) {
  const mostColumns = Math.ceil(width / pixels);
  let best;
  let least = Infinity;
  for (let rows = 1; rows <= Math.min(tokens, Math.ceil(height / pixels)); rows++) {
    const columns = Math.min(Math.floor(tokens / rows), mostColumns);
    const cost = width / columns + height / rows;
    if (cost < least) [best, least] = [{ rows, columns }, cost];
  }
  return best;
}

/**
 * The part of a decoded grid that shows the image, and the size of the image.
 *
 * @param {import("./format.js").TokenFile} file
 * @param {number} side of a token in pixels
 */
export function placement({ fit, width, height, rows, columns }, side) {
  const grid = { left: 0, top: 0, width: columns * side, height: rows * side };
  const size = { width, height };
  const isFilled = columns === Math.ceil(width / side) && rows === Math.ceil(height / side);
  const fits = fit === "aspect" || (fit === "native" ? isFilled : rows === columns);
  refuseUnless(fits, "This is damaged: its grid does not fit its size.");
  if (fit === "crop") {
    const short = Math.min(width, height);
    return { visible: grid, output: { width: short, height: short } };
  }
  if (fit === "pad") {
    const resized = longerEdge(size, grid.width);
    const left = Math.floor((grid.width - resized.width) / 2);
    const top = Math.floor((grid.height - resized.height) / 2);
    return { visible: { left, top, ...resized }, output: size };
  }
  return { visible: fit === "native" ? { ...grid, ...size } : grid, output: size };
}

/** A size of the same shape with this longer edge; the other one is rounded half up. */
export function longerEdge({ width, height }, edge) {
  const long = Math.max(width, height);
  const scaled = (length) => Math.max(1, Math.floor((2 * edge * length + long) / (2 * long)));
  return { width: scaled(width), height: scaled(height) };
}

export function crop(image, { left, top, width, height }) {
  const data = new Uint8ClampedArray(4 * width * height);
  for (let y = 0; y < height; y++) {
    const start = 4 * ((top + y) * image.width + left);
    data.set(image.data.subarray(start, start + 4 * width), 4 * y * width);
  }
  return { data, width, height };
}

/** Resizes an image as Pillow does with its bicubic filter: across, rounded, and then down. */
export function resize(image, { width, height }) {
  const { data } = image;
  const across = resizeRows(data, image.height, image.width, width, 4 * image.width, 4);
  const result = resizeRows(across, width, image.height, height, 4, 4 * width);
  return { data: result, width, height };
}

/**
 * Resizes lines of pixels, which are rows or columns, to `target` pixels each.
 *
 * @param {number} line distance in the data from a line to the next
 * @param {number} step distance in the data from a pixel of a line to the next
 */
function resizeRows(data, lines, source, target, line, step) {
  if (source === target) return data;
  const result = new Uint8ClampedArray(4 * lines * target);
  const lineAfter = step === 4 ? 4 * target : line;
  taps(source, target).forEach(({ first, weights }, place) => {
    for (let number = 0; number < lines; number++) {
      const from = number * line + first * step;
      const to = number * lineAfter + place * step;
      for (let channel = 0; channel < 4; channel++) {
        let sum = 0.5;
        for (let i = 0; i < weights.length; i++) sum += weights[i] * data[from + i * step + channel];
        result[to + channel] = Math.floor(sum);
      }
    }
  });
  return result;
}

/** For each pixel of the result, the first source pixel, and the weights from there on. */
function taps(source, target) {
  const scale = source / target;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: target }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * stretch + 0.5));
    const end = Math.min(source, Math.trunc(centre + 2 * stretch + 0.5));
    const weights = Array.from({ length: end - first }, (_, i) =>
      cubic(Math.abs(first + i - centre + 0.5) / stretch, -0.5),
    );
    const sum = weights.reduce((a, b) => a + b);
    // In fixed point as in Pillow, so that the pixels are equal.
    return { first, weights: weights.map((weight) => Math.round((weight / sum) * 2 ** 22) / 2 ** 22) };
  });
}

/** The kernel of the cubic convolution (Keys, 1981) at a distance from 0 to 2. */
export function cubic(distance, sharpness) {
  if (distance >= 2) return 0;
  if (distance > 1) return sharpness * (distance ** 3 - 5 * distance ** 2 + 8 * distance - 4);
  return (sharpness + 2) * distance ** 3 - (sharpness + 3) * distance ** 2 + 1;
}
