// Base maps that need nobody else: countries and their names from a file of ours, and a graticule.

import { el } from "../page.js";
import { isDark, onTheme } from "../theme.js";

const KEY = "tileserver base map";
const NAMES = { auto: "As the theme", light: "Light", dark: "Dark", graticule: "Graticule", none: "None" };
const COLOURS = {
  light: { sea: "#dfe6e9", land: "#f5f4ef", border: "#c3c7c4", grid: "#cbd4d8", name: "#4b565d", halo: "#fbfbf8" },
  dark: { sea: "#12181d", land: "#1e272e", border: "#3a4751", grid: "#26323a", name: "#a9b6bf", halo: "#161d23" },
};
// Degrees between lines, for as many of them as a view can bear.
const STEPS = [30, 15, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
const LIMIT = 85.0511;

let painted = null; // the map, once its base can be painted
let chosen = NAMES[localStorage.getItem(KEY)] ? localStorage.getItem(KEY) : "auto";

const scheme = () => (["light", "dark"].includes(chosen) ? chosen : isDark() ? "dark" : "light");

/** The style that a map begins with; layers of others go above it. */
export function baseStyle(countries) {
  const empty = { type: "FeatureCollection", features: [] };
  return {
    version: 8,
    sources: {
      countries: { type: "geojson", data: countries, maxzoom: 8, tolerance: 0.2, attribution: "Natural Earth" },
      graticule: { type: "geojson", data: empty, maxzoom: 16 },
    },
    layers: [
      { id: "sea", type: "background" },
      { id: "land", type: "fill", source: "countries", filter: ["==", ["geometry-type"], "Polygon"] },
      { id: "grid", type: "line", source: "graticule" },
      { id: "borders", type: "line", source: "countries", filter: ["==", ["geometry-type"], "Polygon"], paint: { "line-width": 0.7 } },
      {
        id: "names", type: "symbol", source: "countries",
        filter: ["all", ["==", ["geometry-type"], "Point"], ["<=", ["get", "zoom"], ["zoom"]]], maxzoom: 8,
        layout: { "text-field": ["get", "name"], "text-size": 11, "text-max-width": 7, "text-letter-spacing": 0.04 },
        paint: { "text-halo-width": 1.2 },
      },
      {
        id: "degrees", type: "symbol", source: "graticule", filter: ["has", "label"],
        layout: {
          "text-field": ["get", "label"], "text-size": 10, "symbol-placement": "line", "symbol-spacing": 400,
          "text-rotation-alignment": "map", "text-padding": 6,
        },
        paint: { "text-halo-width": 1.2 },
      },
    ],
  };
}

function paint(map) {
  const { sea, land, border, grid, name, halo } = COLOURS[scheme()];
  const show = (id, shown) => map.setLayoutProperty(id, "visibility", shown ? "visible" : "none");
  const countries = !["graticule", "none"].includes(chosen);
  for (const id of ["land", "borders", "names"]) show(id, countries);
  show("grid", chosen !== "none");
  show("degrees", chosen === "graticule");
  map.setPaintProperty("sea", "background-color", countries ? sea : land);
  map.setPaintProperty("land", "fill-color", land);
  map.setPaintProperty("borders", "line-color", border);
  map.setPaintProperty("grid", "line-color", chosen === "graticule" ? border : grid);
  map.setPaintProperty("grid", "line-width", chosen === "graticule" ? 1 : 0.7);
  for (const id of ["names", "degrees"]) {
    map.setPaintProperty(id, "text-color", name);
    map.setPaintProperty(id, "text-halo-color", halo);
  }
}

/** Draw the base map as chosen and as the theme is, and its graticule as fine as the view asks for. */
export function keepBase(map) {
  let drawn = "";
  const lines = () => {
    const box = map.getBounds();
    const span = Math.max(box.getEast() - box.getWest(), 0.001);
    const step = STEPS.findLast((one) => span / one <= 9) ?? STEPS[0];
    const key = [step, Math.floor(box.getWest() / step), Math.floor(box.getSouth() / step), Math.floor(span / step)].join();
    if (key !== drawn) map.getSource("graticule").setData(graticule(box, step));
    drawn = key;
  };
  painted = map;
  paint(map);
  lines();
  map.on("moveend", lines);
  onTheme(() => paint(map));
}

/** Lines of one world only, as the map repeats it by itself. */
function graticule(box, step) {
  const features = [];
  const line = (label, ...coordinates) => features.push({ type: "Feature", properties: { label }, geometry: { type: "LineString", coordinates } });
  const [first, last] = [Math.floor(box.getWest() / step) - 1, Math.ceil(box.getEast() / step) + 1];
  for (let index = first; index <= Math.min(last, first + Math.round(360 / step) - 1); index += 1) {
    const lon = ((((index * step + 180) % 360) + 360) % 360) - 180;
    line(degrees(lon, "E", "W", step), [lon, -LIMIT], [lon, LIMIT]);
  }
  for (let index = Math.floor(box.getSouth() / step) - 1; index * step <= box.getNorth() + step; index += 1) {
    const lat = index * step;
    if (Math.abs(lat) < LIMIT) line(degrees(lat, "N", "S", step), [-180, lat], [180, lat]);
  }
  return { type: "FeatureCollection", features };
}

function degrees(value, positive, negative, step) {
  const digits = Math.max(0, Math.ceil(-Math.log10(step)));
  const written = Math.abs(value).toFixed(digits);
  return Number(written) === 0 ? "0°" : `${written}°${value < 0 ? negative : positive}`;
}

/** The choice of a base map. */
export function baseField() {
  const select = el("select", { id: "base", onchange: () => {
    chosen = select.value;
    localStorage.setItem(KEY, chosen);
    if (painted) paint(painted);
  } });
  for (const [value, label] of Object.entries(NAMES)) select.add(new Option(label, value, false, value === chosen));
  return el("div", { class: "field" }, el("label", { for: "base" }, "Base map"), el("div", { class: "entry" }, select));
}
