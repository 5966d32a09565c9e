/** Token files and messages, as TOKEN_FILE.md specifies them. */

import { rowLengths } from "./packets.js";

const FITS = ["aspect", "stretch", "crop", "pad", "tile", "native"]; // in the order of their numbers
const FIRST_BYTE = 0xb4; // combined with these bits:
const [ENTROPY_CODED, WHOLE] = [1, 2];
const TOKENS_IN_FILE = 2 ** 24;
const MOST = 0xffff; // the largest edge of an image in pixels, and of a grid
const LONGEST_MESSAGE = 2 ** 14; // the most characters of a message that words follow
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"; // of base64url

/**
 * One image.
 *
 * @typedef {object} TokenFile
 * @property {string} modelId the first four hexadecimal digits of the model_id
 * @property {number} width of the original image in pixels
 * @property {number} height
 * @property {string} fit
 * @property {number} bits of a token when packed
 * @property {number} rows of tokens of a tile
 * @property {number} columns
 * @property {number} tileRows
 * @property {number} tileColumns
 * @property {boolean} entropyCoded
 * @property {Uint8Array} payload empty if there are packets
 * @property {import("./packets.js").Packets} [packets]
 */

/** Bytes that are not a whole token file, or one that cannot be decoded. */
export class TokenFileError extends Error {}

export function refuseUnless(condition, message) {
  if (!condition) throw new TokenFileError(message);
}

export const tokensIn = (file) => file.tileRows * file.tileColumns * file.rows * file.columns;

const isTokenFile = (bytes) => (bytes[0] & ~(ENTROPY_CODED | WHOLE)) === FIRST_BYTE;

/** A token file, or the messages in a text: TokenFiles, or their errors. */
export function filesIn(bytes) {
  return isTokenFile(bytes) ? [firstFile([bytes])] : findMessages(new TextDecoder().decode(bytes));
}

/** Reads a whole file: Uint8Array -> TokenFile. */
export function parse(bytes) {
  refuseUnless(isTokenFile(bytes), "This is not a token file.");
  const body = bytes.subarray(0, -2);
  const checksum = bytes.at(-2) | (bytes.at(-1) << 8);
  refuseUnless(
    body.length >= 4 && checksum === crc16(body),
    "This is cut off or damaged: its checksum does not match.",
  );
  const fit = FITS[body[1] >> 5];
  refuseUnless(fit, "This was written by a newer version of tokcodec.");
  let place = 4;
  const number = () => {
    const [value, length] = readNumber(body.subarray(place, place + 5));
    place += length;
    return value;
  };
  const [rows, columns] = shapeOf(number());
  const [tileRows, tileColumns] = fit === "tile" ? shapeOf(number()) : [1, 1];
  const width = number();
  const head = {
    modelId: hex(body.subarray(2, 4)),
    width,
    height: likelyHeight({ width, rows, columns, tileRows, tileColumns }) + unfold(number()),
    fit,
    bits: (body[1] & 31) + 1,
    rows,
    columns,
    tileRows,
    tileColumns,
    entropyCoded: Boolean(bytes[0] & ENTROPY_CODED),
  };
  refuseUnless(
    [rows, columns, tileRows, tileColumns, width, head.height].every(
      (size) => size >= 1 && size <= MOST,
    ),
    "This is damaged: a size in its header is not from 1 to 65535.",
  );
  const payload = body.slice(place);
  refuseUnless(tokensIn(head) <= TOKENS_IN_FILE, "This has more tokens than a token file may have.");
  const file = bytes[0] & WHOLE ? { ...head, payload } : packetOf(head, payload);
  checkPayload(file);
  return file;
}

/** The file of a packet, from what follows the sizes in its header. */
function packetOf(head, rest) {
  const [number, count] = [rest[0] >> 4, (rest[0] & 15) + 1];
  refuseUnless(
    rest.length >= 3 && number <= count && count <= 15 && head.fit !== "tile",
    "This is damaged: the number of its packet is not valid.",
  );
  const payloads = new Map([[number, rest.slice(3)]]);
  const image = rest[1] | (rest[2] << 8);
  return { ...head, payload: new Uint8Array(), packets: { count, image, payloads } };
}

