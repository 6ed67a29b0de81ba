// What the colours mean: items of the legend document.

import { $, el } from "../page.js";

/** Show a legend, ``{title, unit, items}``, where there is something to say. */
export function showLegend(legend) {
  const items = legend?.items ?? [];
  const box = $("legend");
  box.hidden = items.length === 0;
  box.replaceChildren(
    el("h2", {}, legend?.title || "Legend"),
    ...items.map((item) => (item.kind === "gradient" ? gradient(item, legend) : classed(item))),
  );
}

function gradient({ label, unit, stops }, legend) {
  const bar = el("div", { class: "gradient", role: "img", "aria-label": `${label ?? ""} from ${stops[0][0]} to ${stops.at(-1)[0]}` });
  const [low, high] = [stops[0][0], stops.at(-1)[0]];
  const parts = stops.map(([value, colour]) => `${colour} ${high > low ? 100 * ((value - low) / (high - low)) : 0}%`);
  bar.style.background = `linear-gradient(to right, ${parts.join(", ")})`;
  const units = unit ?? legend.unit ?? "";
  const said = [label === legend.title ? "" : label, units && `(${units})`].filter(Boolean).join(" ");
  const marks = [low, (low + high) / 2, high].map((value) => el("span", {}, number(value)));
  return el("div", { class: "item" }, said ? el("p", {}, said) : null, bar, el("div", { class: "marks" }, ...marks));
}

const number = (value) => String(Number.isInteger(value) && Math.abs(value) < 1e6 ? value : Number(value.toPrecision(4)));

function classed({ symbol, label, color, outline, size }) {
  const sign = el("span", { class: `sign ${symbol}`, "aria-hidden": "true" });
  sign.style.background = color;
  if (outline) sign.style.borderColor = outline;
  if (size && symbol === "circle") sign.style.width = sign.style.height = `${Math.min(size, 48)}px`;
  return el("div", { class: "item class" }, sign, el("span", {}, label));
}
