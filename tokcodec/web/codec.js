/** Images to token files and back, with one checkpoint. */

import { below, readCheckpoint } from "./checkpoint.js";
import { mayBeEntropyCoded, pack, refuseUnless, serialize, toText, tokensIn } from "./format.js";
import { crop, longerEdge, nearestGrid, placement, resize } from "./image.js";
import { Network } from "./network.js";
import { Prior } from "./prior.js";
import { readTokens } from "./tokens.js";

const MOST_TOKENS = 4096; // of an image, because more would take minutes
const LONGEST_EDGE = 1024; // pixels of a decoded image, unless its tokens show more
const OVERHEAD = 15; // bytes of a usual file without its tokens

export class Codec {
  /**
   * @param {ArrayBuffer} buffer a checkpoint
   * @param {string} name of the model
   */
  constructor(buffer, name) {
    const checkpoint = readCheckpoint(buffer);
    const tables = Object.entries(below("prior.", checkpoint.tensors));
    this.name = name;
    this.modelId = checkpoint.modelId.slice(0, 4);
    this.config = checkpoint.config;
    this.network = new Network(checkpoint);
    this.prior = tables.length
      ? new Prior(Object.fromEntries(tables.map(([key, { data }]) => [key, data])))
      : null;
  }

  get bits() {
    return 32 - Math.clz32(this.config.quantizer.codebook_size - 1);
  }

  /** Side of a token in pixels of a decoded image. */
  get multiple() {
    return this.config.decoder.patch_size;
  }

  /** The tokens of a file of this model; -1 for those of lost packets. */
  tokens(file) {
    const { codebook_size: size } = this.config.quantizer;
    const count = tokensIn(file);
    refuseUnless(
      file.modelId === this.modelId,
      `This was made with the model ${file.modelId}. This page has the model ${this.modelId} ` +
        `(${this.name}) and cannot show it.`,
    );
    refuseUnless(count <= MOST_TOKENS, `This has ${count} tokens. This page shows up to ${MOST_TOKENS}.`);
    refuseUnless(file.bits === this.bits, "This is damaged: its tokens do not have the bits of the model.");
    const tokens = readTokens(file, this.prior);
    refuseUnless(tokens.every((token) => token < size), "This is damaged: it has tokens that the model does not have.");
    refuseUnless(tokens.some((token) => token >= 0), "This is only the parity packet of an image.");
    return tokens;
  }

  /**
   * TokenFile -> the image, with at most 1024 pixels on the longer edge, or as many as its tokens
   * show. Its `missing` tokens are filled.
   *
   * @param {import("./network.js").Progress} progress
   */
  async decode(file, progress = () => {}) {
    const { fit, rows, columns } = file;
    refuseUnless(fit !== "tile", "This image is in tiles, which only the command tokcodec decode shows.");
    const found = this.tokens(file);
    const missing = found.filter((token) => token < 0).length;
    const tokens = missing ? this.network.fill(found, columns) : found;
    const { visible, output } = placement(file, this.multiple);
    const image = await this.network.decode(tokens, rows, columns, progress);
    const most = Math.max(LONGEST_EDGE, visible.width, visible.height);
    const isLarger = Math.max(output.width, output.height) > most;
    const shown = isLarger ? longerEdge(output, most) : output;
    return { ...resize(crop(image, visible), shown), missing };
  }

  /**
   * Pixels -> the TokenFile with at most `limit` tokens.
   *
   * @param {import("./image.js").Image} image
   * @param {{width: number, height: number}} image.original size, which may be larger than these pixels
   */
  async encode(image, limit, progress = () => {}) {
    const { rows, columns } = this.grid(image, limit);
    const { pixel_scale: scale, resize: way } = this.config.preprocessing;
    const side = this.config.encoder.patch_size * (way === "direct" ? 1 : scale);
    let small = resize(image, { width: columns * side, height: rows * side });
    if (way !== "direct") small = average(small, scale);
    const tokens = await this.network.encode(small, rows, columns, progress);
    const file = {
      modelId: this.modelId,
      width: image.original.width,
      height: image.original.height,
      fit: "aspect",
      bits: this.bits,
      rows,
      columns,
      tileRows: 1,
      tileColumns: 1,
      entropyCoded: true,
      payload: this.prior?.encode(tokens, { tiles: 1, rows, columns }),
    };
    if (this.prior && mayBeEntropyCoded(file)) return file;
    return { ...file, entropyCoded: false, payload: pack(tokens, this.bits) };
  }

  grid({ original }, tokens) {
    return nearestGrid(original, tokens, this.multiple / this.config.preprocessing.pixel_scale);
  }

  /**
   * The file with the most tokens whose size is at most `limit`, as in budget.py.
   *
   * @param {"bytes" | "characters"} unit of the limit: of the file, or of its message
   * @param {(part: number, tokens: number) => void} progress of one attempt
   */
  async encodeWithin(image, limit, unit, progress = () => {}) {
    const most = Math.min(2 * limit, MOST_TOKENS);
    const sizeOf = (file) => {
      const bytes = serialize(file);
      return unit === "bytes" ? bytes.length : toText(bytes).length;
    };
    let [best, smallest] = [null, null];
    let [fits, misfit] = [0, most + 1]; // the most tokens known to fit, the fewest known not to
    let count = Math.min(most, Math.max(1, limit - OVERHEAD)); // about a byte per token
    while (fits < misfit - 1) {
      const { rows, columns } = this.grid(image, count);
      if (best && rows * columns === tokensIn(best)) {
        fits = count;
      } else {
        const file = await this.encode(image, count, (part) => progress(part, rows * columns));
        const size = sizeOf(file);
        if (size <= limit) {
          [best, fits] = [file, count];
        } else {
          smallest = size;
          misfit = Math.min(count, rows * columns);
        }
        const perToken = Math.max(1, size - OVERHEAD) / tokensIn(file);
        count = Math.floor((limit - OVERHEAD) / perToken);
      }
      count = Math.max(fits + 1, Math.min(count, misfit - 1));
    }
    if (!best) throw new RangeError(`The smallest file of this image has ${smallest} ${unit}.`);
    return best;
  }
}

/** Means of `scale` by `scale` pixels, not rounded. */
function average({ data, width, height }, scale) {
  const result = new Float32Array(data.length / scale ** 2);
  const across = width / scale;
  data.forEach((value, index) => {
    const [x, y] = [(index >> 2) % width, Math.floor((index >> 2) / width)];
    const at = 4 * (Math.floor(y / scale) * across + Math.floor(x / scale)) + (index & 3);
    result[at] += value / scale ** 2;
  });
  return { data: result, width: across, height: height / scale };
}
