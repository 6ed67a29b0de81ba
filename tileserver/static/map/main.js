// The map page: shows a UDF as its TileJSON describes it, and draws it again when a parameter changes.
// The state is the page's address: parameters in the query, the view in the hash.

import { $, ask, button, copy, data, el, problemOf } from "../page.js";
import { themeButton, toggleTheme } from "../theme.js";
import { baseField } from "./base.js";
import { showCopies } from "./copies.js";
import { clearErrors, hasErrors, keepErrors, showErrors, showProblem } from "./errors.js";
import { focusFirst, makeForm, query, restore, showFault, unfit } from "./form.js";
import { closePopup, keepInspecting, toggleInspect } from "./inspect.js";
import { keepKeys } from "./keys.js";
import { showLegend } from "./legend.js";
import { keepOverlays, toggleBorders } from "./overlays.js";
import { showResult } from "./result.js";
import { begin, onTile } from "./tiles.js";
import { fit, makeMap, putLayer, removeLayer, show, theLayer, theMap, viewBounds } from "./view.js";

const state = document.documentElement.dataset;
let turn = 0; // of the newest redraw; older answers are dropped
let drawnQuery = location.search; // of the newest redraw
let drawnLegend = null;

state.map = "loading";

// -- drawing

async function redraw({ push = false } = {}) {
  const mine = ++turn;
  const asked = query();
  if (push && asked !== location.search) history.pushState(null, "", location.pathname + asked + location.hash);
  drawnQuery = location.search;
  state.map = "loading";
  $("message").textContent = "";
  showFault(null);
  closePopup();
  begin();
  clearErrors();
  const wrong = unfit();
  if (wrong) {
    finish(mine, { detail: wrong }, location.href);
    return;
  }
  try {
    if (data.layer) await drawLayer(mine, asked);
    else await drawResult(mine, asked);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // what fetch says when nobody answers
    finish(mine, { detail: "The server does not answer." }, location.href);
  }
}

async function drawResult(mine, asked) {
  const problem = await showResult(asked, () => mine === turn);
  if (problem) finish(mine, problem, `${data.base}${asked}`);
  else if (mine === turn) state.map = "idle";
}

async function drawLayer(mine, asked) {
  const address = `${data.base}/run/tiles.json${asked}`;
  const documents = ["tiles", "style", "legend"].map((kind) => ask(`${data.base}/run/${kind}.json${asked}`));
  const [response, styling, explaining] = await Promise.all([...documents, ready]);
  const answer = response.ok ? await response.json() : await problemOf(response);
  if (mine !== turn) return;
  if (response.status === 404) { // what it returns is nothing for a map after all
    data.layer = false;
    leaveMap();
    await drawResult(mine, asked);
    return;
  }
  if (!response.ok) {
    removeLayer();
    finish(mine, answer, address);
    return;
  }
  if (!styling.ok) {
    removeLayer();
    finish(mine, await problemOf(styling), styling.url);
    return;
  }
  const [style, legend] = [await styling.json(), explaining.ok ? await explaining.json() : null];
  if (mine !== turn) return;
  const styled = style.layers.filter(({ source }) => source === "udf");
  drawnLegend = legend;
  const first = !theLayer();
  putLayer(answer, styled);
  if (first && placeless) fit({ animate: false });
  placeless = false;
}

function finish(mine, problem, address) {
  if (mine !== turn) return;
  const detail = typeof problem.detail === "string" ? problem.detail : JSON.stringify(problem.detail);
  const atField = showFault(detail);
  // A value that was refused is told at its field; what the function's own code says has a line and a traceback.
  if (!atField || problem.traceback?.includes("\n  File")) showProblem({ ...problem, detail }, address);
  if (!atField) $("message").textContent = detail;
  state.map = "error";
}

// -- the page around it

function row(id, label, control, ...more) {
  return el("div", { class: "field" }, el("label", { for: id }, label), el("div", { class: "entry" }, control, ...more));
}

/** Show results in the place of a map. */
function leaveMap() {
  document.body.classList.add("single");
  for (const id of ["display", "legend", "style-fault", "status", "zoom-to-layer"]) if ($(id)) $(id).hidden = true;
}

function makeControls() {
  const tools = el("div", { id: "tools", role: "toolbar", "aria-label": "Page" },
    data.layer ? button("⤢", () => fit(), { class: "icon", id: "zoom-to-layer", "aria-label": "Zoom to layer", title: "Zoom to layer (F)" }) : null,
    themeButton(),
    button("?", () => $("help").showModal(), { class: "icon", "aria-label": "Keys", title: "Keys (?)" }));
  document.querySelector("main").append(tools);
  $("actions").append(button("Use it elsewhere…", showCopies, { class: "primary" }), button("Copy link", (made) => copy(location.href, made)));
  if (!data.layer) {
    leaveMap();
    return;
  }
  const opacity = el("input", { type: "range", id: "opacity", min: "0", max: "100", value: "100", oninput: () => show({ opacity: opacity.value / 100 }) });
  const toggle = (id, checked, action) => el("input", { type: "checkbox", role: "switch", id, checked, onchange: (event) => action(event.currentTarget.checked) });
  $("display").append(
    baseField(),
    row("opacity", "Opacity", opacity),
    row("visible", "Show the layer", toggle("visible", true, (visible) => show({ visible }))),
    row("inspect", "Inspect", toggle("inspect", true, toggleInspect)),
    row("borders", "Tile borders", toggle("borders", false, toggleBorders)),
  );
}

function makeKeys() {
  keepKeys({
    "/": ["To the first parameter", () => { $("panel").open = true; focusFirst(); }],
    ...(data.layer ? {
      f: ["Zoom to the layer", () => fit()],
      i: ["Inspect by click and pointer", () => toggleInspect()],
      b: ["Borders of tiles, with bytes and times", () => toggleBorders()],
    } : {}),
    t: ["Light or dark", toggleTheme],
    "?": ["This list", () => $("help").showModal()],
    Escape: ["Close what is open", closePopup],
  });
}

async function startMap() {
  const map = await makeMap();
  keepOverlays();
  keepInspecting();
  map.on("dataloading", ({ sourceId }) => { if (sourceId === "udf" && state.map === "idle") state.map = "loading"; });
  map.on("idle", settle);
  map.on("error", ({ error, sourceId }) => {
    if (sourceId !== "udf" && error?.name !== "AbortError") showProblem({ detail: error.message }, location.href);
  });
  onTile((note) => {
    if (!note?.problem) return;
    showErrors();
    map.triggerRepaint(); // of a failed tile alone MapLibre draws nothing, so it would not say that it is idle
  });
}

function settle() {
  if (!theLayer()) return; // what there is to tell then, finish() has told
  state.map = hasErrors() ? "error" : "idle";
  showLegend(drawnLegend);
  showErrors();
}

let placeless = !location.hash;
makeForm(() => redraw({ push: true }), () => (theMap() ? viewBounds() : [-180, -85, 180, 85]));
makeControls();
makeKeys();
keepErrors(() => redraw());
window.addEventListener("popstate", () => {
  if (location.search === drawnQuery) return;
  restore();
  redraw();
});
if (window.innerWidth <= 640) $("panel").open = false;
if (data.map && !data.layer) document.querySelector(".field.area").append($("map")); // only to take an area from
const ready = data.layer ? startMap() : data.map ? makeMap() : null;
redraw();
