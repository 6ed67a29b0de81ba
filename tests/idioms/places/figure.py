@fused.udf
def udf(column: str = "magnitude"):
    import io

    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    df = pd.read_csv("data/quakes.csv")
    fig, ax = plt.subplots(figsize=(4, 3))
    df[column].hist(ax=ax)
    buf = io.BytesIO()
    fig.savefig(buf, format="png", dpi=72)
    plt.close(fig)
    return buf.getvalue()
