@fused.udf
def udf(bbox=None, resolution: int = 7):
    from utils import add_hex, read_places

    df = read_places()
    df = add_hex(df, resolution)
    return df.sort_values("name")
