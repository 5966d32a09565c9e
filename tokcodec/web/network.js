/**
 * The network of a model of the kind `patch`, as in model/numpy_runtime.py.
 *
 * @callback Progress is awaited after each block, and may throw to stop
 * @param {number} part from 0 to 1
 */

import { below } from "./checkpoint.js";
import { cubic } from "./image.js";

const NORM_EPSILON = 1e-5; // of torch's LayerNorm
const UNIT_EPSILON = 1e-12; // of torch's normalize
const COLUMNS_AT_ONCE = 64; // of a matrix product, so that the weights stay in the cache
const QUERIES_AT_ONCE = 256; // tokens whose attention is in memory together
const NEAREST = 6; // the most known tokens that a missing one is filled from
const REACH = 2; // known tokens farther than this many times the least squared distance do not count
const SHARPNESS = -0.75; // of torch's bicubic interpolation
const MEDIAN = 6; // log2 of the number of tokens for which `positions.scale` adds nothing
// Eigen's rational approximation of erf, highest power of x² first.
const ERF_OVER = [
  -2.72614225801306e-10, 2.77068142495902e-8, -2.10102402082508e-6, -5.69250639462346e-5,
  -7.34990630326855e-4, -2.954599808540250e-3, -1.60960333262415e-2,
];
const ERF_UNDER = [
  -1.45660718464996e-5, -2.13374055278905e-4, -1.68282697438203e-3, -7.37332916720468e-3,
  -1.42647390514189e-2,
];

export class Network {
  constructor({ config, tensors }) {
    const { encoder, decoder, quantizer, preprocessing } = config;
    this.encoder = new Vit(encoder, below("encoder.", tensors));
    this.decoder = new Vit(decoder, below("decoder.", tensors));
    const { data, shape } = tensors["quantizer.codebook"];
    this.metric = quantizer.metric ?? "euclidean";
    this.dim = shape[1];
    this.codebook = this.metric === "cosine" ? unit(data, this.dim) : data;
    this.preprocessing = preprocessing;
    this.round = config.rounding === "down" ? Math.floor : (level) => level;
  }

  /**
   * Pixels -> the tokens of a grid, a Uint32Array.
   *
   * @param {{data: ArrayLike<number>, width: number}} image RGBA from 0 to 255
   * @param {Progress} progress
   */
  async encode(image, rows, columns, progress) {
    const { encoder } = this;
    let x = encoder.linear("patch_embed", this.patches(image, rows, columns));
    x = await encoder.trunk(add(x, encoder.positions(rows, columns)), progress);
    const z = encoder.linear("to_embedding", x);
    return Uint32Array.from({ length: rows * columns }, (_, n) =>
      this.nearest(z.subarray(n * this.dim, (n + 1) * this.dim)),
    );
  }

