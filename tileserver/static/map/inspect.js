// What lies under the pointer: the attributes of features, the colour of a pixel and the values behind it.
//
// A colour is read from the tile that is shown. Values come from the same tile as a GeoTIFF, which whatever is a
// picture can be asked for: one run of the function for each tile that somebody clicks into, kept by the server.

import { $, ask, button, data, el } from "../page.js";
import { open } from "./geotiff.js";
import { query } from "./form.js";
import { record } from "./tiles.js";
import { overlay, theLayer, theMap, tileAt, vectorLayers } from "./view.js";

const REACH = 4; // pixels around the pointer
const MOST = 20; // features under one click
let active = true;
let popup = null;
let tip = null;
let putPicked = null;
let turn = 0;

export function keepInspecting() {
  const map = theMap();
  putPicked = overlay("picked", [
    { id: "picked-fill", type: "fill", filter: ["==", ["geometry-type"], "Polygon"], paint: { "fill-color": "#ffb000", "fill-opacity": 0.35 } },
    { id: "picked-line", type: "line", filter: ["==", ["geometry-type"], "LineString"], paint: { "line-color": "#ffb000", "line-width": 4, "line-opacity": 0.8 } },
    { id: "picked-point", type: "circle", filter: ["==", ["geometry-type"], "Point"], paint: { "circle-radius": 9, "circle-opacity": 0, "circle-stroke-color": "#ffb000", "circle-stroke-width": 3 } },
  ]);
  tip = new maplibregl.Popup({ closeButton: false, closeOnClick: false, className: "tip", offset: 12 });
  map.on("click", click);
  map.on("mousemove", hover);
  map.on("mouseout", () => tip.remove());
}

export function toggleInspect(wanted = !active) {
  active = wanted;
  $("inspect").checked = wanted;
  if (!wanted) closePopup();
}

export function closePopup() {
  popup?.remove();
  tip?.remove();
}

function featuresAt({ x, y }) {
  const layers = vectorLayers();
  if (!layers.length) return [];
  const found = theMap().queryRenderedFeatures([[x - REACH, y - REACH], [x + REACH, y + REACH]], { layers });
  const distinct = new Map(); // a feature comes once for each layer of the style that draws it
  for (const feature of found) {
    const key = JSON.stringify([feature.id ?? null, feature.properties]);
    if (!distinct.has(key)) distinct.set(key, feature);
  }
  return [...distinct.values()].slice(0, MOST);
}

function hover({ point, lngLat }) {
  const [feature] = active && !popup?.isOpen() ? featuresAt(point) : [];
  theMap().getCanvas().style.cursor = feature ? "pointer" : "";
  const entries = Object.entries(feature?.properties ?? {});
  const [name, value] = entries.find(([key]) => /^(name|title|label)$/i.test(key)) ?? entries.find(([, one]) => typeof one === "string") ?? entries[0] ?? [];
  if (name === undefined) tip.remove();
  else tip.setLngLat(lngLat).setDOMContent(el("span", {}, /^(name|title|label)$/i.test(name) ? String(value) : `${name}: ${value}`)).addTo(theMap());
}

function click(event) {
  tip.remove();
  popup?.remove();
  if (!active || !theLayer()) return;
  if (theLayer().format === "mvt") showFeatures(event, featuresAt(event.point));
  else showPixel(event);
}

function openPopup(lngLat, content) {
  popup = new maplibregl.Popup({ maxWidth: "22rem", focusAfterOpen: false }).setLngLat(lngLat).setDOMContent(content).addTo(theMap());
  popup.on("close", () => putPicked([]));
}

// -- features

function showFeatures({ lngLat }, features) {
  if (!features.length) return;
  const place = el("div", { class: "inspected" });
  const choose = (index) => {
    const feature = features[index];
    const pager = features.length > 1 ? el(
      "p", { class: "pager" },
      button("‹", () => choose((index + features.length - 1) % features.length), { "aria-label": "Previous feature" }),
      `${index + 1} of ${features.length}`,
      button("›", () => choose((index + 1) % features.length), { "aria-label": "Next feature" }),
    ) : null;
    place.replaceChildren(...[pager, attributes(feature)].filter(Boolean));
    putPicked(parts(feature));
  };
  openPopup(lngLat, place);
  choose(0);
}

function attributes({ properties, id }) {
  const table = el("table", { class: "attributes" });
  const rows = Object.entries(properties);
  if (id !== undefined && !("id" in properties)) rows.unshift(["id", id]);
  for (const [name, value] of rows) table.append(el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, String(value))));
  return rows.length ? table : el("p", {}, "This feature has no attributes.");
}

/** A feature as the tiles have it: cut at their borders, so in as many parts as tiles it touches. */
function parts(feature) {
  const same = JSON.stringify(feature.properties);
  const all = theMap().querySourceFeatures("udf", { sourceLayer: feature.sourceLayer });
  return all.filter((one) => one.id === feature.id && JSON.stringify(one.properties) === same)
    .map(({ geometry }) => ({ type: "Feature", properties: {}, geometry }));
}

// -- pixels

async function showPixel({ lngLat }) {
  const mine = ++turn;
  const at = tileAt(lngLat);
  const known = record(at.z, at.x, at.y);
  if (!known || known.problem) return;
  const rows = el("table", { class: "attributes" });
  const put = (name, ...content) => rows.append(el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, ...content)));
  put("place", `${lngLat.lat.toFixed(5)}, ${lngLat.lng.toFixed(5)}`);
  openPopup(lngLat, el("div", { class: "inspected" }, rows));
  const [colour, values] = await Promise.all([colourOf(known.url, at), valuesAt(at, lngLat)]);
  if (mine !== turn) return;
  if (colour) put("colour", swatch(colour), colour[3] === 0 ? "transparent" : hex(colour));
  values?.forEach((value, band) => put(values.length > 1 ? `band ${band + 1}` : "value", written(value)));
}

function swatch([red, green, blue, alpha]) {
  const made = el("span", { class: "swatch" });
  made.style.background = `rgb(${red} ${green} ${blue} / ${alpha / 255})`;
  return made;
}

const hex = (colour) => `#${colour.slice(0, 3).map((part) => part.toString(16).padStart(2, "0")).join("")}`;

function written(value) {
  return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(7))) : String(value);
}

async function colourOf(address, { u, v }) {
  try {
    const picture = await createImageBitmap(await (await ask(address)).blob());
    const paper = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
    paper.drawImage(picture, 0, 0);
    return [...paper.getImageData(Math.floor(u * picture.width), Math.floor(v * picture.height), 1, 1).data];
  } catch {
    return null; // an empty tile is no picture
  }
}

const opened = new Map(); // readers of the tiles last clicked into

async function valuesAt({ z, x, y }, { lng, lat }) {
  const address = `${data.base}/run/tiles/${z}/${x}/${y}.tiff${query()}`;
  if (!opened.has(address)) {
    if (opened.size >= 8) opened.delete(opened.keys().next().value);
    opened.set(address, ask(address).then(async (response) => (response.ok ? open(await response.arrayBuffer()) : null)).catch(() => null));
  }
  const at = await opened.get(address);
  return at ? at(((lng + 540) % 360) - 180, lat) : null;
}
