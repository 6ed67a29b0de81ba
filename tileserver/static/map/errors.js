// What went wrong, in one panel: an entry for each different problem, with how many tiles have it.

import { $, button, copy, data, el } from "../page.js";
import { recorded } from "./tiles.js";

let closed = false;
let again = () => {};
let single = null; // a problem of the whole page: no tile has it

/** ``retry`` asks for everything once more. */
export function keepErrors(retry) {
  again = retry;
}

export function clearErrors() {
  closed = false;
  single = null;
  showErrors();
}

/** Show a problem that is not one of a tile's; ``url`` is what was asked for. */
export function showProblem(problem, url) {
  single = { problem, url };
  showErrors();
}

function grouped() {
  const groups = new Map();
  const add = (problem, url, place) => {
    const key = JSON.stringify([problem.detail, problem.lineno ?? null]);
    if (!groups.has(key)) groups.set(key, { problem, tiles: [], url });
    if (place) groups.get(key).tiles.push({ place, url });
  };
  if (single) add(single.problem, single.url, null);
  for (const { problem, url, place } of recorded()) if (problem) add(problem, url, place);
  return [...groups.values()];
}

export const hasErrors = () => single !== null || recorded().some(({ problem }) => problem);

export function showErrors() {
  const groups = grouped();
  const box = $("errors");
  box.hidden = groups.length === 0 || closed;
  if (box.hidden) {
    box.replaceChildren();
    return;
  }
  box.replaceChildren(
    el("div", { class: "bar" },
      button("Try again", () => again()),
      button("×", () => { closed = true; showErrors(); }, { class: "icon", "aria-label": "Close" })),
    ...groups.map(entry),
  );
}

function entry({ problem, tiles, url }) {
  const title = tiles.length > 1 ? `${tiles.length} tiles failed` : tiles.length ? `Tile ${tiles[0].place} failed` : "It failed";
  const where = [problem.lineno ? `line ${problem.lineno}` : "", tiles.length > 1 ? `first at ${tiles[0].place}` : ""].filter(Boolean).join(" · ");
  const address = tiles[0]?.url ?? url;
  return el("article", {},
    el("h2", {}, title),
    el("p", { class: "exception" }, String(problem.detail)),
    where ? el("p", { class: "quiet" }, where) : null,
    problem.traceback ? el("pre", { tabindex: "0", "aria-label": "Traceback" }, problem.traceback.trimEnd()) : null,
    el("p", { class: "quiet address" }, el("a", { href: address, target: "_blank", rel: "noreferrer" }, new URL(address, location.href).pathname)),
    button("Copy as JSON", (made) => copy(JSON.stringify({
      udf: data.name, ...problem, count: Math.max(tiles.length, 1), tiles: tiles.slice(0, 50).map(({ place }) => place), url: new URL(address, location.href).href,
    }, null, 2), made)));
}
