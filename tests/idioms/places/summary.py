@fused.udf(cache_max_age=0)
def udf():
    quakes = fused.run("stations", min_magnitude=5)
    hexes = fused.load("hexagons")(resolution=2)
    return {"strong": len(quakes), "strongest": quakes.magnitude.max(), "hexes": len(hexes), "first": hexes.hex[0]}