  /** The normalized pixels of each token, channel by channel. */
  patches({ data, width }, rows, columns) {
    const { mean, std } = this.preprocessing;
    const side = this.encoder.side;
    const patches = new Float32Array(rows * columns * 3 * side * side);
    let place = 0;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        for (let channel = 0; channel < 3; channel++) {
          for (let y = row * side; y < (row + 1) * side; y++) {
            for (let x = column * side; x < (column + 1) * side; x++) {
              const value = data[4 * (y * width + x) + channel] / 255;
              patches[place++] = (value - mean[channel]) / std[channel];
            }
          }
        }
      }
    }
    return patches;
  }

  /** The token with the nearest vector in float64, the lowest one among equals. */
  nearest(vector) {
    const { codebook, dim } = this;
    const z = this.metric === "cosine" ? unit(vector, dim) : vector;
    const cost = this.metric === "dot" ? negativeProduct : squaredDistance;
    let [best, least] = [0, Infinity];
    for (let token = 0, at = 0; at < codebook.length; token++, at += dim) {
      const found = cost(z, codebook, at);
      if (found < least) [best, least] = [token, found];
    }
    return best;
  }

  /**
   * Fills missing tokens (-1) with the tokens nearest to the mean of their nearest neighbours,
   * weighted by the inverse of the squared distances.
   */
  fill(tokens, columns) {
    const { codebook, dim } = this;
    const places = Array.from(tokens, (token, index) => ({
      token,
      row: Math.floor(index / columns),
      column: index % columns,
    }));
    const known = places.filter(({ token }) => token >= 0);
    return Uint32Array.from(places, ({ token, row, column }) => {
      if (token >= 0) return token;
      const squares = known.map((other) => (other.row - row) ** 2 + (other.column - column) ** 2);
      const reach = REACH * squares.reduce((a, b) => Math.min(a, b));
      const near = [...known.keys()]
        .filter((index) => squares[index] <= reach)
        .sort((a, b) => squares[a] - squares[b])
        .slice(0, NEAREST);
      const total = near.reduce((sum, index) => sum + 1 / squares[index], 0);
      const mean = Float32Array.from({ length: dim }, (_, i) =>
        near.reduce((sum, index) => sum + codebook[known[index].token * dim + i] / squares[index], 0) / total,
      );
      return this.nearest(mean);
    });
  }

  /** The tokens of a grid -> pixels, {data: RGBA from 0 to 255, width, height}. */
  async decode(tokens, rows, columns, progress) {
    const { decoder, dim } = this;
    const vectors = new Float32Array(tokens.length * dim);
    tokens.forEach((token, n) => {
      vectors.set(this.codebook.subarray(token * dim, (token + 1) * dim), n * dim);
    });
    const x = add(decoder.linear("from_embedding", vectors), decoder.positions(rows, columns));
    const patches = decoder.linear("to_pixels", await decoder.trunk(x, progress));
    let planes = unpatchify(patches, rows, columns, decoder.side);
    const kernel = decoder.tensors["to_pixels.convolution.weight"];
    if (kernel) planes = smooth(planes, kernel.data, decoder.data("to_pixels.convolution.bias"));
    return this.image(planes);
  }

  image({ data, width, height }) {
    const { mean, std } = this.preprocessing;
    const pixels = new Uint8ClampedArray(4 * width * height).fill(255);
    for (let n = 0; n < width * height; n++) {
      for (let channel = 0; channel < 3; channel++) {
        const value = data[channel * width * height + n] * std[channel] + mean[channel];
        pixels[4 * n + channel] = this.round(value * 255); // rounded half to even, and clipped
      }
    }
    return { data: pixels, width, height };
  }
}

/** A vision transformer with float32 weights. Its tensors say how large it is. */
class Vit {
  constructor(config, tensors) {
    this.tensors = tensors;
    this.heads = config.heads;
    this.layers = config.layers;
    this.side = config.patch_size;
  }

  data(name) {
    return this.tensors[name].data;
  }

  linear(name, x) {
    const { data, shape } = this.tensors[`${name}.weight`];
    return product(x, data, shape[1], this.data(`${name}.bias`));
  }

  norm(name, x) {
    const [weight, bias] = [this.data(`${name}.weight`), this.data(`${name}.bias`)];
    const width = weight.length;
    const y = new Float32Array(x.length);
    for (let at = 0; at < x.length; at += width) {
      let mean = 0;
      for (let i = 0; i < width; i++) mean += x[at + i] / width;
      let variance = 0;
      for (let i = 0; i < width; i++) variance += ((x[at + i] - mean) * (x[at + i] - mean)) / width;
      const scale = 1 / Math.sqrt(variance + NORM_EPSILON);
      for (let i = 0; i < width; i++) y[at + i] = (x[at + i] - mean) * scale * weight[i] + bias[i];
    }
    return y;
  }

  /** Embeddings [rows · columns, width]: the table, interpolated to the grid. */
  positions(rows, columns) {
    const { data: table, shape } = this.tensors["positions.table"];
    const [source, , width] = shape;
    const scale = this.data("positions.scale");
    const size = Math.log2(rows * columns) - MEDIAN;
    const [down, across] = [interpolation(source, rows), interpolation(source, columns)];
    const result = new Float32Array(rows * columns * width);
    down.forEach((downTaps, row) => {
      across.forEach((acrossTaps, column) => {
        const at = (row * columns + column) * width;
        for (let i = 0; i < width; i++) {
          let sum = scale[i] * size;
          for (const [y, downWeight] of downTaps) {
            for (const [x, acrossWeight] of acrossTaps) {
              sum += downWeight * acrossWeight * table[(y * source + x) * width + i];
            }
          }
          result[at + i] = sum;
        }
      });
    });
    return result;
  }

