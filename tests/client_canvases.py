"""The canvases that the public client's cases run against."""

from __future__ import annotations

from textwrap import dedent

from tests.clients.fused_client.arguments import ARGUMENTS, ERRORS, TILED, broken, tell
from tests.clients.fused_client.values import RETURNED, UNSUPPORTED, source

ADDRESS = "https://github.com/example/udfs/tree/0123456789abcdef/public"

CITY = {
    "greeting.py": """
        GREETING = "Hello"


        @fused.udf
        def udf(name: str = "World"):
            return {GREETING.lower(): name}
        """,
    "places.py": """
        @fused.udf
        def udf():
            import geopandas as gpd

            return gpd.GeoDataFrame({"n": [1]}, geometry=gpd.points_from_xy([1], [2]), crs=4326)
        """,
    "tile.py": """
        @fused.udf
        def udf(bounds: fused.types.Bounds = None):
            import numpy as np

            return np.array([np.arange(16).reshape(4, 4)], "uint8")
        """,
    "talks.py": """
        @fused.udf
        def udf():
            print("talks")
            return 1
        """,
    "counted.py": """
        @fused.udf
        def udf(n: int):
            import uuid

            print(uuid.uuid4())
            return [n, str(uuid.uuid4())]
        """,
    "endless.py": """
        @fused.udf
        def udf(bounds: fused.types.Bounds = None):
            while True:
                pass
        """,
    "unparsed.py": """
        @fused.udf
        def udf():
            return (1,
        """,
    "deep.py": """
        @fused.udf
        def udf():
            return fused.run("deep")
        """,
    "nested.py": """
        @fused.udf
        def udf(name: str = "World"):
            return [fused.run("greeting", name=name), fused.load("greeting").GREETING]
        """,
    "reads_secret.py": """
        @fused.udf
        def udf():
            return fused.secrets["API_KEY"]
        """,
    "loads_helpers.py": f"""
        @fused.udf
        def udf():
            common = fused.load("{ADDRESS}/common/")
            return common.doubled(21)
        """,
    "runs_token.py": """
        @fused.udf(cache_max_age=0)
        def udf(other: str, again: bool = False):
            return fused.run(other, other=other, again=True) if again else fused.run(other)
        """,
    "twice.py": """
        @fused.udf
        def udf(n: int):
            import pandas as pd

            return pd.DataFrame({"twice": [2 * n]})
        """,
    "submits.py": """
        @fused.udf
        def udf(n: int):
            found = fused.submit(fused.load("twice"), [{"n": number} for number in range(n)])
            return sorted(found["twice"].tolist())
        """,
    "with_utils/with_utils.py": """
        @fused.udf
        def udf():
            from utils import seven

            return seven()
        """,
    "with_utils/utils.py": """
        def seven():
            return 7
        """,
    "with_utils/meta.json": """
        {"version": "0.0.3", "job_config": {"steps": [{"type": "udf", "udf": {
            "type": "geopandas_v2", "name": "with_utils", "entrypoint": "udf", "source": "with_utils.py",
            "headers": [{"module_name": "utils", "source_file": "utils.py"}]
        }}]}}
        """,
}


def files() -> dict[str, str]:
    """The workspace: a canvas of results, one of calls, one for the stories, and one whose code is closed."""
    return {
        **{f"values/{name}.py": source(body) for name, body in {**RETURNED, **UNSUPPORTED}.items()},
        **{f"calls/{name}.py": tell(signature) for name, (signature, _) in ARGUMENTS.items()},
        **{f"calls/tile_{name}.py": tell(signature) for name, signature in TILED.items()},
        **{f"calls/error_{name}.py": broken(name) for name in ERRORS},
        **{f"city/{name}": dedent(text).lstrip("\n") for name, text in CITY.items()},
        "closed/secretive.py": "@fused.udf\ndef udf():\n    return 'ran'\n",
    }


def sources() -> dict[str, str]:
    """What stands for ``ADDRESS``: a UDF with a module, and a module of helpers, in Fused's layout."""
    names = {path: path.replace("with_utils", "seven") for path in CITY if path.startswith("with_utils/")}
    seven = {name: dedent(CITY[path]).replace("with_utils", "seven") for path, name in names.items()}
    common = "@fused.udf\ndef udf():\n    return 0\n\n\ndef doubled(n):\n    return 2 * n\n"
    meta = (
        seven["seven/meta.json"]
        .replace("seven", "common")
        .replace('[{"module_name": "utils", "source_file": "utils.py"}]', "[]")
    )
    return {**seven, "common/common.py": common, "common/meta.json": meta}
