
"use strict";
const { choices, images } = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const rates = [...new Set(choices.filter(({ own }) => own).map(({ rate }) => rate))];
const measured = choices[0].id === "original";
const compared = choices.some((choice) => choice.point !== undefined && !choice.own);
const labels = new Map(choices.map((choice) => [choice.id, choice]));
let current = 0;
let rate = rates[rates.length >> 1];
// What may be chosen at this rate; the original at every one.
const offered = () => choices.filter((choice) => (choice.rate ?? rate) === rate);
const own = () => offered().filter((choice) => choice.own);
const sides = { left: measured ? "original" : own()[0].id, right: own().at(-1).id };

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  return Object.assign(made, attributes);
}

const file = (number, version) => `images/${number}-${version}.webp`;
const chosen = (number, id) => images[number].versions[images[number].chosen[id]];
const decimals = (value, digits) => (value === undefined ? "" : value.toFixed(digits));

// What images are sorted by: dB over the best baseline in no more bytes than the checkpoint; its
// PSNR if there are no baselines, and its bytes if there is no original.
function gain(number, { id, point }) {
  const version = chosen(number, id);
  if (!version) return -Infinity;
  if (!measured) return version.bytes;
  const baselines = choices.filter((choice) => choice.point === point && !choice.own);
  const best = Math.max(...baselines.map(({ id }) => chosen(number, id)?.scores[0] ?? -Infinity));
  return compared ? version.scores[0] - best : version.scores[0];
}

function spell(value) {
  if (value === -Infinity) return "not encoded";
  if (value === Infinity) return "no baseline";
  if (!measured) return `${value} bytes`;
  return `${compared && value >= 0 ? "+" : ""}${value.toFixed(2)} dB`;
}

function showSide(side) {
  const choice = labels.get(sides[side]);
  const version = chosen(current, choice.id);
  const image = at(side);
  const missing = at(`${side}-missing`);
  image.hidden = !version;
  missing.hidden = Boolean(version);
  missing.textContent = `${choice.label}: no file this small`;
  if (version) image.src = file(current, images[current].chosen[choice.id]);
  image.alt = `${images[current].name}: ${choice.label}`;
  const facts = !version ? ["no file this small"] : version.bytes ? [`${version.bytes} bytes`] : [];
  if (version?.scores?.length) facts.push(`${version.scores[0].toFixed(2)} dB`);
  at(`${side}-caption`).replaceChildren(element("b", choice.label), facts.join(", "));
}

// The choices of this rate that stand for a version of the image.
const standing = (index) =>
  offered().filter(({ id }) => images[current].chosen[id] === index).map(({ id }) => id);

function choose(side, index) {
  const input = Object.assign(document.createElement("input"), { type: "radio", name: side });
  const ids = standing(index);
  input.checked = ids.includes(sides[side]);
  input.setAttribute("aria-label", `${labels.get(ids[0]).label} on the ${side}`);
  input.addEventListener("change", () => {
    sides[side] = ids[0];
    showSide(side);
  });
  const label = element("label", "");
  label.append(input);
  const cell = element("td", "");
  cell.append(label);
  return cell;
}

function row(version, index) {
  const choice = labels.get(standing(index)[0]);
  const [title, ...rest] = choice.label.split(", ");
  const name = element("th", `${title} `, { scope: "row" });
  name.append(element("small", [...rest, version.settings ?? ""].filter(Boolean).join(", ")));
  const made = element("tr", "", { className: choice.own ? "own" : "" });
  made.append(choose("left", index), choose("right", index), name);
  made.append(element("td", version.bytes ?? ""));
  const scores = version.scores ?? [];
  if (measured) made.append(...[2, 3].map((n, i) => element("td", decimals(scores[i], n))));
  return made;
}

function show(number) {
  current = number;
  const { name, shape, versions, chosen: places } = images[number];
  at("name").textContent = name;
  at("stage").style.setProperty("--ratio", shape[0] / shape[1]);
  const order = versions.map((_, index) => index).filter((index) => standing(index).length);
  order.sort((a, b) => (versions[a].bytes ?? 0) - (versions[b].bytes ?? 0));
  at("versions").replaceChildren(...order.map((index) => row(versions[index], index)));
  const absent = offered().filter(({ id }) => !(id in places)).map(({ label }) => label);
  const names = [...new Set(absent)].join(", ");
  at("absent").textContent = names ? `No file this small: ${names}.` : "";
  showSide("left");
  showSide("right");
}

const thumbs = images.map(({ name }, number) => {
  const label = element("label", "", { title: name });
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "image" });
  input.addEventListener("change", () => show(number));
  const image = Object.assign(document.createElement("img"), {
    loading: "lazy", decoding: "async", alt: "", src: file(number, "small"),
  });
  label.append(input, image, element("span", name.split("/").pop()), element("span", ""));
  return label;
});

function sort() {
  const chosenOwn = labels.get(at("gain").value);
  const gains = images.map((_, number) => gain(number, chosenOwn));
  thumbs.forEach((thumb, number) => {
    thumb.lastChild.textContent = spell(gains[number]);
    thumb.lastChild.className = compared ? (gains[number] >= 0 ? "up" : "down") : "";
  });
  const sign = { given: 0, most: -1, least: 1 }[at("order").value];
  const order = images.map((_, number) => number);
  if (sign) order.sort((a, b) => sign * (gains[a] === gains[b] ? 0 : gains[a] - gains[b]));
  at("grid").replaceChildren(...order.map((number) => thumbs[number]));
  return order;
}

function pick(thumb) {
  thumb.firstChild.checked = true;
  thumb.scrollIntoView({ block: "nearest" });
  show(thumbs.indexOf(thumb));
}

function step(by) {
  const shown = [...at("grid").children];
  const place = shown.indexOf(thumbs[current]) + by;
  pick(shown[(place + shown.length) % shown.length]);
}

// Fills what depends on the rate; the checkpoint whose gain is shown stays if it can.
function offer() {
  const before = labels.get(at("gain").value)?.codec;
  at("gain").replaceChildren(...own().map(({ id, label }) => element("option", label, { value: id })));
  at("gain").value = (own().find(({ codec }) => codec === before) ?? own().at(-1)).id;
}

function changeRate() {
  rate = at("rate").value;
  for (const side of Object.keys(sides)) {
    const { codec } = labels.get(sides[side]);
    sides[side] = (offered().find((choice) => choice.codec === codec) ?? own()[0]).id;
  }
  offer();
  sort();
  show(current);
}

function cut() {
  at("stage").style.setProperty("--cut", `${at("slider").value}%`);
}

const heads = ["left", "right", "", "bytes", ...(measured ? ["PSNR", "MS-SSIM"] : [])];
at("versions-head").append(element("tr", ""));
at("versions-head").firstChild.append(...heads.map((text) => element("th", text, { scope: "col" })));
at("rate").append(...rates.map((value) => element("option", value, { value })));
at("rate").value = rate;
at("rate").parentElement.hidden = rates.length < 2;
at("gain").parentElement.firstChild.data = compared ? "Gain of " : measured ? "PSNR of " : "Bytes of ";
at("gain").addEventListener("change", sort);
at("rate").addEventListener("change", changeRate);
at("order").addEventListener("change", () => pick(thumbs[sort()[0]]));
at("slider").addEventListener("input", cut);
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
cut();
offer();
sort();
thumbs[0].firstChild.checked = true;
show(0);
