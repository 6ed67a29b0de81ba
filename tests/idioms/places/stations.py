import pandas as pd


@fused.udf
def udf(min_magnitude: float = 0, columns: list = ["lat", "lng", "magnitude"], when: str = None):
    df = pd.read_csv("data/quakes.csv", parse_dates=["time"])
    df = df[df.magnitude >= min_magnitude]
    if when:
        df = df[df.time >= when]
    return df[columns].reset_index(drop=True)
