// "Use it elsewhere": addresses and lines of code for other programs, with the parameters of this moment.
// Without the revision, so that what people were sent goes on working when the function changes.

import { $, button, copy, data, el, restricted } from "../page.js";
import { query } from "./form.js";
import { theLayer, theMap, tileAt } from "./view.js";

const absolute = (tail, extra = "") => {
  const asked = query();
  return `${location.origin}${data.base}${tail}${asked}${extra && (asked ? "&" : "?") + extra}`;
};
const tiles = (extension) => absolute(`/run/tiles/{z}/{x}/{y}.${extension}`);
const name = () => data.name.replace(/\W/g, "_");

/** The parts of the list: title, then rows of a label and a text. */
function groups() {
  const layer = theLayer();
  const table = [
    ["pandas", `import pandas as pd\n\ndf = pd.read_parquet("${absolute(".parquet")}")`],
    ["DuckDB", `SELECT * FROM read_parquet('${absolute(".parquet").replaceAll("'", "''")}');`],
    ["curl", `curl -o ${name()}.csv '${absolute(".csv")}'`],
  ];
  if (!data.layer) {
    return [
      ["This page", [["Link", location.href]]],
      ["Data", [["Address", absolute("")], ["CSV", absolute(".csv")], ["Parquet", absolute(".parquet")], ["JSON", absolute(".json")]]],
      ["Code", table],
    ];
  }
  const vector = layer?.format === "mvt";
  const range = { minzoom: layer?.minzoom ?? 0, maxzoom: layer?.maxzoom ?? 22 };
  const best = tiles(vector ? "mvt" : "png");
  return [
    ["This page", [["Link to this view", location.href]]],
    ["Addresses", [
      ["Tiles as pictures (XYZ)", tiles("png")],
      ...(vector ? [["Vector tiles (MVT)", tiles("mvt")]] : []),
      ["TileJSON", absolute("/run/tiles.json")],
      ["MapLibre style", absolute("/run/style.json")],
      ...(vector ? [["Data as GeoJSON", absolute(".geojson")]] : []),
    ]],
    ["Map programs", [
      ["QGIS, for the connection dialog", best],
      ["QGIS, for scripts", `type=xyz&url=${quoted(best)}&zmin=${range.minzoom}&zmax=${range.maxzoom}`],
      ["MapLibre", maplibre(vector)],
      ["Leaflet", `L.tileLayer(${JSON.stringify(tiles("png"))}, { maxZoom: ${Math.min(range.maxzoom, 22)} }).addTo(map);`],
    ]],
    ["Code", vector ? [
      ["geopandas", `import geopandas as gpd\n\ngdf = gpd.read_parquet("${absolute(".parquet")}")`],
      ...table,
    ] : [["curl", `curl -o tile.png '${here()}'`]]],
  ];
}

/** Quoted as it has to be inside a QGIS URI, where the placeholders stay. */
const quoted = (address) => encodeURIComponent(address).replace(/%7B([xyz])%7D/g, "{$1}");

function here() {
  const { z, x, y } = theLayer() ? tileAt(theMap().getCenter()) : { z: 0, x: 0, y: 0 };
  return absolute(`/run/tiles/${z}/${x}/${y}.png`);
}

function maplibre(vector) {
  const source = `map.addSource(${JSON.stringify(data.name)}, { type: "${vector ? "vector" : "raster"}", url: ${JSON.stringify(absolute("/run/tiles.json"))}${vector ? "" : ", tileSize: 256"} });`;
  const layer = vector
    ? { id: data.name, type: "circle", source: data.name, "source-layer": "udf" }
    : { id: data.name, type: "raster", source: data.name };
  return `${source}\nmap.addLayer(${JSON.stringify(layer)});${vector ? ' // or type "fill" or "line"' : ""}`;
}

export function showCopies() {
  const rows = groups().flatMap(([title, items]) => [
    el("h3", {}, title),
    ...items.map(([label, text]) => el("div", { class: "use" },
      el("div", {}, el("span", { class: "label" }, label), el("code", {}, text)),
      button("Copy", (made) => copy(text, made), { "aria-label": `Copy: ${label}` }))),
  ]);
  const note = restricted ? el("p", { class: "quiet" }, "This canvas is not public: whoever uses these must send the header Authorization, with the passcode or an access token.") : null;
  $("uses").replaceChildren(
    el("div", { class: "bar" }, el("h2", {}, "Use it elsewhere"), button("×", () => $("uses").close(), { class: "icon", "aria-label": "Close" })),
    ...(note ? [note] : []), ...rows,
  );
  $("uses").showModal();
}
