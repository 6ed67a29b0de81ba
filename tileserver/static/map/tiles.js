// Every tile of the layer is asked for here, so that the page knows of each how long it took, how large it is,
// where it came from and why it failed. MapLibre sees the addresses as "udf://…".

import { ask, data, problemOf } from "../page.js";

const records = new Map(); // by "z/x/y", of the tiles asked for since the last begin()
const pending = new Map(); // since when each is waited for
const listeners = [];
let turn = 0;
let asked = 0;

/** Forget what was asked for: answers to it count no more, however late they come. */
export function begin() {
  turn += 1;
  asked = 0;
  records.clear();
  pending.clear();
  flights.clear();
  tell();
}

export function onTile(listener) {
  listeners.push(listener);
}

function tell(record = null) {
  for (const listener of listeners) listener(record);
}

/** How many tiles have been asked for, how many have come, and since when the oldest is waited for. */
export function progress() {
  const since = Math.min(...pending.values());
  return { asked, done: asked - pending.size, waiting: pending.size ? performance.now() - since : 0 };
}

export const record = (z, x, y) => records.get(`${z}/${x}/${y}`);
export const recorded = () => [...records.values()];

/** Addresses for MapLibre of the tiles that a TileJSON names, by way of this page's own origin. */
export function template(tilejson, dense) {
  const tail = tilejson.tiles[0].split("/run/tiles/")[1];
  return `udf://${location.host}${data.base}/run/tiles/${dense ? tail.replace("{y}.", "{y}@2x.") : tail}`;
}

const PLACE = /\/run\/tiles\/(\d+)\/(\d+)\/(\d+)/;
const flights = new Map(); // requests under way, by address

/** MapLibre asks for a tile once for each copy of the world: one request serves them all. */
async function load({ url }, { signal }) {
  const address = location.protocol + url.slice("udf:".length);
  if (!flights.has(address)) flights.set(address, fly(address));
  const flight = flights.get(address);
  flight.passengers += 1;
  signal.addEventListener("abort", () => {
    flight.passengers -= 1;
    if (flight.passengers === 0) flight.cancel();
  });
  const body = await flight.body;
  const vector = address.split("?")[0].endsWith(".mvt");
  if (body.byteLength === 0 && !vector) return { data: await createImageBitmap(new ImageData(1, 1)) };
  return { data: body.slice(0) }; // MapLibre hands it on to its worker
}

function fly(address) {
  const controller = new AbortController();
  const flight = { passengers: 0, cancel: () => { flights.delete(address); controller.abort(); } };
  flight.body = request(address, controller.signal).finally(() => {
    if (flights.get(address) === flight) flights.delete(address);
  });
  return flight;
}

async function request(address, signal) {
  const [, z, x, y] = PLACE.exec(address);
  const mine = turn;
  const note = { place: `${z}/${x}/${y}`, z: Number(z), x: Number(x), y: Number(y), url: address, problem: null };
  const started = performance.now();
  pending.set(note, started);
  asked += 1;
  tell();
  try {
    const response = await ask(address, { signal });
    if (!response.ok && !isEmpty(response)) throw await failure(response);
    const body = response.ok ? await response.arrayBuffer() : new ArrayBuffer(0);
    settle(mine, Object.assign(note, facts(response, body, address, started)));
    return body;
  } catch (error) {
    if (signal.aborted) {
      drop(mine, note);
    } else {
      note.problem = error.problem ?? { detail: "The server does not answer." };
      settle(mine, Object.assign(note, { ms: performance.now() - started }));
    }
    throw error;
  }
}

/** A tile with nothing in it, where canvas.toml wants that to be a 404. */
const isEmpty = (response) => response.status === 404 && data.empty === "404";

async function failure(response) {
  const problem = await problemOf(response);
  return Object.assign(new Error(String(problem.detail)), { problem: { status: response.status, ...problem } });
}

function facts(response, body, address, started) {
  const entry = performance.getEntriesByName(address, "resource").at(-1);
  const kept = entry?.transferSize === 0 && entry.startTime >= started - 1; // the browser had it
  const total = /total;dur=([\d.]+)/.exec(response.headers.get("server-timing") ?? "");
  return {
    bytes: body.byteLength,
    ms: performance.now() - started,
    server: total && !kept ? Number(total[1]) : null,
    outcome: kept ? "browser" : response.headers.get("x-cache") ?? "",
  };
}

function settle(mine, note) {
  if (mine !== turn) return;
  pending.delete(note);
  // What comes from the browser's own cache after the first time, as after a move there and back, tells nothing new.
  const before = records.get(note.place);
  if (!before || before.problem || note.outcome !== "browser") records.set(note.place, note);
  tell(note);
}

function drop(mine, note) {
  if (mine !== turn || !pending.delete(note)) return;
  asked -= 1;
  tell();
}

export function install() {
  performance.setResourceTimingBufferSize(5000);
  performance.addEventListener("resourcetimingbufferfull", () => performance.clearResourceTimings());
  maplibregl.addProtocol("udf", load);
}
