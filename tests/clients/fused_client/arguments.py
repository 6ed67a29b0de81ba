"""What a UDF is given: one signature and one call to a case, and UDFs that tell what they got.

Imported by both sides, so it imports nothing; the client evaluates the calls.
"""

from __future__ import annotations

from textwrap import dedent

# A UDF that says of which type each argument is, and how it reads.
_TELL = """
@fused.udf
def udf({signature}):
    given = dict(locals())
    return {{name: [type(value).__name__, str(value)] for name, value in sorted(given.items())}}
"""

# Name: parameters of the UDF, and keyword arguments of the call.
ARGUMENTS = {
    "str": ("v: str", "v='a b&c=é+%/?#'"),
    "str_untyped": ("v", "v='5'"),
    "str_empty": ("v: str = 'default'", "v=''"),
    "str_of_number": ("v: str", "v=5"),
    "int": ("v: int", "v=-5"),
    "int_of_text": ("v: int", "v=' 1_000 '"),
    "int_numpy": ("v: int", "v=np.int64(7)"),
    "int_string_annotation": ("v: 'int'", "v=5"),
    "float": ("v: float", "v=1e-3"),
    "float_nan": ("v: float", "v=float('nan')"),
    "float_numpy": ("v: float", "v=np.float64(0.5)"),
    "bool_true": ("v: bool", "v=True"),
    "bool_false": ("v: bool", "v=False"),
    "bool_text_no": ("v: bool", "v='no'"),
    "bool_text_false": ("v: bool", "v='FALSE'"),
    "none": ("v: int = 3", "v=None"),
    "missing": ("v: int = 3, w: list = []", ""),
    "optional": ("v: int | None = None", "v=4"),
    "typing_optional": ("v: __import__('typing').Optional[float] = None", "v=4"),
    "union": ("v: int | str", "v='4'"),
    "literal": ("v: __import__('typing').Literal['a', 'b']", "v='a'"),
    "list": ("v: list", "v=[1, 2.5, 'x', None, True, [1]]"),
    "list_of_int": ("v: list[int]", "v=[1, 2]"),
    "list_of_tuple": ("v: list", "v=(1, 'two')"),
    "list_of_array": ("v: list", "v=np.array([1, 2, 3])"),
    "list_of_set": ("v: list", "v={7, 8}"),
    "tuple": ("v: tuple", "v=(1, 'two')"),
    "dict": ("v: dict", "v={'k': 'v', 'n': {'m': [1, {'x': None}]}}"),
    "uuid": ("v: __import__('uuid').UUID", "v=uuid.UUID('12345678-1234-5678-1234-567812345678')"),
    "datetime": ("v: __import__('datetime').datetime", "v=dt.datetime(2024, 2, 29, 12, 30)"),
    "datetime_zone": ("v: __import__('datetime').datetime", "v=dt.datetime(2024, 2, 29, tzinfo=dt.UTC)"),
    "datetime_epoch": ("v: __import__('datetime').datetime", "v=1709208000"),
    "datetime_timestamp": (
        "v: 'datetime.datetime'",
        "v=pd.Timestamp('2024-02-29 12:30', tz='Europe/Berlin')",
    ),
    "date": ("v: __import__('datetime').date", "v=dt.date(2024, 2, 29)"),
    "time": ("v: 'time'", "v=dt.time(12, 30)"),
    "timedelta": ("v: float", "v=pd.Timedelta(hours=1.5)"),
    "dataframe": ("v: __import__('pandas').DataFrame", "v=pd.DataFrame({'a': [1, 2], 'b': ['x', None]})"),
    "dataframe_string_annotation": ("v: 'pd.DataFrame'", "v=pd.DataFrame({'a': [1.5]})"),
    "geodataframe": (
        "v: __import__('geopandas').GeoDataFrame",
        "v=gpd.GeoDataFrame({'n': [1]}, geometry=gpd.points_from_xy([1], [2]), crs=4326)",
    ),
    "geodataframe_of_bounds": ("v: __import__('geopandas').GeoDataFrame", "v=[1, 2, 3, 4]"),
    "geometry": ("v: __import__('shapely').Geometry", "v=shapely.box(0, 0, 1, 1)"),
    "geometry_polygon": ("v: __import__('shapely').Polygon", "v=shapely.box(0, 0, 1, 1)"),
    "bounds": ("bounds: fused.types.Bounds", "bounds=[-74.1, 40.6, -73.8, 40.9]"),
    "bounds_string_annotation": ("bounds: 'fused.types.Bounds'", "bounds=[-74.1, 40.6, -73.8, 40.9]"),
    "bounds_of_frame": (
        "bounds: fused.types.Bounds",
        "bounds=gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 2)], crs=4326)",
    ),
    "bounds_tile": ("bounds: fused.types.Tile", "bounds=[-74.1, 40.6, -73.8, 40.9]"),
    "bounds_tile_gdf": ("bounds: fused.types.TileGDF", "bounds=[-74.1, 40.6, -73.8, 40.9]"),
    "bounds_viewport": ("bounds: fused.types.ViewportGDF", "bounds=[-74.1, 40.6, -73.8, 40.9]"),
    "bounds_xyz": ("bounds: fused.types.TileXYZ", "bounds=[-74.1, 40.6, -73.8, 40.9]"),
    "bbox": ("bbox: fused.types.Bbox", "bbox=[-74.1, 40.6, -73.8, 40.9]"),
    "coordinates": ("x: int, y: int, z: int", "x=1, y=2, z=3, type='file'"),
    "kwargs": ("a: int, **kwargs", "a=1, b='text', c='5'"),
}

