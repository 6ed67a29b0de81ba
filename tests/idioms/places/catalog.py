@fused.udf
def udf(bounds: fused.types.Bounds = None, max_cloud: float = 50):
    import geopandas as gpd
    import pystac

    items = pystac.ItemCollection.from_file("data/items.json")
    gdf = gpd.GeoDataFrame.from_features(items.to_dict(), crs=4326)
    gdf = gdf[gdf["eo:cloud_cover"] < max_cloud]
    if bounds:
        gdf = gdf.cx[bounds[0]:bounds[2], bounds[1]:bounds[3]]
    return gdf if len(gdf) else []
