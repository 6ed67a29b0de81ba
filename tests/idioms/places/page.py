@fused.udf
def udf(title: str = "Earthquakes", n: int = 5):
    import pandas as pd
    import common

    df = pd.read_csv("data/quakes.csv").nlargest(n, "magnitude")
    return common.table_page(df, title)
