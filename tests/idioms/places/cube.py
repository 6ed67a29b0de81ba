@fused.udf
def udf(bounds: fused.types.Bounds = None):
    import rioxarray
    import xarray as xr

    da = rioxarray.open_rasterio("data/dem.tif", masked=True)
    if bounds:
        da = da.rio.clip_box(*bounds, crs=4326)
    ds = xr.Dataset({"elevation": da.squeeze("band", drop=True)})
    return ds
