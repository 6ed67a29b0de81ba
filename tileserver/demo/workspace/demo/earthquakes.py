import fused
import geopandas as gpd
from grid import padded


@fused.udf
def udf(bounds: fused.types.Bounds = None, min_magnitude: float = 0):
    """Earthquakes of one week

    A table and a map layer in one: `earthquakes.csv?min_magnitude=4` is data, and a map asks for the
    same function's tiles. A `min_magnitude` of 0 keeps all, those of unknown magnitude too.
    """
    quakes = gpd.read_parquet("data/earthquakes.parquet", bbox=bounds and padded(bounds))
    if min_magnitude > 0:
        quakes = quakes[quakes["mag"] >= min_magnitude]
    return quakes.sort_values("mag", ascending=False)
