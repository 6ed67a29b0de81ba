@fused.udf
def udf(url: str, name: str = None):
    import pandas as pd
    import requests

    @fused.cache(cache_max_age="1h")
    def fetch(url):
        r = requests.get(url, timeout=10)
        r.raise_for_status()
        return r.json()

    df = pd.DataFrame(fetch(url))
    if name:
        df = df[df.name.str.contains(name)]
    print(df.T)
    return df
