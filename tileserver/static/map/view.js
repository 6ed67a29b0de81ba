// The map itself: where it looks, the layer of the UDF on it, and what is drawn over that.

import { data } from "../page.js";
import { baseStyle, keepBase } from "./base.js";
import { install, template } from "./tiles.js";

const OVER = "over"; // what the page draws itself lies above this layer, the UDF's layers below it
const EMPTY = { type: "FeatureCollection", features: [] };
let map = null;
let layer = null; // the TileJSON of the layer that is on the map
const shown = { opacity: 1, visible: true };

export const theMap = () => map;
export const theLayer = () => layer;

/** Make the map; the page's hash says where it looks, else ``fit`` does once there is a layer. */
export async function makeMap() {
  install();
  // A worker from a blob: the page's policy lets no script of this origin run, not even as a worker.
  const script = await (await fetch(data.worker)).text();
  maplibregl.setWorkerUrl(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  map = window.map = new maplibregl.Map({
    container: "map", style: baseStyle(new URL(data.countries, location.href).href), hash: true, fadeDuration: 0, attributionControl: false,
    dragRotate: false, pitchWithRotate: false, touchPitch: false, maxPitch: 0,
    ...(data.bounds && !location.hash ? { bounds: within(data.bounds), fitBoundsOptions: fitting() } : { zoom: 1 }),
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "top-right");
  map.addControl(new maplibregl.AttributionControl({ compact: true }), "bottom-right");
  map.addControl(new maplibregl.ScaleControl(), "bottom-right");
  await new Promise((resolve) => { map.once("style.load", resolve); });
  keepBase(map);
  map.addLayer({ id: OVER, type: "background", paint: { "background-opacity": 0 } });
  return map;
}

const within = ([west, south, east, north]) => [[west, Math.max(south, -85.05)], [east, Math.min(north, 85.05)]];

function fitting() {
  const panel = document.getElementById("panel");
  const beside = window.innerWidth > 900 && panel.open ? panel.getBoundingClientRect().right : 0;
  return { padding: { top: 24, bottom: 40, right: 64, left: beside + 24 }, maxZoom: 14 };
}

export function fit({ animate = true } = {}) {
  const bounds = layer?.bounds ?? data.bounds;
  if (map && bounds) map.fitBounds(within(bounds), { ...fitting(), animate: animate && !matchMedia("(prefers-reduced-motion: reduce)").matches });
}

/** What the map shows, as [west, south, east, north]. */
export function viewBounds() {
  return map.getBounds().toArray().flat().map((degree) => Number(degree.toFixed(5)));
}

const udfLayers = () => map.getStyle().layers.filter(({ source }) => source === "udf");
export const vectorLayers = () => udfLayers().filter(({ type }) => type !== "raster").map(({ id }) => id);

export function removeLayer() {
  for (const { id } of udfLayers()) map.removeLayer(id);
  if (map.getSource("udf")) map.removeSource("udf");
  own.clear();
  layer = null;
}

/** Put a layer on the map in the place of the one before; ``styled`` are the layers of its style. */
export function putLayer(tilejson, styled) {
  removeLayer();
  layer = tilejson;
  const vector = tilejson.format === "mvt";
  const { minzoom, maxzoom, bounds } = tilejson;
  map.addSource("udf", {
    type: vector ? "vector" : "raster", bounds, minzoom, maxzoom,
    ...(vector ? {} : { tileSize: 256 }),
    tiles: [template(tilejson, !vector && window.devicePixelRatio > 1)],
    attribution: escaped(tilejson.attribution ?? ""),
  });
  const raster = { id: "udf-raster", type: "raster", source: "udf", paint: { "raster-fade-duration": 0 } };
  // Names of the base map stay legible on features, and give way to labels of the layer's own.
  for (const one of vector ? styled : [raster]) map.addLayer(one, vector && one.type !== "symbol" ? "names" : OVER);
  applyShown();
}

function escaped(written) {
  const element = document.createElement("span");
  element.textContent = written;
  return element.innerHTML;
}

const OPACITIES = {
  fill: ["fill-opacity"], line: ["line-opacity"], raster: ["raster-opacity"],
  circle: ["circle-opacity", "circle-stroke-opacity"], symbol: ["text-opacity", "icon-opacity"],
};

/** How the layer is shown, beside its style: opacity from 0 to 1, and whether at all. */
export function show(changes) {
  Object.assign(shown, changes);
  if (layer) applyShown();
}

const own = new Map(); // what the style itself says, by layer and property

function applyShown() {
  for (const { id, type, paint = {}, layout = {} } of udfLayers()) {
    const kept = (property, value) => {
      const key = `${id} ${property}`;
      if (!own.has(key)) own.set(key, value);
      return own.get(key);
    };
    const usual = kept("visibility", layout.visibility ?? "visible");
    map.setLayoutProperty(id, "visibility", shown.visible ? usual : "none");
    for (const property of OPACITIES[type] ?? []) map.setPaintProperty(id, property, faded(kept(property, paint[property] ?? 1)));
  }
}

/** An opacity of a style made lower; "zoom" may only stand outermost, so there the outputs are. */
function faded(opacity) {
  if (typeof opacity === "number" || shown.opacity === 1) return typeof opacity === "number" ? opacity * shown.opacity : opacity;
  const [operator] = opacity;
  const from = { interpolate: 4, step: 2 }[operator]; // where the first output stands; they alternate with inputs
  if (from === undefined) return ["*", shown.opacity, opacity];
  return opacity.map((part, index) => (index >= from && (index - from) % 2 === 0 ? faded(part) : part));
}

/** The zoom of the tiles that the view is made of. */
export function tileZoom() {
  const wanted = layer.format === "mvt" ? Math.floor(map.getZoom()) : Math.round(map.getZoom() + 1);
  return Math.min(Math.max(wanted, layer.minzoom), layer.maxzoom);
}

/** Columns and rows of the tiles in view. */
export function tilesInView() {
  if (!layer) return [];
  const z = tileZoom();
  const count = 2 ** z;
  const box = map.getBounds();
  const [west, south, east, north] = [
    Math.max(box.getWest(), layer.bounds[0]), Math.max(box.getSouth(), layer.bounds[1]),
    Math.min(box.getEast(), layer.bounds[2]), Math.min(box.getNorth(), layer.bounds[3]),
  ];
  const column = (lon) => Math.min(Math.max(Math.floor(((lon + 180) / 360) * count), 0), count - 1);
  const row = (lat) => Math.min(Math.max(Math.floor(unit(lat) * count), 0), count - 1);
  const found = [];
  for (let x = column(west); x <= column(east - 1e-9); x += 1) {
    for (let y = row(north - 1e-9); y <= row(south + 1e-9) && found.length < 400; y += 1) found.push({ z, x, y });
  }
  return west < east && south < north ? found : [];
}

function unit(lat) {
  const sine = Math.sin((Math.min(Math.max(lat, -85.0511), 85.0511) * Math.PI) / 180);
  return 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI);
}

/** Where in which tile a place lies: z, x, y, and the parts u and v of its width and height. */
export function tileAt({ lng, lat }) {
  const z = tileZoom();
  const count = 2 ** z;
  const [column, row] = [((((lng + 180) % 360) + 360) % 360 / 360) * count, unit(lat) * count];
  return { z, x: Math.floor(column), y: Math.floor(row), u: column % 1, v: row % 1 };
}

/** The outline of a tile in degrees. */
export function ring({ z, x, y }) {
  const count = 2 ** z;
  const lon = (column) => (column / count) * 360 - 180;
  const lat = (row) => (Math.atan(Math.sinh(Math.PI * (1 - (2 * row) / count))) * 180) / Math.PI;
  const [west, east, north, south] = [lon(x), lon(x + 1), lat(y), lat(y + 1)];
  return [[west, north], [east, north], [east, south], [west, south], [west, north]];
}

/** A set of shapes that the page draws over the layer; gives what changes them. */
export function overlay(name, layers) {
  map.addSource(name, { type: "geojson", data: EMPTY, tolerance: 0, maxzoom: 22 });
  for (const one of layers) map.addLayer({ source: name, ...one });
  let drawn = "[]";
  return (features) => {
    const wanted = JSON.stringify(features);
    if (wanted !== drawn) map.getSource(name).setData({ type: "FeatureCollection", features });
    drawn = wanted;
  };
}
