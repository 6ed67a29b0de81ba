import fused
import geopandas as gpd
from grid import padded


@fused.udf
def udf(bounds: fused.types.Bounds = None, state: str = None):
    """Airports of the United States

    Points with their IATA codes. `state` keeps one state, by its two letters: `?state=CA`.
    """
    airports = gpd.read_parquet("data/airports.parquet", bbox=bounds and padded(bounds))
    if state:
        airports = airports[airports["state"] == state.upper()]
    return airports
