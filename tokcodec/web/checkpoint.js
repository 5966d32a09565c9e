/** A checkpoint: a safetensors file with the config of a model in its metadata. */

const ARRAYS = {
  F32: Float32Array,
  F16: Uint16Array,
  I8: Int8Array,
  U8: Uint8Array,
  I16: Int16Array,
  U16: Uint16Array,
};
// The defaults, which are left out of the config in the file.
const PREPROCESSING = {
  image_size: 256,
  pixel_scale: 1,
  mean: [0.5, 0.5, 0.5],
  std: [0.5, 0.5, 0.5],
  resize: "bicubic",
};

/**
 * @param {ArrayBuffer} buffer the file
 * @returns {{config: object, modelId: string, tensors: Object<string, Tensor>}}
 *
 * @typedef {object} Tensor
 * @property {ArrayLike<number>} data
 * @property {number[]} shape
 */
export function readCheckpoint(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { __metadata__: metadata, ...entries } = header;
  const values = halfValues();
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(entries)) {
    const [start, end] = offsets.map((offset) => 8 + length + offset);
    const data = new ARRAYS[dtype](buffer.slice(start, end)); // a copy, because offsets may be odd
    tensors[name] = { data: dtype === "F16" ? fromHalves(data, values) : data, shape };
  }
  const config = JSON.parse(metadata["tokcodec.config"]);
  return {
    config: {
      default_fit: "stretch",
      rounding: "nearest",
      ...config,
      preprocessing: { ...PREPROCESSING, ...config.preprocessing },
    },
    modelId: metadata["tokcodec.model_id"],
    tensors,
  };
}

/** The tensors whose names begin with a prefix, under the rest of their names. */
export function below(prefix, tensors) {
  const entries = Object.entries(tensors).filter(([name]) => name.startsWith(prefix));
  return Object.fromEntries(entries.map(([name, tensor]) => [name.slice(prefix.length), tensor]));
}

function fromHalves(halves, values) {
  const result = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) result[i] = values[halves[i]]; // `from` takes seconds
  return result;
}

/** The value of each 16-bit pattern as float16. */
function halfValues() {
  return Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = (bits & 1023) / 1024;
    return sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14);
  });
}
