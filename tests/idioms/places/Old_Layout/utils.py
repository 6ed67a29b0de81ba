def read_places():
    import geopandas as gpd

    return gpd.read_parquet("data/places.parquet")


def add_hex(df, resolution):
    import h3

    df["hex"] = df.geometry.apply(lambda p: h3.latlng_to_cell(p.y, p.x, resolution))
    return df
