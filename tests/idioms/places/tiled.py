@fused.udf
def udf(bbox: fused.types.Tile = None, table: str = "data/places.parquet", min_zoom: int = 3):
    import geopandas as gpd

    if bbox.z[0] < min_zoom:
        print("zoom in")
        return None
    gdf = gpd.read_parquet(table)
    gdf = gdf[gdf.intersects(bbox.geometry.iloc[0])]
    gdf["tile"] = f"{bbox.z.iloc[0]}/{bbox.x.iloc[0]}/{bbox.y.iloc[0]}"
    return gdf
