import fused
import pandas as pd


@fused.udf
def udf(path: str = "data/housing.csv", min_price: int = 0):
    """Price per area of houses for sale

    Reads a table, adds a column, returns a table. Ask for it in any form: `.json`, `.csv`,
    `.parquet`, `.xlsx`, `.html`. The houses are invented.
    """
    houses = pd.read_csv(path)
    houses["price_per_area"] = (houses["price"] / houses["area"]).round(2)
    return houses[houses["price"] >= min_price]
