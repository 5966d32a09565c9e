/** The prior of a checkpoint, and entropy coding with it (TOKEN_FILE.md). */

import { refuseUnless } from "./format.js";

const TOTAL = 32768; // slots of all symbols together
const START = 256; // of the state, plus the rank of the last token
const GROUPS = 64;
const WIDTH = 32; // of the vector of a neighbour
const HIDDEN = 128;
// Rows and columns relative to a token.
const NEIGHBOURS = [
  [0, -1], [-1, -1], [-1, 0], [-1, 1],
  [0, -2], [-2, 0], [-1, -2], [-2, -1], [-2, 1], [-2, 2],
];
const BORDER = 2; // rows and columns to the farthest neighbour
const BANDS = 16; // classes of rows, and of columns
const ALTERED = "This is damaged, or was made with another prior.";

/**
 * @typedef {object} Shape of the tokens of a file
 * @property {number} tiles
 * @property {number} rows
 * @property {number} columns
 * @property {number[]} [lengths] of the rows of a packet; the rest of a row is outside of the grid
 */

export class Prior {
  /** @param {Object<string, ArrayLike<number>>} tables the tensors by their names after `prior.` */
  constructor(tables) {
    this.tables = tables;
    this.size = tables.group.length;
    this.groups = Array.from({ length: GROUPS }, (_, group) => group);
    this.members = this.groups.map(() => []);
    this.ranks = Array.from(tables.group, (group, token) => this.members[group].push(token) - 1);
  }

  /** Tokens, tile by tile and row by row -> the payload. */
  encode(tokens, shape) {
    const spans = [];
    const grid = new Grid(shape, this.size);
    const size = grid.order.length;
    for (let tile = 0; tile < shape.tiles; tile++) {
      grid.fill(tokens.subarray(tile * size, (tile + 1) * size));
      for (const [row, column] of grid.order) {
        const hidden = this.hidden(grid, row, column);
        const token = grid.get(row, column);
        const group = this.tables.group[token];
        spans.push(spanOf(this.groupEnds(hidden), group));
        spans.push(spanOf(this.tokenEnds(group, hidden), this.ranks[token]));
      }
    }
    const [row, column] = grid.order.at(-1);
    const ranked = this.ranked(this.hidden(grid, row, column));
    return push(spans.slice(0, -2), START + ranked.indexOf(grid.get(row, column)));
  }

  /** The inverse of `encode`: a Uint32Array. */
  decode(payload, shape) {
    const reader = new Reader(payload);
    const grid = new Grid(shape, this.size);
    const size = grid.order.length;
    const tokens = new Uint32Array(shape.tiles * size);
    let left = tokens.length;
    for (let tile = 0; tile < shape.tiles; tile++) {
      grid.clear();
      for (const [row, column, index] of grid.order) {
        left -= 1;
        const hidden = this.hidden(grid, row, column);
        let token;
        if (!left) {
          refuseUnless(reader.atEnd, ALTERED);
          token = this.ranked(hidden)[reader.state - START];
        } else {
          const group = reader.pop(this.groupEnds(hidden));
          refuseUnless(this.members[group].length, ALTERED);
          token = this.members[group][reader.pop(this.tokenEnds(group, hidden))];
        }
        refuseUnless(token !== undefined, ALTERED);
        grid.set(row, column, token);
        tokens[tile * size + index] = token;
      }
    }
    return tokens;
  }

  /** The outputs of the layer for a position in a grid. */
  hidden(grid, row, column) {
    const { vectors, layer, size_bias, row_bias, column_bias } = this.tables;
    const { rows, columns } = grid;
    const square = Math.min((rows * columns) ** 2, 2 ** 32 - 1);
    const sizeAt = (31 - Math.clz32(square)) * HIDDEN;
    const rowAt = Math.floor((row * BANDS) / rows) * HIDDEN;
    const columnAt = Math.floor((column * BANDS) / columns) * HIDDEN;
    const sums = new Int32Array(HIDDEN);
    for (let unit = 0; unit < HIDDEN; unit++) {
      sums[unit] = size_bias[sizeAt + unit] + row_bias[rowAt + unit] + column_bias[columnAt + unit];
    }
    NEIGHBOURS.forEach(([down, across], number) => {
      const vectorAt = grid.get(row + down, column + across) * WIDTH;
      for (let i = 0; i < WIDTH; i++) {
        const value = vectors[vectorAt + i];
        const layerAt = (number * WIDTH + i) * HIDDEN;
        for (let unit = 0; unit < HIDDEN; unit++) sums[unit] += value * layer[layerAt + unit];
      }
    });
    return sums.map((sum) => Math.min(127, Math.max(0, sum >> 7)));
  }

