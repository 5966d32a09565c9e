
"use strict";
const { choices, images } = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const own = choices.filter((choice) => choice.own);
const measured = choices[0].id === "original";
const compared = choices.some((choice) => choice.point !== undefined && !choice.own);
const labels = new Map(choices.map((choice) => [choice.id, choice]));
const sides = { left: choices[0].id, right: own[own.length > 2 ? 1 : own.length - 1].id };
let current = 0;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  return Object.assign(made, attributes);
}

const file = (number, version) => `images/${number}-${version}.webp`;
const chosen = (number, id) => images[number].versions[images[number].chosen[id]];
const decimals = (value, digits) => (value === undefined ? "" : value.toFixed(digits));

// What images are sorted by: dB over the best other codec in the bytes of a checkpoint; where
// there is no other, its PSNR, and its bytes where there is no original.
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
  if (value === Infinity) return "no other";
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

function choose(side, index) {
  const input = Object.assign(document.createElement("input"), { type: "radio", name: side });
  const { chosen: places } = images[current];
  const ids = Object.keys(places).filter((id) => places[id] === index);
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
  const { chosen: places } = images[current];
  const choice = labels.get(Object.keys(places).find((id) => places[id] === index));
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
  const order = versions.map((_, index) => index);
  order.sort((a, b) => (versions[a].bytes ?? 0) - (versions[b].bytes ?? 0));
  at("versions").replaceChildren(...order.map((index) => row(versions[index], index)));
  const absent = choices.filter(({ id, own }) => !own && !(id in places));
  const said = own.map(({ point, label }) => {
    const names = absent.filter((choice) => choice.point === point).map(({ label }) => label);
    return names.length ? `In the bytes of ${label} no file this small: ${names.join(", ")}. ` : "";
  });
  at("absent").textContent = said.join("");
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
  const gains = images.map((_, number) => gain(number, own[at("gain").value]));
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

function cut() {
  at("stage").style.setProperty("--cut", `${at("slider").value}%`);
}

const heads = ["left", "right", "", "bytes", ...(measured ? ["PSNR", "MS-SSIM"] : [])];
at("versions-head").append(element("tr", ""));
at("versions-head").firstChild.append(...heads.map((text) => element("th", text, { scope: "col" })));
at("gain").append(...own.map(({ label }, value) => element("option", label, { value })));
at("gain").value = own.findIndex(({ id }) => id === sides.right);
at("gain").parentElement.firstChild.data = compared ? "Gain of " : measured ? "PSNR of " : "Bytes of ";
at("gain").addEventListener("change", sort);
at("order").addEventListener("change", () => pick(thumbs[sort()[0]]));
at("slider").addEventListener("input", cut);
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
cut();
sort();
thumbs[0].firstChild.checked = true;
show(0);
