// Reads one vector tile with the library that MapLibre and others read with: node read_tile.mjs URL Z X Y

import { VectorTile } from "@mapbox/vector-tile";
import { PbfReader } from "pbf";

const [url, z, x, y] = process.argv.slice(2);
const response = await fetch(url);
if (response.status !== 200) throw new Error(await response.text());
const tile = new VectorTile(new PbfReader(new Uint8Array(await response.arrayBuffer())));
const layers = Object.values(tile.layers).map((layer) => ({
  name: layer.name,
  version: layer.version,
  extent: layer.extent,
  features: Array.from({ length: layer.length }, (_, i) => layer.feature(i).toGeoJSON(Number(x), Number(y), Number(z))),
}));
console.log(JSON.stringify(layers));
