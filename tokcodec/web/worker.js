/** The codec in a worker, so that the page stays responsive. */

import { Codec } from "./codec.js";
import { findMessages, isTokenFile, parse, serialize, TokenFileError, tokensIn, toText } from "./format.js";

let codec;

/** What the page may ask for. `say(kind, value)` answers. */
const TASKS = {
  load({ model, name }) {
    const characters = atob(model);
    const bytes = new Uint8Array(characters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
    codec = new Codec(bytes.buffer, name);
  },

  /** Decodes all messages in a text. */
  decodeText({ text }, say) {
    decodeAll(findMessages(text), say);
  },

  /** Decodes a token file, or all messages in a text file. */
  decodeFile({ bytes }, say) {
    if (isTokenFile(bytes)) decodeAll([parse(bytes)], say);
    else decodeAll(findMessages(new TextDecoder().decode(bytes)), say);
  },

  encode({ image, limit, unit }, say) {
    const file = codec.encodeWithin(image, limit, unit, (tokens, part) => {
      say("progress", { part, what: `Encoding with ${tokens} tokens` });
    });
    const bytes = serialize(file);
    const preview = codec.decode(file, (part) => say("progress", { part, what: "Decoding" }));
    say("image", { image: preview, facts: factsOf(file), text: toText(bytes), bytes });
  },
};

/** @param {(import("./format.js").TokenFile | TokenFileError)[]} files */
function decodeAll(files, say) {
  if (!files.length) throw new TokenFileError("There is no message here. A message begins with tok:");
  files.forEach((file, index) => {
    const number = files.length > 1 ? `${index + 1} of ${files.length}` : "";
    try {
      if (file instanceof TokenFileError) throw file;
      const image = codec.decode(file, (part) => {
        say("progress", { part, what: `Decoding ${number}` });
      });
      say("image", { image, facts: factsOf(file) });
    } catch (error) {
      if (!(error instanceof TokenFileError)) throw error;
      say("error", { message: number ? `Message ${number}: ${error.message}` : error.message });
    }
  });
}

function factsOf(file) {
  const bytes = serialize(file).length;
  return `${file.width} × ${file.height} pixels, ${tokensIn(file)} tokens, ${bytes} bytes`;
}

self.onmessage = ({ data: { id, task, ...options } }) => {
  const say = (kind, value) => self.postMessage({ id, kind, ...value });
  try {
    TASKS[task](options, say);
  } catch (error) {
    say("error", { message: error.message });
  }
  say("done");
};
