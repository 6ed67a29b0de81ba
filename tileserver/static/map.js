// The map page: shows a UDF as its TileJSON describes it, and draws it again when a parameter changes.
// The state is the page's address: parameters in the query, the view in the hash.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const page = document.documentElement.dataset;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const failures = new Map();
let map = null;
let layer = null;
let turn = 0; // of the newest redraw; older answers are dropped

page.map = "loading";

// What opens a canvas that is not public, as the page that asked for it has kept it (see lock.js).
const share = location.pathname.split("/").find((part) => /^(fc_|fsh_|UDF_|[0-9a-f]{64})/.test(part));
const secret = sessionStorage.getItem(`tileserver ${share}`);
const headers = secret ? { Authorization: secret } : {};

// -- parameters

const fields = new Map(data.parameters.map((parameter) => [parameter.name, makeField(parameter)]));

function makeField(parameter) {
  const label = document.createElement("label");
  label.textContent = parameter.name;
  const input = document.createElement(parameter.choices.length ? "select" : "input");
  for (const choice of parameter.choices) input.add(new Option(String(choice)));
  if (parameter.type === "bool") input.type = "checkbox";
  else if (parameter.type === "int" || parameter.type === "float") input.type = "number";
  else if (parameter.type === "date") input.type = "date";
  if (input.type === "number") input.step = parameter.type === "int" ? "1" : "any";
  input.name = parameter.name;
  input.required = parameter.required;
  const asked = new URLSearchParams(location.search).get(parameter.name);
  setValue(input, asked ?? text(parameter.default));
  input.addEventListener("input", () => later(input.type === "checkbox" ? 0 : 300));
  label.append(input);
  $("parameters").append(label);
  return { input, parameter };
}

