// What the colours mean: items of the legend document, or of the style that draws the layer.

import { $, el } from "../page.js";
import { theMap, vectorLayers } from "./view.js";

/** Show a legend, ``{title, unit, items}``; without one what can be told of the style's plain colours. */
export function showLegend(legend, styled) {
  const items = legend?.items ?? plainItems(styled);
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
  const parts = stops.map(([value, colour]) => `${colour} ${high > low ? (100 * (value - low)) / (high - low) : 0}%`);
  bar.style.background = `linear-gradient(to right, ${parts.join(", ")})`;
  const units = unit ?? legend.unit ?? "";
  const marks = [low, (low + high) / 2, high].map((value) => el("span", {}, number(value)));
  return el("div", { class: "item" }, label || units ? el("p", {}, [label, units && `(${units})`].filter(Boolean).join(" ")) : null, bar, el("div", { class: "marks" }, ...marks));
}

const number = (value) => String(Number(value.toPrecision(4)));

function classed({ symbol, label, color, outline, size }) {
  const sign = el("span", { class: `sign ${symbol}`, "aria-hidden": "true" });
  sign.style.background = color;
  if (outline) sign.style.borderColor = outline;
  if (size && symbol === "circle") sign.style.width = sign.style.height = `${Math.min(2 * size, 28)}px`;
  return el("div", { class: "item class" }, sign, el("span", {}, label));
}

const KINDS = { fill: ["Polygon", "Areas"], line: ["LineString", "Lines"], circle: ["Point", "Points"] };

/** Of layers with one colour each: a sign for each kind of geometry that is on the map. */
function plainItems(styled) {
  const ids = vectorLayers();
  if (!ids.length) return [];
  const seen = new Set(theMap().queryRenderedFeatures({ layers: ids }).map(({ geometry }) => geometry.type.replace("Multi", "")));
  return Object.entries(KINDS).flatMap(([type, [geometry, label]]) => {
    const layer = styled.find((one) => one.type === type && typeof one.paint?.[`${type}-color`] === "string" && (type !== "line" || one.id === "udf-line"));
    if (!layer || !seen.has(geometry)) return [];
    const outline = type === "circle" ? layer.paint["circle-stroke-color"] : styled.find(({ id }) => id === "udf-outline")?.paint["line-color"];
    return [{ kind: "class", symbol: type, label, color: layer.paint[`${type}-color`], outline: type === "line" ? null : outline, size: layer.paint["circle-radius"] }];
  });
}
