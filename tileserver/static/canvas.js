// The canvas page: a search, and for each UDF that comes into view what it returns, small.
// A layer shows at most four tiles of its bounds, anything else the first kilobytes of its result.

import { $, ask, data, el, problemOf } from "./page.js";
import { themeButton } from "./theme.js";

const AT_ONCE = 2; // cards whose UDFs run at the same time
const PREVIEW = 16_384; // bytes of a table
const PICTURE = 2_000_000; // bytes of a picture
const ROWS = 5;

// -- search

const cards = [...document.querySelectorAll(".cards article")];
const find = $("find");

find?.addEventListener("input", () => {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const card of cards) {
    const text = card.textContent.toLowerCase();
    card.hidden = !words.every((word) => text.includes(word));
  }
  $("nothing").hidden = cards.some(({ hidden }) => !hidden);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input")) return;
  event.preventDefault();
  find?.focus();
});

document.querySelector(".top")?.append(themeButton());

// -- thumbnails

const waiting = [];
let running = 0;

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    waiting.push(target);
  }
  next();
}, { rootMargin: "200px" });

for (const card of cards) if (card.dataset.udf) seen.observe(card);

async function next() {
  if (running >= AT_ONCE || !waiting.length) return;
  running += 1;
  const card = waiting.shift();
  try {
    await preview(card);
  } catch {
    tell(card, "The server does not answer.");
  }
  card.dataset.thumbnail = "done";
  running -= 1;
  next();
}

async function preview(card) {
  const { layer, ready } = data.udfs[card.dataset.udf];
  if (!ready) {
    kind(card, "");
    tell(card, "It needs parameters: open it to give them.");
    return;
  }
  const base = `${data.base}/${encodeURIComponent(card.dataset.udf)}`;
  if (layer && (await layerPreview(card, base))) return;
  await resultPreview(card, base);
}

function kind(card, word) {
  const badge = card.querySelector(".kind");
  badge.textContent = word;
  badge.hidden = !word;
}

function tell(card, text, manner = "") {
  card.querySelector(".thumbnail").replaceChildren(el("span", { class: `none ${manner}` }, text));
}

async function layerPreview(card, base) {
  const response = await ask(`${base}/run/tiles.json`);
  if (response.status === 404) return false; // it returned nothing for a map
  if (!response.ok) {
    tell(card, String((await problemOf(response)).detail), "reason");
    return true;
  }
  const layer = await response.json();
  kind(card, layer.format === "mvt" ? "vector" : "raster");
  await drawTiles(card, base, layer);
  return true;
}

/** The layer's bounds in the middle of the card, of as few tiles as cover them well. */
async function drawTiles(card, base, { bounds, minzoom, maxzoom, tiles }) {
  const version = new URL(tiles[0]).searchParams.get("_v") ?? "";
  const [west, south, east, north] = bounds.map((degree, index) => (index % 2 ? row(degree) : (degree + 180) / 360));
  const span = Math.max(east - west, south - north, 1e-9); // of the world's width
  const z = Math.min(Math.max(span > 0.6 ? 1 : Math.floor(Math.log2(1 / span)), minzoom), maxzoom);
  const count = 2 ** z;
  const cell = (part) => Math.min(Math.max(Math.floor(part * count), 0), count - 1);
  const [left, top] = [cell(west), cell(north)];
  const [columns, rows] = [Math.min(cell(east - 1e-9) - left + 1, 2), Math.min(cell(south - 1e-9) - top + 1, 2)];
  const sheet = new OffscreenCanvas(256 * columns, 256 * rows).getContext("2d");
  let failed = null;
  await Promise.all(Array.from({ length: columns * rows }, async (_, index) => {
    const [x, y] = [index % columns, Math.floor(index / columns)];
    const response = await ask(`${base}/run/tiles/${z}/${left + x}/${top + y}.png?_v=${encodeURIComponent(version)}`);
    if (!response.ok && response.status !== 404) failed = await problemOf(response);
    if (response.status === 200) sheet.drawImage(await createImageBitmap(await response.blob()), 256 * x, 256 * y, 256, 256);
  }));
  const canvas = el("canvas", { width: 576, height: 270, role: "img", "aria-label": "Preview" });
  // The bounds in the middle, in pixels of the sheet; the whole world is cut to the card, anything else fits in.
  const [wide, high] = [(east - west) * count * 256, (south - north) * count * 256];
  const scale = span > 0.6 ? canvas.width / wide : Math.min((0.94 * canvas.width) / wide, (0.94 * canvas.height) / high, 4);
  const at = (middle, first, side) => side / 2 - (middle * count - first) * 256 * scale;
  canvas.getContext("2d").drawImage(
    sheet.canvas, at((west + east) / 2, left, canvas.width), at((north + south) / 2, top, canvas.height),
    sheet.canvas.width * scale, sheet.canvas.height * scale,
  );
  if (failed) tell(card, String(failed.detail), "reason");
  else card.querySelector(".thumbnail").replaceChildren(canvas);
}

