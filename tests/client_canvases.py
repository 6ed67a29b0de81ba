"""The canvases that the public client's cases run against."""

from __future__ import annotations

from textwrap import dedent

from tests.clients.fused_client.arguments import ARGUMENTS, ERRORS, TILED, broken, tell
from tests.clients.fused_client.values import RETURNED, UNSUPPORTED, source

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