function text(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function setValue(input, value) {
  if (input.type === "checkbox") input.checked = !["", "false"].includes(value.toLowerCase());
  else input.value = value;
}

function value({ input }) {
  return input.type === "checkbox" ? String(input.checked) : input.value;
}

/** The parameters that differ from their defaults, and what else the page was asked with. */
function query() {
  const asked = new URLSearchParams(location.search);
  for (const [name, field] of fields) {
    const now = value(field);
    const usual = field.input.type === "checkbox" ? String(Boolean(field.parameter.default)) : text(field.parameter.default);
    if (now === usual || (now === "" && !field.parameter.required)) asked.delete(name);
    else asked.set(name, now);
  }
  const written = asked.toString();
  return written ? `?${written}` : "";
}

let timer = 0;
function later(delay) {
  clearTimeout(timer);
  timer = setTimeout(redraw, delay);
}

$("parameters").addEventListener("submit", (event) => { event.preventDefault(); redraw(); });

// -- what the UDF is

async function redraw() {
  const mine = ++turn;
  const asked = query();
  history.replaceState(null, "", location.pathname + asked + location.hash);
  page.map = "loading";
  $("message").textContent = "";
  for (const { input } of fields.values()) input.removeAttribute("aria-invalid");
  if (!data.layer) return showResult(asked);
  let response;
  try {
    response = await fetch(`${data.base}/run/tiles.json${asked}`, { headers });
  } catch {
    return finish(mine, "The server does not answer.");
  }
  const answer = await response.json();
  if (mine !== turn) return;
  if (response.ok) show(answer);
  else finish(mine, answer.detail);
}

function finish(mine, problem) {
  if (mine !== turn) return;
  $("message").textContent = problem;
  for (const [name, { input }] of fields) {
    if (new RegExp(`\\b${name}\\b`).test(problem)) input.setAttribute("aria-invalid", "true");
  }
  page.map = "error";
}

/** A UDF that is no layer: its result as a page of its own, which can't script this one. */
function showResult(asked) {
  const frame = $("result");
  const separator = asked ? "&" : "?";
  frame.onload = () => { page.map = "idle"; };
  const address = `${data.base}${asked}${separator}format=html`;
  if (secret) fetch(address, { headers }).then((got) => got.text()).then((html) => { frame.srcdoc = html; });
  else frame.src = address;
  frame.hidden = false;
  $("map").hidden = true;
}

// -- the map

const colours = () => dark.matches
  ? { ground: "#1a2228", grid: "#2f3c45" }
  : { ground: "#e9edef", grid: "#d3dadd" };

function show(tilejson) {
  layer = tilejson;
  failures.clear();
  showFailures();
  if (map) {
    putLayer();
    return;
  }
  $("map").hidden = false;
  makeMap();
}

async function makeMap() {
  // A worker from a blob: the page's policy lets no script of this origin run, not even as a worker.
  const script = await (await fetch(data.worker)).text();
  maplibregl.setWorkerUrl(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  const [west, south, east, north] = layer.bounds;
  const limit = 85.05;
  map = window.map = new maplibregl.Map({
    container: "map",
    style: baseStyle(),
    bounds: [[west, Math.max(south, -limit)], [east, Math.min(north, limit)]],
    fitBoundsOptions: { padding: padding(), maxZoom: 14 },
    hash: true,
    fadeDuration: 0,
    attributionControl: false,
    transformRequest: (url) => ({ url, headers: url.startsWith(`${location.origin}/`) ? headers : {} }),
  });
  map.addControl(new maplibregl.NavigationControl({ visualizePitch: false }), "top-right");
  map.addControl(new maplibregl.ScaleControl(), "bottom-right");
  map.addControl(new maplibregl.AttributionControl({ compact: true }), "bottom-right");
  map.on("load", putLayer);
  map.on("dataloading", () => { page.map = "loading"; });
  map.on("idle", () => { page.map = failures.size ? "error" : "idle"; });
  map.on("error", (event) => { noteFailure(event); });
  map.on("click", inspect);
  dark.addEventListener("change", () => { map.setStyle(baseStyle()); map.once("styledata", putLayer); });
}

/** Room for the panel, where it doesn't cover the map's own width. */
function padding() {
  const wide = window.innerWidth > 800;
  return { top: 30, bottom: 40, right: 40, left: wide ? 350 : 30 };
}

function baseStyle() {
  const { ground, grid } = colours();
  return {
    version: 8,
    sources: { graticule: { type: "geojson", data: graticule() } },
    layers: [
      { id: "ground", type: "background", paint: { "background-color": ground } },
      { id: "graticule", type: "line", source: "graticule", paint: { "line-color": grid, "line-width": 1 } },
    ],
  };
}

function graticule() {
  const lines = [];
  for (let lon = -180; lon <= 180; lon += 15) lines.push([[lon, -85], [lon, 85]]);
  for (let lat = -75; lat <= 75; lat += 15) lines.push([[-180, lat], [180, lat]]);
  return { type: "MultiLineString", coordinates: lines };
}

function putLayer() {
  for (const { id, source } of map.getStyle().layers) if (source === "udf") map.removeLayer(id);
  if (map.getSource("udf")) map.removeSource("udf");
  const common = {
    tiles: layer.tiles, bounds: layer.bounds, minzoom: layer.minzoom, maxzoom: layer.maxzoom,
    attribution: escapeHtml(layer.attribution ?? ""),
  };
  if (layer.format === "mvt") {
    map.addSource("udf", { type: "vector", ...common });
    for (const one of data.style.layers) map.addLayer(one);
  } else {
    const sharp = window.devicePixelRatio > 1;
    const tiles = sharp ? layer.tiles.map((url) => url.replace("{y}.", "{y}@2x.")) : layer.tiles;
    map.addSource("udf", { type: "raster", tileSize: 256, ...common, tiles });
    map.addLayer({ id: "udf-raster", type: "raster", source: "udf", paint: { "raster-fade-duration": 0 } });
  }
}

// -- looking at features

let popup = null;

function inspect(event) {
  popup?.remove();
  const layers = map.getStyle().layers.filter(({ source }) => source === "udf").map(({ id }) => id);
  if (layer.format !== "mvt" || !layers.length) return;
  const reach = [[event.point.x - 4, event.point.y - 4], [event.point.x + 4, event.point.y + 4]];
  const [feature] = map.queryRenderedFeatures(reach, { layers });
  if (!feature) return;
  const table = document.createElement("table");
  table.className = "attributes";
  for (const [name, content] of Object.entries(feature.properties)) {
    const row = table.insertRow();
    const head = document.createElement("th");
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = content;
  }
  popup = new maplibregl.Popup({ maxWidth: "22rem" }).setLngLat(event.lngLat).setDOMContent(table).addTo(map);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") popup?.remove();
});

// -- failures

async function noteFailure({ error, tile }) {
  const place = tile?.tileID?.canonical;
  const body = error?.body ? await error.body.text() : "";
  let detail = { detail: error?.message ?? "something went wrong" };
  try { detail = JSON.parse(body); } catch { /* not ours: the message has to do */ }
  const message = String(detail.detail);
  const known = failures.get(message) ?? { count: 0, trace: detail.traceback };
  known.count += 1;
  if (place) known.place = `${place.z}/${place.x}/${place.y}`;
  failures.set(message, known);
  showFailures();
}

function showFailures() {
  const box = $("errors");
  box.replaceChildren();
  box.hidden = failures.size === 0;
  for (const [message, { count, place, trace }] of failures) {
    const title = document.createElement("strong");
    title.textContent = count > 1 ? `${count} tiles failed` : place ? `Tile ${place} failed` : "Failed";
    const body = document.createElement("pre");
    body.textContent = trace || message;
    box.append(title, body);
  }
  if (failures.size) box.append(button("Try again", () => redraw()));
}

// -- addresses to take along

function button(label, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = label;
  made.addEventListener("click", () => action(made));
  return made;
}

async function copy(made, address) {
  try {
    await navigator.clipboard.writeText(address);
  } catch {
    const area = document.createElement("textarea");
    area.value = address;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = made.textContent;
  made.textContent = "Copied";
  setTimeout(() => { made.textContent = label; }, 1200);
}

/** Without the revision: an address that is sent to people goes on working when the function changes. */
function tilesAddress() {
  const extension = layer?.format === "mvt" ? "mvt" : "png";
  return `${location.origin}${data.base}/run/tiles/{z}/{x}/{y}.${extension}${query()}`;
}

$("copies").append(
  ...(data.layer ? [
    button("Copy tile URL", (made) => copy(made, tilesAddress())),
    button("Copy TileJSON URL", (made) => copy(made, `${location.origin}${data.base}/run/tiles.json${query()}`)),
  ] : [button("Copy URL", (made) => copy(made, `${location.origin}${data.base}${query()}`))]),
);

function escapeHtml(written) {
  const element = document.createElement("span");
  element.textContent = written;
  return element.innerHTML;
}

if (window.innerWidth <= 640) $("panel").open = false;
redraw();
