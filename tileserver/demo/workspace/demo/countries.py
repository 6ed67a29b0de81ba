import fused
import geopandas as gpd


@fused.udf
def udf(bounds: fused.types.Bounds = None):
    """Countries of the world

    Polygons with names. The file is GeoParquet with a bounding box for each row, so only rows that
    touch the bounds are read; without bounds, all of them.
    """
    return gpd.read_parquet("data/countries_50m.parquet", bbox=bounds)
