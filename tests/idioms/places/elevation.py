@fused.udf
def udf(bounds: fused.types.TileGDF = None, path: str = "data/dem.tif"):
    import numpy as np
    import rasterio
    from rasterio.warp import Resampling, reproject, transform_bounds
    from rasterio.transform import from_bounds

    with rasterio.open(path) as src:
        if bounds is None:
            return src.read(1, masked=True)
        box = bounds.to_crs(3857).total_bounds
        out = np.full((1, 256, 256), src.nodata, src.dtypes[0])
        reproject(
            rasterio.band(src, 1),
            out,
            dst_transform=from_bounds(*box, 256, 256),
            dst_crs="EPSG:3857",
            src_nodata=src.nodata,
            dst_nodata=src.nodata,
            resampling=Resampling.bilinear,
        )
    return np.ma.masked_equal(out, src.nodata).astype("float32") / 1000
