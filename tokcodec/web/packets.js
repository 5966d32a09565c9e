/** Packets: numbered parts of an image, which may arrive in any order (TOKEN_FILE.md). */

const STEPS = [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 5, 4, 4]; // from row to row, by the number of packets

/**
 * @typedef {object} Packets the packets of an image that were received
 * @property {number} count of its packets, without parity
 * @property {number} image the CRC-16 of all tokens
 * @property {Map<number, Uint8Array>} payloads by number, from 0; that of parity is `count`
 */

/** The column of the first token of a row that is in a packet. */
const firstColumn = (row, count, number) =>
  (((number - STEPS[count - 1] * row) % count) + count) % count;

/** The number of tokens of a packet in each row of a grid. */
export function rowLengths({ rows, columns }, count, number) {
  return Array.from({ length: rows }, (_, row) =>
    Math.max(0, Math.ceil((columns - firstColumn(row, count, number)) / count)),
  );
}

/** The positions of the tokens of a packet in the grid, row by row. */
export function placesOf({ rows, columns }, count, number) {
  const places = [];
  for (let row = 0; row < rows; row++) {
    for (let column = firstColumn(row, count, number); column < columns; column += count) {
      places.push(row * columns + column);
    }
  }
  return places;
}

/** Joins the packets of each image to one file; these come last. */
export function join(files) {
  const images = new Map();
  for (const file of files.filter(({ packets }) => packets)) {
    const { count, image, payloads } = file.packets;
    const key = JSON.stringify({ ...file, packets: { count, image } });
    const known = images.get(key)?.packets.payloads ?? [];
    images.set(key, { ...file, packets: { count, image, payloads: new Map([...known, ...payloads]) } });
  }
  return [...files.filter(({ packets }) => !packets), ...images.values()];
}

/** The payloads of the packets without parity, but with the one that parity restores. */
export function restored({ count, payloads }) {
  const numbers = Array.from({ length: count }, (_, number) => number);
  const lost = numbers.filter((number) => !payloads.has(number));
  const all = new Map(payloads);
  const parity = all.get(count);
  all.delete(count);
  if (lost.length === 1 && parity) {
    const framed = [...all.values()].map((own) => [own.length & 0xff, own.length >> 8, ...own]);
    const sealed = parity.map((byte, place) =>
      framed.reduce((result, own) => result ^ (own[place] ?? 0), byte),
    );
    all.set(lost[0], sealed.subarray(2, 2 + (sealed[0] | (sealed[1] << 8))));
  }
  return all;
}