/** The inverse of `parse`, without packets. */
export function serialize(file) {
  const numbers = [shapeNumber(file.rows, file.columns)];
  if (file.fit === "tile") numbers.push(shapeNumber(file.tileRows, file.tileColumns));
  numbers.push(file.width, fold(file.height - likelyHeight(file)));
  const body = [
    FIRST_BYTE | WHOLE | (file.entropyCoded && ENTROPY_CODED),
    (FITS.indexOf(file.fit) << 5) | (file.bits - 1),
    ...file.modelId.match(/../g).map((digits) => parseInt(digits, 16)),
    ...numbers.flatMap(writeNumber),
    ...file.payload,
  ];
  const checksum = crc16(body);
  return Uint8Array.from([...body, checksum & 0xff, checksum >> 8]);
}

function checkPayload(file) {
  if (file.packets) {
    checkPacket(file);
  } else if (file.entropyCoded) {
    refuseUnless(mayBeEntropyCoded(file), "This is damaged: it is not as long as its tokens.");
  } else {
    unpack(file.payload, tokensIn(file), file.bits); // refuses other lengths
  }
}

function checkPacket(file) {
  const { count, payloads } = file.packets;
  const [[number, payload]] = payloads;
  const share = Math.floor(tokensIn(file) / count);
  refuseUnless(isReadable(share, payload.length), "This is damaged: it claims too many tokens.");
  const numbers = Array.from({ length: count }, (_, number) => number);
  const tokens = numbers.map((number) => rowLengths(file, count, number).reduce((a, b) => a + b));
  refuseUnless(tokens.every((own) => own > 0), "This is damaged: its grid cannot have these packets.");
  if (number === count) return; // parity, which has no tokens
  if (!file.entropyCoded) unpack(payload, tokens[number], file.bits);
  const most = 2 * packedSize(tokens[number], file.bits) + 8;
  const fits = payload.length <= most && isReadable(tokens[number], payload.length);
  refuseUnless(fits || !file.entropyCoded, "This is damaged: it is not as long as its tokens.");
}

/** Whether the payload is shorter than packed tokens, and long enough for their number. */
export function mayBeEntropyCoded(file) {
  const [count, size] = [tokensIn(file), file.payload.length];
  return size < packedSize(count, file.bits) && isReadable(count, size);
}

const isReadable = (count, size) => count <= 4096 + 16 * size;

const packedSize = (count, bits) => Math.ceil((count * bits) / 8);

export function pack(tokens, bits) {
  const payload = new Uint8Array(packedSize(tokens.length, bits));
  tokens.forEach((token, index) => {
    for (let bit = 0; bit < bits; bit++) {
      const place = index * bits + bit;
      payload[place >> 3] |= ((token >>> bit) & 1) << (place & 7);
    }
  });
  return payload;
}

/** The inverse of `pack`: a Uint32Array. */
export function unpack(payload, count, bits) {
  refuseUnless(
    payload.length === packedSize(count, bits),
    `This is damaged: ${count} tokens do not take ${payload.length} bytes.`,
  );
  const bitAt = (place) => (payload[place >> 3] >> (place & 7)) & 1;
  const tokens = new Uint32Array(count);
  for (let place = 0; place < count * bits; place++) {
    tokens[Math.floor(place / bits)] |= bitAt(place) << place % bits;
  }
  for (let place = count * bits; place < payload.length * 8; place++) {
    refuseUnless(!bitAt(place), "This is damaged: bits are set after its tokens.");
  }
  return tokens;
}

/** CRC-16/CCITT-FALSE. */
export function crc16(bytes) {
  let crc = 0xffff;
  for (const byte of bytes) {
    let x = (crc >> 8) ^ byte;
    x ^= x >> 4;
    crc = ((crc << 8) ^ (x << 12) ^ (x << 5) ^ x) & 0xffff;
  }
  return crc;
}

/** The number of a shape, counted along diagonals. */
function shapeNumber(rows, columns) {
  const diagonal = rows + columns - 2;
  return (diagonal * (diagonal + 1)) / 2 + rows - 1;
}

