// Shows tiles as people's own pages do. Each client gives: show(lon, lat, z), which resolves once all tiles
// are drawn, and at(column, row), the coordinate at a pixel.

"use strict";

const clients = {
  leaflet(url) {
    const map = L.map("map", { zoomControl: false, attributionControl: false, zoomAnimation: false, fadeAnimation: false });
    let layer = null;
    return {
      show: (lon, lat, z) => new Promise((resolve) => {
        layer?.remove();
        map.setView([lat, lon], z, { animate: false });
        layer = L.tileLayer(url, { maxZoom: 22, crossOrigin: true }).once("load", () => requestAnimationFrame(resolve)).addTo(map);
      }),
      at: (column, row) => {
        const { lng, lat } = map.containerPointToLatLng([column, row]);
        return [lng, lat];
      },
    };
  },

  maplibre(url) {
    maplibregl.setWorkerUrl("maplibre-gl/maplibre-gl-csp-worker.js");
    const map = new maplibregl.Map({
      container: "map", attributionControl: false, fadeDuration: 0, center: [0, 0], zoom: 1, minZoom: -2,
      style: {
        version: 8,
        sources: { tiles: { type: "raster", tiles: [url], tileSize: 256 } },
        layers: [{ id: "tiles", type: "raster", source: "tiles", paint: { "raster-fade-duration": 0, "raster-resampling": "nearest" } }],
      },
    });
    return {
      show: (lon, lat, z) => new Promise((resolve) => {
        map.jumpTo({ center: [lon, lat], zoom: z - 1 });
        map.once("idle", resolve);
        map.triggerRepaint();
      }),
      at: (column, row) => map.unproject([column, row]).toArray(),
    };
  },

  // Vector tiles by their TileJSON; found() are the attributes of what is drawn.
  vector(url) {
    maplibregl.setWorkerUrl("maplibre-gl/maplibre-gl-csp-worker.js");
    const map = new maplibregl.Map({
      container: "map", attributionControl: false, fadeDuration: 0,
      style: {
        version: 8,
        sources: { tiles: { type: "vector", url } },
        layers: [{ id: "areas", type: "fill", source: "tiles", "source-layer": "udf", filter: ["==", ["geometry-type"], "Polygon"], paint: { "fill-color": "#c00" } }],
      },
    });
    return {
      show: (lon, lat, z) => new Promise((resolve) => {
        map.jumpTo({ center: [lon, lat], zoom: z - 1 });
        map.once("idle", resolve);
        map.triggerRepaint();
      }),
      found: () => map.queryRenderedFeatures().map((feature) => feature.properties),
    };
  },

  // A file of features.
  async geojson(url) {
    const map = L.map("map", { zoomControl: false, attributionControl: false, zoomAnimation: false, fadeAnimation: false });
    const response = await fetch(url);
    const layer = L.geoJSON(await response.json(), { style: { color: "#c00", fillOpacity: 1 } }).addTo(map);
    map.fitBounds(layer.getBounds(), { animate: false });
    return {
      etag: response.headers.get("etag"),
      found: () => layer.getLayers().map((shape) => shape.feature.properties),
    };
  },
};
