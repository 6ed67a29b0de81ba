// What the page tells of tiles, on the map and beside it: failed ones, borders with facts, progress and timing.

import { $, el, size } from "../page.js";
import { onTheme, isDark } from "../theme.js";
import { progress, onTile, record, recorded } from "./tiles.js";
import { overlay, ring, theLayer, theMap, tilesInView } from "./view.js";

const SLOW = 4000; // milliseconds
const CACHED = new Set(["hit", "stale", "browser", "shared"]);
const WORDS = { hit: "cached", miss: "run", shared: "shared", stale: "stale", browser: "browser" };
let bordersShown = false;
let putFailures = null;
let putBorders = null;

/** Begin to draw on the map. */
export function keepOverlays() {
  const map = theMap();
  putFailures = overlay("failures", [
    { id: "failed", type: "fill", paint: { "fill-color": "#c0392b", "fill-opacity": 0.14 } },
    { id: "failed-edge", type: "line", paint: { "line-color": "#c0392b", "line-width": 1.2, "line-dasharray": [3, 2] } },
    { id: "failed-sign", type: "symbol", layout: { "text-field": "failed", "text-size": 12, "symbol-placement": "point" }, paint: { "text-color": "#c0392b", "text-halo-color": "#fff", "text-halo-width": 1.4 } },
  ]);
  putBorders = overlay("tile-borders", [
    { id: "tile-edge", type: "line", paint: { "line-width": 1 } },
    {
      id: "tile-facts", type: "symbol", filter: ["==", ["geometry-type"], "Point"],
      layout: { "text-field": ["get", "facts"], "text-size": 11, "text-anchor": "top-left", "text-justify": "left", "text-offset": [0.5, 0.4], "text-allow-overlap": true, "text-max-width": 30 },
      paint: { "text-halo-width": 1.6 },
    },
  ]);
  const colours = () => {
    map.setPaintProperty("tile-edge", "line-color", isDark() ? "#7fd4e2" : "#0b6e7f");
    map.setPaintProperty("tile-facts", "text-color", isDark() ? "#dff6fa" : "#08343c");
    map.setPaintProperty("tile-facts", "text-halo-color", isDark() ? "#10181d" : "#ffffff");
  };
  onTheme(colours);
  colours();
  map.on("moveend", soon);
  map.on("idle", soon);
  onTile(soon);
  setInterval(showProgress, 500); // time passes while nothing happens
}

let planned = false;
function soon() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    draw();
    showProgress();
    showTiming();
  });
}

function draw() {
  const tiles = tilesInView();
  const failed = recorded().filter(({ problem, z }) => problem && z === tiles[0]?.z);
  putFailures(failed.map((tile) => ({ type: "Feature", properties: {}, geometry: { type: "Polygon", coordinates: [ring(tile)] } })));
  putBorders(bordersShown ? tiles.flatMap(border) : []);
}

function border(tile) {
  const outline = ring(tile);
  return [
    { type: "Feature", properties: {}, geometry: { type: "LineString", coordinates: outline } },
    { type: "Feature", properties: { facts: factsOf(tile) }, geometry: { type: "Point", coordinates: outline[0] } },
  ];
}

/** "3/4/2", and below it bytes, milliseconds and where it came from. */
function factsOf({ z, x, y }) {
  const known = record(z, x, y);
  const place = `${z}/${x}/${y}`;
  if (!known) return place;
  if (known.problem) return `${place}\nfailed`;
  return `${place}\n${size(known.bytes)} · ${Math.round(known.ms)} ms · ${WORDS[known.outcome] ?? known.outcome}`;
}

export function toggleBorders(shown = !bordersShown) {
  bordersShown = shown;
  $("borders").checked = shown;
  if (putBorders) draw();
}

// -- progress and timing

function showProgress() {
  const { asked, done, waiting } = progress();
  const bar = $("progress");
  const busy = done < asked;
  bar.hidden = !busy;
  bar.setAttribute("aria-valuemax", String(asked));
  bar.setAttribute("aria-valuenow", String(done));
  bar.firstElementChild.style.width = `${asked ? (100 * done) / asked : 0}%`;
  const hint = waiting > SLOW ? ` · waiting for ${Math.round(waiting / 1000)} s: the function takes long here` : "";
  $("loading").textContent = busy ? `${done} of ${asked} tiles${hint}` : "";
}

function quantile(sorted, part) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
}

/** p50 and p95 of the tiles in view, and how many came from a cache. */
function showTiming() {
  const known = tilesInView().map(({ z, x, y }) => record(z, x, y)).filter((one) => one && !one.problem);
  const badge = $("timing");
  badge.hidden = known.length === 0 || !theLayer();
  if (badge.hidden) return;
  const times = known.map(({ ms }) => ms).sort((a, b) => a - b);
  const cached = known.filter(({ outcome }) => CACHED.has(outcome)).length;
  const kind = cached === known.length ? "cached" : cached === 0 ? "uncached" : `${cached} of ${known.length} cached`;
  badge.replaceChildren(
    el("span", { class: `dot ${cached === known.length ? "warm" : "cold"}`, "aria-hidden": "true" }),
    `${kind} · p50 ${Math.round(quantile(times, 0.5))} ms · p95 ${Math.round(quantile(times, 0.95))} ms`,
  );
  badge.title = `${known.length} tiles in view, ${size(known.reduce((sum, { bytes }) => sum + bytes, 0))}`;
}