  groupEnds(hidden) {
    return this.ends(this.tables.group_scores, this.tables.group_bias, this.groups, hidden);
  }

  tokenEnds(group, hidden) {
    const { token_scores, token_bias } = this.tables;
    return this.ends(token_scores, token_bias, this.members[group], hidden);
  }

  /** All tokens, the likeliest first. */
  ranked(hidden) {
    const weights = new Float64Array(this.size);
    widthsOf(this.groupEnds(hidden)).forEach((width, group) => {
      if (!this.members[group].length) return;
      widthsOf(this.tokenEnds(group, hidden)).forEach((own, rank) => {
        weights[this.members[group][rank]] = width * own;
      });
    });
    return Array.from(weights.keys()).sort((a, b) => weights[b] - weights[a] || a - b);
  }

  /** The ends of the slots of these symbols; each begins at the end of the one before. */
  ends(vectors, biases, symbols, hidden) {
    const { powers } = this.tables;
    const scores = symbols.map((symbol) => {
      let score = biases[symbol];
      const at = symbol * HIDDEN;
      for (let unit = 0; unit < HIDDEN; unit++) score += hidden[unit] * vectors[at + unit];
      return score;
    });
    const highest = scores.reduce((a, b) => Math.max(a, b));
    let sum = 0;
    const sums = scores.map(
      (score) => (sum += powers[Math.min((highest - score) >> 3, powers.length - 1)]),
    );
    // This is exact: products are below 2^53, and quotients are not close below an integer.
    const share = (part) => Math.floor((part * (TOTAL - symbols.length)) / sum);
    return sums.map((part, index) => share(part) + index + 1);
  }
}

/** The tokens of a tile, with a border of `beyond`. */
class Grid {
  constructor({ rows, columns, lengths }, beyond) {
    Object.assign(this, { rows, columns, beyond });
    this.cells = new Uint32Array((rows + BORDER) * (columns + 2 * BORDER)).fill(beyond);
    /** Row, column and index of each token, in coding order. */
    this.order = [];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < (lengths?.[row] ?? columns); column++) {
        this.order.push([row, column, this.order.length]);
      }
    }
    this.order.sort(([r0, c0], [r1, c1]) => 2 * r0 + c0 - (2 * r1 + c1) || r0 - r1);
  }

  at(row, column) {
    return (row + BORDER) * (this.columns + 2 * BORDER) + column + BORDER;
  }

  get(row, column) {
    return this.cells[this.at(row, column)];
  }

  set(row, column, token) {
    this.cells[this.at(row, column)] = token;
  }

  clear() {
    this.cells.fill(this.beyond);
  }

  fill(tokens) {
    for (const [row, column, index] of this.order) this.set(row, column, tokens[index]);
  }
}

const widthsOf = (ends) => ends.map((end, symbol) => end - (symbol && ends[symbol - 1]));

const spanOf = (ends, symbol) => [symbol ? ends[symbol - 1] : 0, ends[symbol]];

/** The payload of symbols, from the begin and end of the slots of each. */
function push(spans, start) {
  const bytes = [];
  let state = start;
  const cut = () => {
    bytes.push(state % 256);
    state = Math.floor(state / 256);
  };
  for (const [low, end] of spans.reverse()) {
    const weight = end - low;
    while (state >= weight * 2 ** 17) cut();
    state = Math.floor(state / weight) * TOTAL + low + (state % weight);
  }
  while (state) cut();
  return Uint8Array.from(bytes.reverse());
}

class Reader {
  constructor(payload) {
    this.payload = payload;
    this.place = 0;
    this.state = 0;
    this.fill();
  }

  fill() {
    while (this.state < 2 ** 24 && !this.atEnd) {
      this.state = this.state * 256 + this.payload[this.place++];
    }
  }

  get atEnd() {
    return this.place === this.payload.length;
  }

  /** Takes the next symbol off the state, given the ends of the slots of all symbols. */
  pop(ends) {
    const slot = this.state % TOTAL;
    const symbol = ends.findIndex((end) => slot < end);
    const [low, end] = spanOf(ends, symbol);
    this.state = Math.floor(this.state / TOTAL) * (end - low) + slot - low;
    this.fill();
    refuseUnless(this.state >= START, ALTERED);
    return symbol;
  }
}