  /** Tokens [T, width] -> the output of the last block. */
  async trunk(x, progress) {
    const classToken = this.tensors.class_token?.data;
    if (classToken) x = Float32Array.of(...classToken, ...x);
    if (this.tensors["norm_in.weight"]) x = this.norm("norm_in", x);
    for (let layer = 0; layer < this.layers; layer++) {
      const block = `blocks.${layer}`;
      x = add(x, this.attention(`${block}.attention`, this.norm(`${block}.norm_attention`, x)));
      const hidden = this.linear(`${block}.mlp.0`, this.norm(`${block}.norm_mlp`, x)).map(gelu);
      x = add(x, this.linear(`${block}.mlp.2`, hidden));
      await progress((layer + 1) / this.layers);
    }
    if (classToken) x = x.slice(classToken.length);
    return this.tensors["norm_out.weight"] ? this.norm("norm_out", x) : x;
  }

  attention(name, x) {
    const width = this.tensors[`${name}.out.weight`].shape[1];
    const size = width / this.heads;
    const qkv = this.linear(`${name}.qkv`, x);
    const count = x.length / width;
    const joined = new Float32Array(x.length);
    for (let head = 0; head < this.heads; head++) {
      const [q, k, v] = [0, 1, 2].map((part) =>
        columnsOf(qkv, 3 * width, part * width + head * size, size),
      );
      const transposed = transpose(v, size);
      for (let first = 0; first < count; first += QUERIES_AT_ONCE) {
        const queries = q.subarray(first * size, (first + QUERIES_AT_ONCE) * size);
        const scores = product(queries, k, size);
        softmax(scores, count, 1 / Math.sqrt(size));
        const attended = product(scores, transposed, count);
        for (let n = 0; n < attended.length / size; n++) {
          const part = attended.subarray(n * size, (n + 1) * size);
          joined.set(part, (first + n) * width + head * size);
        }
      }
    }
    return this.linear(`${name}.out`, joined);
  }
}

/**
 * a [rows, inner] · b [columns, inner]ᵀ + bias [columns] -> [rows, columns].
 *
 * Computes four rows and two columns at a time, so that each number is used several times once it is
 * read. The last row or column may be computed more than once.
 */
function product(a, b, inner, bias = new Float32Array(b.length / inner)) {
  const [rows, columns] = [a.length / inner, b.length / inner];
  const result = new Float32Array(rows * columns);
  for (let first = 0; first < columns; first += COLUMNS_AT_ONCE) {
    const end = Math.min(first + COLUMNS_AT_ONCE, columns);
    for (let row = 0; row < rows; row += 4) {
      const row1 = Math.min(row + 1, rows - 1);
      const row2 = Math.min(row + 2, rows - 1);
      const row3 = Math.min(row + 3, rows - 1);
      const [a0, a1, a2, a3] = [row * inner, row1 * inner, row2 * inner, row3 * inner];
      for (let column = first; column < end; column += 2) {
        const next = Math.min(column + 1, columns - 1);
        const [b0, b1] = [column * inner, next * inner];
        let [s00, s10, s20, s30] = [bias[column], bias[column], bias[column], bias[column]];
        let [s01, s11, s21, s31] = [bias[next], bias[next], bias[next], bias[next]];
        for (let i = 0; i < inner; i++) {
          const y0 = b[b0 + i];
          const y1 = b[b1 + i];
          const x0 = a[a0 + i];
          s00 += x0 * y0;
          s01 += x0 * y1;
          const x1 = a[a1 + i];
          s10 += x1 * y0;
          s11 += x1 * y1;
          const x2 = a[a2 + i];
          s20 += x2 * y0;
          s21 += x2 * y1;
          const x3 = a[a3 + i];
          s30 += x3 * y0;
          s31 += x3 * y1;
        }
        result[row * columns + column] = s00;
        result[row * columns + next] = s01;
        result[row1 * columns + column] = s10;
        result[row1 * columns + next] = s11;
        result[row2 * columns + column] = s20;
        result[row2 * columns + next] = s21;
        result[row3 * columns + column] = s30;
        result[row3 * columns + next] = s31;
      }
    }
  }
  return result;
}

const add = (a, b) => a.map((value, index) => value + b[index]);