function row(lat) {
  const sine = Math.sin((Math.min(Math.max(lat, -85.0511), 85.0511) * Math.PI) / 180);
  return 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI);
}

// -- results

async function resultPreview(card, base) {
  const response = await ask(base, { headers: { Accept: "*/*", Range: `bytes=0-${PREVIEW - 1}` } });
  if (response.status === 416) { // no part of an empty body is there
    kind(card, "value");
    tell(card, "Nothing");
    return;
  }
  if (!response.ok) {
    tell(card, String((await problemOf(response)).detail), "reason");
    return;
  }
  const type = (response.headers.get("content-type") ?? "").split(";")[0];
  const [, last, all] = /-(\d+)\/(\d+)/.exec(response.headers.get("content-range") ?? "") ?? [];
  const whole = response.status === 200 || Number(last) + 1 === Number(all);
  const place = card.querySelector(".thumbnail");
  if (type === "text/html") {
    kind(card, "chart");
    tell(card, "A page or chart");
    if (whole) place.replaceChildren(framed(await response.text()));
  } else if (type.startsWith("image/")) {
    kind(card, "picture");
    tell(card, "A picture");
    if (whole || Number(all) <= PICTURE) place.replaceChildren(await picture(base));
  } else if (type === "application/json") {
    const text = await response.text();
    const rows = firstRows(text, whole);
    kind(card, rows ? "table" : "value");
    place.replaceChildren(rows ? table(rows) : el("pre", {}, pretty(text, whole)));
  } else {
    kind(card, "data");
    tell(card, type || "Nothing");
  }
}

/** The first objects of a JSON array of them, of which the end may be missing. */
function firstRows(text, whole) {
  if (!/^\s*\[\s*\{/.test(text)) return null;
  const tries = [whole ? text : null];
  for (let at = text.indexOf("}"); at >= 0 && tries.length < 400; at = text.indexOf("}", at + 1)) tries.push(`${text.slice(0, at + 1)}]`);
  for (const one of [tries[0], ...tries.slice(1).reverse()].filter(Boolean)) {
    try {
      return JSON.parse(one).slice(0, ROWS);
    } catch { /* cut inside of a row */ }
  }
  return null;
}

function table(rows) {
  const columns = Object.keys(rows[0]).slice(0, 6);
  return el("table", {},
    el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows.map((one) => el("tr", {}, ...columns.map((name) => el("td", {}, one[name] === null ? "" : String(one[name])))))));
}

function pretty(text, whole) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2).slice(0, 600);
  } catch {
    return `${text.slice(0, 300)}${whole ? "" : "…"}`;
  }
}

async function picture(base) {
  const body = await (await ask(base, { headers: { Accept: "*/*" } })).blob();
  return el("img", { src: URL.createObjectURL(body), alt: "" });
}

function framed(html) {
  const frame = el("iframe", { title: "Preview", sandbox: "allow-scripts", src: data.frame, tabindex: "-1", "aria-hidden": "true" });
  window.addEventListener("message", ({ source }) => {
    if (source === frame.contentWindow) frame.contentWindow.postMessage(html, "*");
  });
  return frame;
}
