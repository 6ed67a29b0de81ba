import shapely


@fused.udf
def udf(point: shapely.Geometry = None, n: int = 3):
    import geopandas as gpd

    gdf = gpd.read_parquet("data/places.parquet").to_crs(32610)
    where = gpd.GeoSeries([point or shapely.Point(-122.4, 37.8)], crs=4326).to_crs(32610)
    gdf["km"] = gdf.distance(where.iloc[0]) / 1000
    return gdf.nsmallest(n, "km")
