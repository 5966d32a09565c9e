"use strict";
/* The page: it sends requests to the worker and shows the answers. */

const LONGEST_EDGE = 2048; // pixels of a chosen image, because phones limit the size of a canvas
const PAUSE = 300; // milliseconds to wait after typing
const at = (id) => document.getElementById(id);

const worker = new Worker(
  URL.createObjectURL(new Blob([at("worker").textContent], { type: "text/javascript" })),
);
const pending = new Map(); // the handlers of the answers to a request, by its number
let requests = 0;
let loaded; // called when the worker has loaded the model
const loading = new Promise((resolve) => (loaded = resolve));

worker.onmessage = ({ data: { id, kind, ...value } }) => {
  const answers = pending.get(id);
  answers[kind]?.(value);
  if (kind !== "done") return;
  pending.delete(id);
  if (!pending.size) showProgress();
};
worker.onerror = () => {
  showProgress();
  at("status").textContent = "This browser cannot run the page.";
};

/** Sends a task to the worker; `answers` has a function for each kind of answer. */
function ask(task, options, answers, after = loading) {
  const id = ++requests;
  pending.set(id, { progress: ({ part, what }) => showProgress(what, part), ...answers });
  after.then(() => worker.postMessage({ id, task, ...options }));
  return id;
}

function showProgress(what = "", part) {
  const [status, bar] = [at("status"), at("progress")];
  // Screen readers announce changes, which should not be every percentage.
  if (status.textContent !== what) status.textContent = what;
  bar.hidden = !what;
  if (part === undefined) bar.removeAttribute("value");
  else bar.value = part;
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function canvasOf({ data, width, height }, label) {
  const canvas = element("canvas", { width, height, role: "img", ariaLabel: label });
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
  return canvas;
}

function figureOf(image, caption, label, ...buttons) {
  const text = element("figcaption", {}, element("span", { textContent: caption }), ...buttons);
  return element("figure", {}, canvasOf(image, `${label}: ${caption}`), text);
}

const button = (textContent, onclick) => element("button", { type: "button", textContent, onclick });

const errorOf = ({ message }) => element("p", { className: "error", textContent: message });

function download(blob, file) {
  const href = URL.createObjectURL(blob);
  element("a", { href, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

// Messages to images

let shown; // the number of the last request to decode

function decode(...contents) {
  at("images").replaceChildren();
  showProgress("Decoding");
  const show = (part) => shown === id && at("images").append(part);
  const id = ask("decode", { contents }, {
    image: ({ image, facts }) => {
      const figure = figureOf(image, facts, "Decoded image", button("Save as PNG", save));
      function save() {
        figure.querySelector("canvas").toBlob((blob) => download(blob, "image.png"));
      }
      show(figure);
    },
    error: (error) => show(errorOf(error)),
  });
  shown = id;
}

const decodeText = (text) => decode(new TextEncoder().encode(text));

let typing;
at("message").addEventListener("input", () => {
  clearTimeout(typing);
  const text = at("message").value;
  if (text.trim()) typing = setTimeout(() => decodeText(text), PAUSE);
  else at("images").replaceChildren();
});

/** An image is encoded; anything else is decoded, all files together. */
async function receive(files) {
  const image = files.find(({ type }) => type.startsWith("image/"));
  if (image) {
    choose(image);
  } else if (files.length) {
    const buffers = await Promise.all(files.map((file) => file.arrayBuffer()));
    decode(...buffers.map((buffer) => new Uint8Array(buffer)));
  }
}
at("file").addEventListener("change", ({ target }) => receive([...target.files]));

document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const text = event.dataTransfer.getData("text");
  if (text) decodeText(text);
  else receive([...event.dataTransfer.files]);
});

// Images to messages

let fileName = "image";
let chosen; // its pixels
let sent; // the number of the last request to encode
let encoded; // the bytes of the token file

async function choose(file) {
  showProgress("Reading the image");
  try {
    chosen = await pixelsOf(file);
  } catch {
    showProgress();
    at("preview").replaceChildren(errorOf({ message: "This browser cannot read that image." }));
    at("result").hidden = true;
    return;
  }
  fileName = file.name.replace(/\.[^.]*$/, "") || "image";
  encode();
}

/** The pixels of an image file, upright, over white, and its size. */
async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST_EDGE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((edge) =>
    Math.max(1, Math.round(scale * edge)),
  );
  const context = element("canvas", { width, height }).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  return { data, width, height, original: { width: bitmap.width, height: bitmap.height } };
}

function encode() {
  const [limit, unit] = [at("limit").valueAsNumber, at("unit").value];
  if (!chosen || !at("limit").reportValidity()) return;
  at("result").hidden = true;
  at("preview").replaceChildren();
  showProgress("Encoding");
  const isLast = () => sent === id;
  const id = ask("encode", { image: chosen, limit, unit }, {
    image: ({ image, facts, text, bytes }) => {
      if (!isLast()) return;
      at("preview").replaceChildren(
        figureOf(chosen, "Original", "Chosen image"),
        figureOf(image, facts, "Decoded image"),
      );
      encoded = bytes;
      at("text").value = text;
      at("characters").textContent = `${text.length} characters`;
      at("copied").textContent = "";
      at("result").hidden = false;
    },
    error: (error) => isLast() && at("preview").replaceChildren(errorOf(error)),
  });
  sent = id;
}

for (const input of ["choose", "camera"]) {
  at(input).addEventListener("change", ({ target }) => target.files[0] && choose(target.files[0]));
}
for (const input of ["limit", "unit"]) at(input).addEventListener("change", encode);

at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("text").value);
  } catch {
    at("text").select(); // the clipboard API is not available on pages from http
    document.execCommand("copy");
  }
  at("copied").textContent = "Copied";
});
at("download").addEventListener("click", () => {
  download(new Blob([encoded], { type: "application/octet-stream" }), `${fileName}.tok`);
});

// The model is at the end of the page, which may take a while to load.
showProgress("Loading the model");
document.addEventListener("DOMContentLoaded", () => {
  const model = at("model");
  const options = { model: model.textContent, name: model.dataset.name };
  const error = ({ message }) => at("images").append(errorOf({ message }));
  ask("load", options, { error, done: loaded }, Promise.resolve());
  model.remove(); // which frees its memory
});
if (location.protocol.startsWith("http")) navigator.serviceWorker?.register("offline.js");
