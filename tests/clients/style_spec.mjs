// The official validator and evaluator of MapLibre styles, asked line by line on standard input.

import { createInterface } from "node:readline";
import { createPropertyExpression, featureFilter, latest, validateStyleMin } from "@maplibre/maplibre-gl-style-spec";

const specs = {
  number: latest.paint_circle["circle-radius"],
  color: latest.paint_circle["circle-color"],
  formatted: latest.layout_symbol["text-field"],
};
const kinds = { Point: 1, LineString: 2, Polygon: 3 };
console.warn = () => {}; // of values that a feature lacks

const plain = (value) => {
  if (value === null || typeof value !== "object") return Number.isFinite(value) || typeof value !== "number" ? value : String(value);
  return "rgb" in value ? value.rgb : String(value);
};

function evaluated({ expression, type, features }) {
  const feature = ({ properties, geometry }) => ({ type: kinds[geometry], properties, geometry: [] });
  if (type === "filter") {
    const { filter } = featureFilter(expression);
    return features.map((one) => filter({ zoom: one.zoom }, feature(one)));
  }
  const { result, value } = createPropertyExpression(expression, specs[type]);
  if (result === "error") return { errors: value.map(({ key, message }) => `${key}: ${message}`) };
  return features.map((one) => plain(value.evaluate({ zoom: one.zoom }, feature(one))));
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  let answer;
  try {
    answer = asked.style ? validateStyleMin(asked.style).map(({ message }) => message) : evaluated(asked);
  } catch (error) {
    answer = { errors: [String(error)] };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
