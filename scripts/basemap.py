"""Makes the countries of the map page's base map from the demo's data: tileserver/static/countries.json.

python scripts/basemap.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "tileserver/demo/workspace/demo/data/countries_50m.parquet"
TARGET = ROOT / "tileserver/static/countries.json"
TOLERANCE = 0.2  # degrees: corners that cut off less than its square go
SMALLEST = 0.004  # square degrees: what is smaller is left out, but for a country's largest part
DIGITS = 2
# Countries of this many square degrees have their name from zoom 2 on, those a quarter of it from 3 on, …
LARGE = 250.0


def main() -> None:
    countries = gpd.read_parquet(SOURCE)
    # Simplified together: neighbours keep one border between them.
    outlines = shapely.coverage_simplify(countries.geometry.to_numpy(), TOLERANCE)
    outlines = [_without_specks(outline) for outline in outlines]
    features = [_feature({}, outline) for outline in outlines]
    for name, outline in zip(countries["name"], outlines, strict=True):
        largest = max(shapely.get_parts(outline), key=shapely.area)
        features.append(_feature({"name": name, "zoom": _zoom(largest)}, _middle(largest)))
    collection = {"type": "FeatureCollection", "features": features}
    TARGET.write_text(json.dumps(_rounded(collection), separators=(",", ":"), ensure_ascii=False), "utf-8")


def _without_specks(outline: shapely.Geometry) -> shapely.Geometry:
    parts = sorted(shapely.get_parts(outline), key=shapely.area, reverse=True)
    return shapely.MultiPolygon([parts[0], *(part for part in parts[1:] if part.area >= SMALLEST)])


def _middle(outline: shapely.Geometry) -> shapely.Geometry:
    """The middle of the widest place, where a name has most room."""
    return shapely.get_point(shapely.maximum_inscribed_circle(outline, tolerance=0.05), 0)


def _zoom(outline: shapely.Geometry) -> float:
    zoom, area = 2.0, LARGE
    while shapely.area(outline) < area and zoom < 7:
        zoom, area = zoom + 1, area / 4
    return zoom


def _feature(properties: dict[str, Any], geometry: shapely.Geometry) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": json.loads(shapely.to_geojson(geometry))}


def _rounded(value: Any) -> Any:
    """Without the digits that nobody sees, and without points that are the same then."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [_rounded(item) for item in value]
        if len(items) > 4 and isinstance(items[0], list) and isinstance(items[0][0], float):
            kept = [item for item, before in zip(items, [None, *items], strict=False) if item != before]
            return kept if len(kept) > 3 else items
        return items
    return value


main()
