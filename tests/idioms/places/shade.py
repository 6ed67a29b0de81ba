@fused.udf
def udf(bounds: fused.types.Bounds = [-122.6, 37.6, -122.2, 38.0], power: float = 1.0):
    import numpy as np

    x0, y0, x1, y1 = bounds
    xs, ys = np.meshgrid(np.linspace(x0, x1, 256), np.linspace(y1, y0, 256))
    v = ((np.sin(xs * 20) + np.cos(ys * 20) + 2) / 4) ** power
    rgb = np.stack([v * 255, v * 128, 255 - v * 255]).astype("uint8")
    return rgb, bounds