function columnsOf(matrix, width, first, count) {
  const result = new Float32Array((matrix.length / width) * count);
  for (let row = 0; row < matrix.length / width; row++) {
    const start = row * width + first;
    result.set(matrix.subarray(start, start + count), row * count);
  }
  return result;
}

function transpose(matrix, width) {
  const height = matrix.length / width;
  return matrix.map((_, index) => matrix[(index % height) * width + Math.floor(index / height)]);
}

/** Rows of scores -> weights that add up to 1, in place. */
function softmax(scores, width, factor) {
  for (let at = 0; at < scores.length; at += width) {
    let highest = -Infinity;
    for (let i = at; i < at + width; i++) highest = Math.max(highest, scores[i]);
    let sum = 0;
    for (let i = at; i < at + width; i++) {
      scores[i] = Math.exp((scores[i] - highest) * factor);
      sum += scores[i];
    }
    for (let i = at; i < at + width; i++) scores[i] /= sum;
  }
}

const gelu = (x) => (x / 2) * (1 + erf(x * Math.SQRT1_2));

/** The error function, with an error of at most 4e-7. */
function erf(value) {
  const x = Math.min(4, Math.max(-4, value));
  const square = x * x;
  let over = 0;
  for (const factor of ERF_OVER) over = over * square + factor;
  let under = 0;
  for (const factor of ERF_UNDER) under = under * square + factor;
  return (x * over) / under;
}

/** Bicubic interpolation of `source` values: for each result, indices and weights. */
function interpolation(source, target) {
  return Array.from({ length: target }, (_, index) => {
    const centre = ((index + 0.5) * source) / target - 0.5;
    const first = Math.floor(centre);
    return [-1, 0, 1, 2].map((tap) => {
      const place = Math.min(source - 1, Math.max(0, first + tap));
      return [place, cubic(Math.abs(centre - first - tap), SHARPNESS)];
    });
  });
}

function squaredDistance(z, vectors, at) {
  let sum = 0;
  for (let i = 0; i < z.length; i++) {
    const difference = vectors[at + i] - z[i];
    sum += difference * difference;
  }
  return sum;
}

function negativeProduct(z, vectors, at) {
  let sum = 0;
  for (let i = 0; i < z.length; i++) sum -= vectors[at + i] * z[i];
  return sum;
}

function unit(vectors, width) {
  const result = new Float32Array(vectors.length);
  for (let at = 0; at < vectors.length; at += width) {
    const vector = vectors.subarray(at, at + width);
    const length = Math.max(Math.hypot(...vector), UNIT_EPSILON);
    result.set(vector.map((value) => value / length), at);
  }
  return result;
}

/** Patches [rows · columns, 3 · W · W] -> planes of pixels, in which overlaps add up. */
function unpatchify(patches, rows, columns, side) {
  const size = patches.length / (rows * columns * 3);
  const window = Math.round(Math.sqrt(size));
  const overlap = (window - side) / 2;
  const [width, height] = [columns * side, rows * side];
  const data = new Float32Array(3 * width * height);
  let place = 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      for (let channel = 0; channel < 3; channel++) {
        for (let y = row * side - overlap; y < (row + 1) * side + overlap; y++) {
          for (let x = column * side - overlap; x < (column + 1) * side + overlap; x++) {
            const value = patches[place++];
            if (x < 0 || y < 0 || x >= width || y >= height) continue;
            data[(channel * height + y) * width + x] += value;
          }
        }
      }
    }
  }
  return { data, width, height };
}

/** Planes of pixels after a 3x3 convolution, kernel [out, in, 3, 3]. */
function smooth({ data, width, height }, kernel, bias) {
  const result = data.map((_, index) => bias[Math.floor(index / (width * height))]);
  kernel.forEach((weight, index) => {
    const [out, channel] = [Math.floor(index / 27), Math.floor(index / 9) % 3];
    const [down, across] = [(Math.floor(index / 3) % 3) - 1, (index % 3) - 1];
    for (let y = Math.max(0, -down); y < Math.min(height, height - down); y++) {
      for (let x = Math.max(0, -across); x < Math.min(width, width - across); x++) {
        const from = (channel * height + y + down) * width + x + across;
        result[(out * height + y) * width + x] += weight * data[from];
      }
    }
  });
  return { data: result, width, height };
}
