/** The tokens of a token file, or of its packets. */

import { crc16, pack, refuseUnless, tokensIn, unpack } from "./format.js";
import { placesOf, restored, rowLengths } from "./packets.js";

/**
 * The tokens of all tiles, row by row; -1 for those of lost packets.
 *
 * @param {import("./format.js").TokenFile} file
 * @param {import("./prior.js").Prior | null} prior of its checkpoint
 */
export function readTokens(file, prior) {
  const { rows, columns, bits, packets } = file;
  const whole = { tiles: file.tileRows * file.tileColumns, rows, columns };
  if (!packets) return readPayload(file, file.payload, prior, whole);
  const tokens = new Float64Array(tokensIn(file)).fill(-1);
  for (const [number, payload] of restored(packets)) {
    const lengths = rowLengths(file, packets.count, number);
    const shape = { tiles: 1, rows, columns: Math.max(...lengths), lengths };
    const own = readPayload(file, payload, prior, shape);
    placesOf(file, packets.count, number).forEach((place, index) => (tokens[place] = own[index]));
  }
  const isWhole = tokens.every((token) => token >= 0);
  refuseUnless(
    !isWhole || crc16(pack(tokens, bits)) === packets.image,
    "These packets are damaged, or of several images.",
  );
  return tokens;
}

/** The tokens of a payload in order. */
function readPayload({ bits, entropyCoded }, payload, prior, shape) {
  if (!entropyCoded) return unpack(payload, countOf(shape), bits);
  refuseUnless(prior, "This is entropy-coded, and the model of this page has no prior.");
  const tokens = prior.decode(payload, shape);
  const again = prior.encode(tokens, shape); // so that tokens have one payload
  refuseUnless(
    again.length === payload.length && again.every((byte, index) => byte === payload[index]),
    "This is damaged, or was made with another prior.",
  );
  return tokens;
}

const countOf = ({ tiles, rows, columns, lengths }) =>
  lengths ? lengths.reduce((a, b) => a + b) : tiles * rows * columns;