# Signatures that a tile run gives its tile to.
TILED = {
    "bounds": "bounds: fused.types.Bounds = None",
    "bounds_string": "bounds: 'fused.types.Bounds' = None",
    "bounds_untyped": "bounds=None",
    "bounds_tile": "bounds: fused.types.Tile = None",
    "bounds_tile_gdf": "bounds: fused.types.TileGDF = None",
    "bounds_viewport": "bounds: fused.types.ViewportGDF = None",
    "bounds_xyz": "bounds: fused.types.TileXYZ = None",
    "bounds_bbox": "bounds: fused.types.Bbox = None",
    "bounds_list": "bounds: list = None",
    "bounds_second": "k: int = 1, bounds: fused.types.Bounds = None",
    "bbox": "bbox: fused.types.Tile = None",
    "bbox_untyped": "bbox=None",
    "bbox_bounds": "bbox: fused.types.Bounds = None, k: int = 1",
    "first": "area: fused.types.Bounds = None, k: int = 1",
    "first_untyped": "area=None",
    "kwargs": "bounds: fused.types.Bounds = None, **kwargs",
    "nothing": "",
    "coordinates": "x: int = 0, y: int = 0, z: int = 0",
}

# What goes wrong: the UDF's whole file.
ERRORS = {
    "raised": """
        @fused.udf
        def udf():
            a = 1

            raise ValueError(f"no {a} é")
        """,
    "in_helper": """
        def helper(n):
            return 1 / n

        @fused.udf
        def udf():
            return helper(0)
        """,
    "in_library": """
        @fused.udf
        def udf():
            import pandas as pd

            frame = pd.DataFrame({"a": [1]})
            return frame["b"]
        """,
    "at_import": """
        import a_module_that_is_not_there

        @fused.udf
        def udf():
            return 1
        """,
    "own_class": """
        class Unhappy(Exception):
            pass

        @fused.udf
        def udf():
            raise Unhappy("so sad")
        """,
    "without_message": """
        @fused.udf
        def udf():
            assert False
        """,
    "of_two_lines": """
        @fused.udf
        def udf():
            raise RuntimeError("one\\ntwo")
        """,
    "after_prints": """
        @fused.udf
        def udf():
            import sys
            print("to stdout é")
            print("to stderr", file=sys.stderr)
            raise KeyError("k")
        """,
}


def tell(signature: str) -> str:
    """The file of a UDF that tells what it was given."""
    return _TELL.format(signature=signature).lstrip()


def broken(name: str) -> str:
    """The file of a UDF that fails."""
    return dedent(ERRORS[name]).lstrip()
