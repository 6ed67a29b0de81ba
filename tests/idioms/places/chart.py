@fused.udf(cache_max_age="30m")
def udf(bins: int = 10):
    import altair as alt
    import pandas as pd

    df = pd.read_csv("data/quakes.csv")
    chart = (
        alt.Chart(df)
        .mark_bar()
        .encode(x=alt.X("magnitude:Q", bin=alt.Bin(maxbins=bins)), y="count()")
        .properties(width=400, height=200)
    )
    return chart.to_html()
