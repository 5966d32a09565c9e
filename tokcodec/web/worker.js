/** The codec in a worker, so that the page stays responsive. */

import { Codec } from "./codec.js";
import { filesIn, refuseUnless, serialize, TokenFileError, tokensIn, toText } from "./format.js";
import { join } from "./packets.js";

let codec;
const newest = {}; // the number of the last request of each task, which replaces earlier ones
class Replaced extends Error {}

/**
 * The tasks that the page may request. `say(kind, value)` answers; `progress(part, what)` also lets
 * other requests arrive.
 */
const TASKS = {
  load({ model, name }) {
    const characters = atob(model);
    const bytes = new Uint8Array(characters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
    codec = new Codec(bytes.buffer, name);
  },

  /** Decodes token files and all messages in texts, Uint8Arrays. */
  async decode({ contents }, say, progress) {
    const files = join(contents.flatMap(filesIn));
    refuseUnless(files.length, "There is no message here. A message begins with tok:");
    for (const [index, file] of files.entries()) {
      const number = files.length > 1 ? `${index + 1} of ${files.length}` : "";
      try {
        if (file instanceof TokenFileError) throw file;
        const image = await codec.decode(file, (part) => progress(part, `Decoding ${number}`));
        say("image", { image, facts: factsOf(file, image) });
      } catch (error) {
        if (!(error instanceof TokenFileError)) throw error;
        say("error", { message: number ? `Message ${number}: ${error.message}` : error.message });
      }
    }
  },

  async encode({ image, limit, unit }, say, progress) {
    const file = await codec.encodeWithin(image, limit, unit, (part, tokens) =>
      progress(part, `Encoding with ${tokens} tokens`),
    );
    const bytes = serialize(file);
    const preview = await codec.decode(file, (part) => progress(part, "Decoding"));
    say("image", { image: preview, facts: factsOf(file, preview), text: toText(bytes), bytes });
  },
};

function factsOf(file, { missing }) {
  const facts = [`${file.width} × ${file.height} pixels`, `${tokensIn(file)} tokens`];
  if (file.packets) {
    const { count, payloads } = file.packets;
    const numbers = [...payloads.keys()].filter((number) => number < count).sort((a, b) => a - b);
    facts.push(`packets ${numbers.map((number) => number + 1).join(", ")} of ${count}`);
    if (payloads.has(count)) facts.push("parity");
  } else {
    facts.push(`${serialize(file).length} bytes`);
  }
  if (missing) facts.push(`${missing} tokens were lost and are filled in`);
  return facts.join(", ");
}

self.onmessage = async ({ data: { id, task, ...options } }) => {
  const say = (kind, value) => self.postMessage({ id, kind, ...value });
  newest[task] = id;
  const progress = async (part, what) => {
    say("progress", { part, what });
    await new Promise((resume) => setTimeout(resume));
    if (newest[task] !== id) throw new Replaced();
  };
  try {
    await TASKS[task](options, say, progress);
  } catch (error) {
    if (!(error instanceof Replaced)) say("error", { message: error.message });
  }
  say("done");
};
