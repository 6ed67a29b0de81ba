// What a UDF that is no map layer returns: a table to sort, a page or a chart, a picture, a value, or a file.
// HTML of a UDF stands in a frame of an origin of its own, which can't script this page.

import { $, ask, data, el, problemOf, size } from "../page.js";

const ROWS = 200; // shown at first, and more each time somebody asks
const DOWNLOADS = { csv: "CSV", parquet: "Parquet", json: "JSON", xlsx: "Excel" };

/** Ask for the result and show it; the problem where there is one. ``isNewest`` says whether it is still wanted. */
export async function showResult(query, isNewest) {
  const response = await ask(`${data.base}${query}`, { headers: { Accept: "*/*" } });
  if (!response.ok) {
    const problem = await problemOf(response);
    return isNewest() ? problem : null;
  }
  const type = (response.headers.get("content-type") ?? "").split(";")[0];
  const content = await shown(response, type, query);
  if (isNewest()) {
    $("result").replaceChildren(content);
    $("result").hidden = false;
    if (content.settled) await content.settled;
  }
  return null;
}

async function shown(response, type, query) {
  if (type === "text/html" || type === "image/svg+xml") return framed(await response.text());
  if (type.startsWith("image/")) {
    return el("img", { src: URL.createObjectURL(await response.blob()), alt: `Result of ${data.name}` });
  }
  if (type === "application/json" || type === "application/geo+json") return value(await response.json(), query);
  const body = await response.blob();
  if (body.size === 0) return el("p", { class: "quiet" }, "The function returned nothing.");
  return el("p", {}, el("a", { href: URL.createObjectURL(body), download: data.name }, `Download the result (${type}, ${size(body.size)})`));
}

/** The frame asks for its content once it is there. */
function framed(html) {
  const frame = el("iframe", { title: `Result of ${data.name}`, sandbox: "allow-scripts allow-forms allow-popups allow-downloads", src: data.frame });
  frame.settled = new Promise((resolve) => {
    window.addEventListener("message", function ready({ source }) {
      if (source !== frame.contentWindow) return;
      window.removeEventListener("message", ready);
      frame.contentWindow.postMessage(html, "*");
      resolve();
    });
  });
  return frame;
}

function value(found, query) {
  const rows = Array.isArray(found) && found.length && found.every((row) => row && typeof row === "object" && !Array.isArray(row));
  return rows ? table(found, query) : el("pre", { class: "value", tabindex: "0", "aria-label": "Result" }, JSON.stringify(found, null, 2));
}

// -- tables

function table(rows, query) {
  const columns = [...new Set(rows.slice(0, 1000).flatMap((row) => Object.keys(row)))];
  const numeric = new Set(columns.filter((column) => rows.every((row) => row[column] === null || row[column] === undefined || typeof row[column] === "number")));
  let sorted = { column: null, down: false };
  let limit = ROWS;
  const body = el("tbody");
  const heads = columns.map((column) => el("th", { scope: "col", class: numeric.has(column) ? "number" : "" }, el("button", { type: "button", onclick: () => sort(column) }, column)));
  const more = el("button", { type: "button", class: "more", onclick: () => { limit += 5 * ROWS; fill(); } });

  function sort(column) {
    sorted = { column, down: sorted.column === column && !sorted.down };
    for (const head of heads) {
      const mine = head.textContent === column;
      if (mine) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    fill();
  }

  function fill() {
    const { column, down } = sorted;
    const ordered = column === null ? rows : [...rows].sort((a, b) => compare(a[column], b[column], down));
    body.replaceChildren(...ordered.slice(0, limit).map((row) => el("tr", {}, ...columns.map((name) => el("td", { class: numeric.has(name) ? "number" : "" }, written(row[name]))))));
    more.hidden = limit >= rows.length;
    more.textContent = `Show more of ${rows.length} rows`;
  }

  fill();
  const links = Object.entries(DOWNLOADS).map(([extension, label]) => el("a", { href: `${data.base}.${extension}${query}`, download: `${data.name}.${extension}`, onclick: save }, label));
  return el("div", { class: "table" },
    el("p", { class: "downloads" }, el("span", { class: "quiet" }, `${rows.length} rows, ${columns.length} columns`), ...links),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)),
    more);
}

/** Missing values last, numbers by size, text as people order it. */
function compare(a, b, down) {
  const [left, right] = [a ?? null, b ?? null];
  if (left === null || right === null) return (left === null) - (right === null);
  const order = typeof left === "number" && typeof right === "number" ? left - right : String(left).localeCompare(String(right), undefined, { numeric: true });
  return down ? -order : order;
}

function written(cell) {
  if (cell === null || cell === undefined) return "";
  return typeof cell === "object" ? JSON.stringify(cell) : String(cell);
}

/** A download of a canvas that is not public needs a header, which a link can't send. */
async function save(event) {
  const { href, download } = event.currentTarget;
  event.preventDefault();
  const body = await (await ask(href)).blob();
  const link = el("a", { href: URL.createObjectURL(body), download });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
