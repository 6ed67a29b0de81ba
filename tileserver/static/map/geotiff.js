// Reads single pixels of the GeoTIFFs that this server makes: little-endian, deflated, in strips or in tiles,
// bands side by side, in degrees or in metres of web Mercator. Anything else is null, not a guess.
// Tags: TIFF 6.0, sections 2 and 8; GeoTIFF 1.1, chapter 7.

const TAGS = {
  width: 256, height: 257, bits: 258, compression: 259, offsets: 273, samples: 277, rows: 278, counts: 279, planar: 284,
  predictor: 317, tileWidth: 322, tileHeight: 323, tileOffsets: 324, tileCounts: 325, format: 339,
  scale: 33550, tie: 33922, geo: 34735,
};
const READERS = { // of a sample, by format and bits
  "1/8": "getUint8", "1/16": "getUint16", "1/32": "getUint32", "1/64": "getBigUint64",
  "2/8": "getInt8", "2/16": "getInt16", "2/32": "getInt32", "2/64": "getBigInt64", "3/32": "getFloat32", "3/64": "getFloat64",
};
const TYPES = { 1: ["getUint8", 1], 2: ["getUint8", 1], 3: ["getUint16", 2], 4: ["getUint32", 4], 12: ["getFloat64", 8] };
const MERCATOR = 20037508.342789244;

/** A reader of pixels: gives the values of all bands at a longitude and latitude, or null outside. */
export function open(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 8 || view.getUint16(0) !== 0x4949 || view.getUint16(2, true) !== 42) return null;
  const tags = directory(view);
  const place = georeference(tags);
  const layout = layoutOf(tags);
  if (!place || !layout) return null;
  return async (lon, lat) => {
    const [x, y] = place(lon, lat);
    const [column, row] = [Math.floor(x), Math.floor(y)];
    if (column < 0 || row < 0 || column >= layout.width || row >= layout.height) return null;
    return pixel(buffer, layout, column, row);
  };
}

function directory(view) {
  const start = view.getUint32(4, true);
  const known = Object.fromEntries(Object.entries(TAGS).map(([name, tag]) => [tag, name]));
  const tags = {};
  for (let entry = 0; entry < view.getUint16(start, true); entry += 1) {
    const at = start + 2 + 12 * entry;
    const name = known[view.getUint16(at, true)];
    const [reader, length] = TYPES[view.getUint16(at + 2, true)] ?? [];
    if (!name || !reader) continue;
    const count = view.getUint32(at + 4, true);
    const from = count * length <= 4 ? at + 8 : view.getUint32(at + 8, true);
    tags[name] = Array.from({ length: count }, (_, index) => view[reader](from + index * length, true));
  }
  return tags;
}

function georeference({ scale, tie, geo = [] }) {
  if (!scale || !tie) return null;
  const key = (wanted) => {
    for (let at = 4; at < geo.length; at += 4) if (geo[at] === wanted && geo[at + 1] === 0) return geo[at + 3];
    return null;
  };
  const project = key(3072) === 3857 ? mercator : key(3072) === null && key(2048) === 4326 ? (lon, lat) => [lon, lat] : null;
  if (!project) return null;
  return (lon, lat) => {
    const [x, y] = project(lon, lat);
    return [tie[0] + (x - tie[3]) / scale[0], tie[1] + (tie[4] - y) / scale[1]];
  };
}

function mercator(lon, lat) {
  return [(lon / 180) * MERCATOR, (Math.log(Math.tan(((90 + lat) * Math.PI) / 360)) / Math.PI) * MERCATOR];
}

function layoutOf(tags) {
  const [bits] = tags.bits ?? [1];
  const [samples] = tags.samples ?? [1];
  const reader = READERS[`${tags.format?.[0] ?? 1}/${bits}`];
  const deflated = [8, 32946].includes(tags.compression?.[0]);
  const plain = (tags.planar?.[0] ?? 1) === 1 && (tags.predictor?.[0] ?? 1) === 1;
  if (!reader || !plain || !(deflated || tags.compression?.[0] === 1)) return null;
  const tiled = Boolean(tags.tileOffsets);
  const [width] = tags.width;
  const [height] = tags.height;
  return {
    width, height, samples, reader, deflated, bytes: bits / 8,
    blockWidth: tiled ? tags.tileWidth[0] : width,
    blockHeight: tiled ? tags.tileHeight[0] : tags.rows?.[0] ?? height,
    offsets: tiled ? tags.tileOffsets : tags.offsets,
    counts: tiled ? tags.tileCounts : tags.counts,
  };
}

async function pixel(buffer, layout, column, row) {
  const across = Math.ceil(layout.width / layout.blockWidth);
  const block = Math.floor(row / layout.blockHeight) * across + Math.floor(column / layout.blockWidth);
  const from = layout.offsets[block];
  const packed = buffer.slice(from, from + layout.counts[block]);
  const opened = layout.deflated ? await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer() : packed;
  const inside = (row % layout.blockHeight) * layout.blockWidth + (column % layout.blockWidth);
  const view = new DataView(opened);
  return Array.from({ length: layout.samples }, (_, band) => (
    view[layout.reader]((inside * layout.samples + band) * layout.bytes, true)
  ));
}