/** The inverse of `shapeNumber`. Numbers are below 2^35, so square roots are close enough. */
function shapeOf(number) {
  const diagonal = Math.floor((Math.sqrt(8 * number + 1) - 1) / 2);
  const row = number - (diagonal * (diagonal + 1)) / 2;
  return [row + 1, diagonal - row + 1];
}

/** The height of an image of this width if it has the shape of its grid. */
function likelyHeight({ width, rows, columns, tileRows, tileColumns }) {
  const [down, across] = [rows * tileRows, columns * tileColumns];
  return Math.min(Math.floor((2 * width * down + across) / (2 * across)), MOST);
}

/** 0, -1, 1, -2, 2, ... -> 0, 1, 2, 3, 4, ... */
const fold = (number) => (number >= 0 ? 2 * number : -2 * number - 1);

const unfold = (number) => (number % 2 ? -(number + 1) / 2 : number / 2);

/** A number in LEB128 at the start of up to five bytes, and its length. */
function readNumber(bytes) {
  const digits = bytes.subarray(0, bytes.findIndex((byte) => byte < 0x80) + 1);
  const number = digits.reduce((sum, byte, index) => sum + (byte & 0x7f) * 128 ** index, 0);
  const shortest = digits.length === 1 || digits.at(-1) > 0;
  refuseUnless(
    digits.length && shortest,
    "This is damaged: a number in its header does not end.",
  );
  return [number, digits.length];
}

const writeNumber = (number) =>
  number < 0x80 ? [number] : [(number % 0x80) | 0x80, ...writeNumber(Math.floor(number / 0x80))];

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** The message of a whole file. */
export function toText(bytes) {
  let text = "tok:";
  for (let place = 0; place < bytes.length; place += 3) {
    const [a, b = 0, c = 0] = bytes.subarray(place, place + 3);
    const group = (a << 16) | (b << 8) | c;
    const digits = [18, 12, 6, 0].map((shift) => DIGITS[(group >> shift) & 63]);
    text += digits.slice(0, bytes.length - place + 1).join("");
  }
  return text;
}

/** base64url without padding -> Uint8Array. */
function fromBase64(text) {
  const bytes = new Uint8Array((text.length * 3) >> 2);
  let group = 0;
  for (let place = 0; place < text.length; place++) {
    group = ((group << 6) | DIGITS.indexOf(text[place])) & 0xffff;
    const bits = (place % 4) * 6 + 6; // since the last whole group of 24
    if (place % 4) bytes[((place * 6 + 6) >> 3) - 1] = group >> (bits % 8);
  }
  return bytes;
}

/** The messages in a text, in order. */
function findMessages(text) {
  return text.split(/[Tt][Oo][Kk]:\W*(?=t)/).slice(1).map(readMessage);
}

function readMessage(part) {
  const words = part.replaceAll("+", "-").replaceAll("/", "_").match(/[\w-]+/g) ?? [];
  const joined = words.join("");
  const bytes = fromBase64(joined);
  const lengths = possibleLengths(words, joined);
  return firstFile(lengths.map((length) => bytes.subarray(0, (length * 3) >> 2)));
}

/** The first candidate that is a token file; or the error of the first one. */
function firstFile(candidates) {
  let first;
  for (const candidate of candidates) {
    try {
      return parse(candidate);
    } catch (error) {
      if (!(error instanceof TokenFileError)) throw error;
      first ??= error;
    }
  }
  return first ?? new TokenFileError("This message is cut off.");
}

/**
 * The numbers of characters that a message may have: all, or those up to the end of one of its words.
 * The last marks (- and _) of that word may belong to the text around the message.
 */
function possibleLengths(words, joined) {
  const ends = [[joined.length, joined]];
  let end = 0;
  for (const word of words.slice(0, -1)) {
    end += word.length;
    if (end <= LONGEST_MESSAGE) ends.push([end, word]);
  }
  return ends.flatMap(([end, word]) => {
    const most = word.length - word.replace(/[-_]+$/, "").length;
    const marks = new Set([0, 1, 2, most].map((number) => Math.min(number, most)));
    return [...marks].map((number) => end - number).filter((length) => length % 4 !== 1);
  });
}
