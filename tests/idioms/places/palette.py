def arr_to_bytes(arr, cmap="viridis"):
    import io
    import matplotlib
    import numpy as np
    from PIL import Image

    arr = (arr - arr.min()) / (arr.max() - arr.min())
    rgba = (matplotlib.colormaps[cmap](arr) * 255).astype("uint8")
    buf = io.BytesIO()
    Image.fromarray(rgba).save(buf, format="PNG")
    return buf


@fused.udf
def udf(cmap: str = "viridis"):
    import rioxarray

    da = rioxarray.open_rasterio("data/dem.tif", masked=True).squeeze().fillna(0)
    return arr_to_bytes(da.values, cmap), list(da.rio.transform_bounds(4326))
