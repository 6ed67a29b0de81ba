@fused.udf
def udf(resolution: int = 4, min_count: int = 1):
    import duckdb
    import h3

    @fused.cache
    def read(path):
        return duckdb.sql(f"SELECT lat, lng, magnitude FROM read_csv('{path}') WHERE magnitude IS NOT NULL").df()

    df = read("data/quakes.csv")
    df["hex"] = [h3.latlng_to_cell(lat, lng, resolution) for lat, lng in zip(df.lat, df.lng)]
    con = duckdb.connect()
    con.create_function("area", lambda cell: h3.cell_area(cell), ["VARCHAR"], "DOUBLE")
    return con.sql(f"""
        SELECT hex, count(*) AS cnt, avg(magnitude) AS magnitude, area(hex) AS km2
        FROM df GROUP BY hex HAVING count(*) >= {min_count} ORDER BY cnt DESC, hex
    """).df()
