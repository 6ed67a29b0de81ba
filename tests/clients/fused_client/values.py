"""What UDFs return, one function body to a case: the same text is run by the server and by the client.

Imported by both sides, so it imports nothing.
"""

from __future__ import annotations

from textwrap import dedent, indent

_POINTS = "geometry=gpd.points_from_xy([-73.9, 2.35, 139.7], [40.7, 48.86, 35.7])"

SIMPLE = {
    "int": "return 42",
    "int_large": "return 2**62 + 1",
    "float": "return 0.1",
    "bool_true": "return True",
    "bool_false": "return False",
    "zero": "return 0",
    "str": "return 'a plain text, with ümläuts and 日本語'",
    "str_empty": "return ''",
    "str_html": "return '<!doctype html><title>é</title><p>1 &lt; 2</p>'",
    "list": "return [1, 2.5, 'a', None, True, [1, [2]], {'k': 'v'}]",
    "list_empty": "return []",
    "dict": "return {'a': 1, 'b': {'c': [1, 2, None]}, 'd': 'text', 'e': 1.5}",
    "dict_empty": "return {}",
    "tuple": "return (1, 'two', None)",
    "tuple_of_nothing": "return None, None",
    "timestamp": "import pandas as pd\nreturn pd.Timestamp('2024-02-29T12:34:56.789')",
    "numpy_int": "import numpy as np\nreturn np.int64(7)",
    "numpy_float": "import numpy as np\nreturn np.float32(0.5)",
    "numpy_bool": "import numpy as np\nreturn np.bool_(True)",
    "list_of_numpy": "import numpy as np\nreturn [np.int16(1), np.float64(2.5)]",
    "none": "return None",
}

_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_SHAPES = {
    "0d": "()",
    "1d": "(7,)",
    "2d": "(5, 7)",
    "3d": "(3, 5, 7)",
    "4d": "(2, 3, 5, 7)",
    "empty": "(0, 4)",
}

ARRAYS = {
    **{
        f"array_{dtype}": f"import numpy as np\nreturn (np.arange(24).reshape(2, 3, 4) % 2).astype('{dtype}')"
        for dtype in _DTYPES
    },
    **{
        f"array_{name}": f"import numpy as np\nreturn np.full({shape}, 3, 'int16')"
        for name, shape in _SHAPES.items()
    },
    "array_text": "import numpy as np\nreturn np.array([['a', 'bc'], ['', 'é']])",
    "array_datetime": "import numpy as np\nreturn np.array(['2024-01-01', 'NaT'], 'datetime64[ns]')",
    "array_nan": "import numpy as np\nreturn np.array([[1.5, np.nan], [np.inf, -0.0]], 'float32')",
    "array_fortran": "import numpy as np\nreturn np.asfortranarray(np.arange(12).reshape(3, 4))",
    "array_masked": """
        import numpy as np
        return np.ma.masked_array([[1, 2], [3, 4]], mask=[[0, 1], [0, 0]], dtype='int16')
        """,
    "array_masked_float": """
        import numpy as np
        return np.ma.masked_array([[1.5, 2.5], [3.5, 4.5]], mask=[[0, 1], [0, 0]])
        """,
}

_BOUNDS = "[-74.1, 40.6, -73.8, 40.9]"
# What a GeoTIFF can hold.
_TIFF_DTYPES = (
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float32", "float64", "complex64", "complex128"),
)

WITH_BOUNDS = {
    **{
        f"bounds_{dtype}": f"""
        import numpy as np
        return np.arange(60).reshape(3, 4, 5).astype('{dtype}'), {_BOUNDS}
        """
        for dtype in _TIFF_DTYPES
    },
    "bounds_2d": f"import numpy as np\nreturn np.arange(20, dtype='uint8').reshape(4, 5), {_BOUNDS}",
    "bounds_1band": f"import numpy as np\nreturn np.arange(20, dtype='uint8').reshape(1, 4, 5), {_BOUNDS}",
    "bounds_rgba": f"import numpy as np\nreturn np.arange(80, dtype='uint8').reshape(4, 4, 5), {_BOUNDS}",
    "bounds_tuple": "import numpy as np\nreturn np.ones((4, 5), 'uint8'), (-74.1, 40.6, -73.8, 40.9)",
    "bounds_nan": f"""
        import numpy as np
        values = np.arange(20, dtype='float32').reshape(4, 5)
        values[1, 2] = np.nan
        return values, {_BOUNDS}
        """,
    "bounds_bool": f"import numpy as np\nreturn np.eye(4, dtype=bool), {_BOUNDS}",
    "bounds_float16": f"import numpy as np\nreturn np.ones((4, 5), 'float16'), {_BOUNDS}",
    "bounds_masked": f"""
        import numpy as np
        mask = np.zeros((4, 5), bool)
        mask[1, 2] = True
        return np.ma.masked_array(np.ones((4, 5), 'uint8'), mask), {_BOUNDS}
        """,
}

_XARRAY = """
        import numpy as np, rioxarray, xarray as xr
        array = xr.DataArray(
            np.arange(60, dtype='{dtype}').reshape(3, 4, 5),
            dims=('band', 'y', 'x'),
            coords={{'band': [1, 2, 3], 'y': [4000.0, 3000, 2000, 1000], 'x': np.arange(5) * 1000.0}},
            name='elevation',
        ){crs}
        """

XARRAYS = {
    "dataarray": _XARRAY.format(dtype="float32", crs=".rio.write_crs(32618)") + "return array",
    "dataarray_int": _XARRAY.format(dtype="int16", crs=".rio.write_crs(3857)") + "return array",
    "dataarray_without_crs": _XARRAY.format(dtype="uint8", crs="") + "return array",
    "dataarray_2d": _XARRAY.format(dtype="float64", crs=".rio.write_crs(32618)")
    + "return array.isel(band=0, drop=True)",
    "dataarray_nodata": _XARRAY.format(dtype="float32", crs=".rio.write_crs(32618)")
    + "return array.where(array != 7).rio.write_nodata(np.nan)",
    "dataarray_south_up": _XARRAY.format(dtype="float32", crs=".rio.write_crs(32618)")
    + "return array.isel(y=slice(None, None, -1))",
    "dataarray_pixels": """
        import numpy as np, xarray as xr
        return xr.DataArray(np.arange(12).reshape(3, 4), dims=('y', 'x'), coords={'y': range(3), 'x': range(4)})
        """,
    "dataarray_pair": _XARRAY.format(dtype="uint8", crs="")
    + f"return array.drop_vars(['x', 'y']), {_BOUNDS}",
    "dataset": _XARRAY.format(dtype="float32", crs="") + "return array.to_dataset().rio.write_crs(32618)",
    "dataset_of_two": _XARRAY.format(dtype="float32", crs="")
    + "bands = array.drop_vars('band')\n        "
    + "return xr.Dataset({'low': bands[0], 'high': bands[1]}).rio.write_crs(32618)",
    "dataset_named_image": _XARRAY.format(dtype="uint8", crs="")
    + "return xr.Dataset({'image': array.drop_vars(['band'])}).rio.write_crs(4326)",
}

TABLES = {
    "table": "import pandas as pd\nreturn pd.DataFrame({'a': [1, 2, 3], 'b': [0.5, None, 1.5], 'c': ['x', 'y', None]})",
    "table_empty": "import pandas as pd\nreturn pd.DataFrame({'a': pd.Series([], dtype='int64')})",
    "table_without_columns": "import pandas as pd\nreturn pd.DataFrame()",
    "table_numbers": """
        import numpy as np, pandas as pd
        kinds = 'bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64'.split()
        return pd.DataFrame({kind: np.array([0, 1, 1]).astype(kind) for kind in kinds})
        """,
    "table_nullable": """
        import pandas as pd
        kinds = 'Int8 UInt8 Int16 UInt16 Int32 UInt32 Int64 UInt64 Float32 Float64 boolean'.split()
        return pd.DataFrame({kind: pd.array([0, 1, None], dtype=kind) for kind in kinds})
        """,
    "table_text": """
        import pandas as pd
        return pd.DataFrame({'str': ['é', '', None], 'string': pd.array(['a', None, 'c'], dtype='string')})
        """,
    "table_object": "import pandas as pd\nreturn pd.DataFrame({'a': pd.Series(['x', None, 'z'], dtype=object)})",
    "table_categories": """
        import pandas as pd
        return pd.DataFrame({
            'plain': pd.Categorical(['a', 'b', None]),
            'ordered': pd.Categorical(['lo', 'hi', 'lo'], categories=['lo', 'hi', 'never'], ordered=True),
            'numbers': pd.Categorical([3, 1, 3]),
        })
        """,
    "table_times": """
        import pandas as pd
        moments = pd.to_datetime(['2024-01-01T00:00:00.000000', '2024-06-30T12:00:00.123456', None])
        return pd.DataFrame({
            'naive': moments,
            'utc': moments.tz_localize('UTC'),
            'zone': moments.tz_localize('Europe/Berlin'),
            'seconds': moments.as_unit('s'),
            'nano': moments.as_unit('ns'),
            'delta': pd.to_timedelta([1, 2.5, None], unit='h'),
        })
        """,
    "table_dates": """
        import datetime, decimal, pandas as pd
        return pd.DataFrame({
            'date': [datetime.date(2024, 2, 29), None],
            'time': [datetime.time(12, 30), None],
            'decimal': [decimal.Decimal('1.50'), None],
        })
        """,
    "table_lists": """
        import pandas as pd
        return pd.DataFrame({'numbers': [[1, 2], [], None], 'texts': [['a'], ['b', None], []]})
        """,
    "table_dicts": "import pandas as pd\nreturn pd.DataFrame({'d': [{'a': 1, 'b': 'x'}, {'a': 2, 'b': None}]})",
    "table_bytes": "import pandas as pd\nreturn pd.DataFrame({'b': [b'\\x00\\xff', b'', None]})",
    "table_periods": """
        import pandas as pd
        return pd.DataFrame({'p': pd.period_range('2024-01', periods=3, freq='M')})
        """,
    "table_intervals": "import pandas as pd\nreturn pd.DataFrame({'i': pd.interval_range(0, 3)})",
    "table_arrow": """
        import pandas as pd
        return pd.DataFrame({
            'i': pd.array([1, None], dtype='int32[pyarrow]'),
            's': pd.array(['a', None], dtype='string[pyarrow]'),
        })
        """,
    "table_column_names": """
        import pandas as pd
        return pd.DataFrame([[1, 2, 3]], columns=[0, 'a b', 'ä/ö'])
        """,
    "index_named": "import pandas as pd\nreturn pd.DataFrame({'a': [1, 2]}, index=pd.Index(['x', 'y'], name='key'))",
    "index_unnamed": "import pandas as pd\nreturn pd.DataFrame({'a': [1, 2]}, index=[10, 20])",
    "index_range": "import pandas as pd\nreturn pd.DataFrame({'a': [1, 2, 3]}, index=pd.RangeIndex(4, 10, 2))",
    "index_times": """
        import pandas as pd
        return pd.DataFrame({'a': [1, 2]}, index=pd.date_range('2024-01-01', periods=2, tz='UTC', name='t'))
        """,
    "index_multi": """
        import pandas as pd
        index = pd.MultiIndex.from_tuples([('a', 1), ('b', 2)], names=['letter', 'number'])
        return pd.DataFrame({'v': [0.5, 1.5]}, index=index)
        """,
    "series": "import pandas as pd\nreturn pd.Series([1, 2, 3], name='count')",
    "series_unnamed": "import pandas as pd\nreturn pd.Series(['a', 'b'])",
    "series_indexed": "import pandas as pd\nreturn pd.Series([1.5, 2.5], index=['x', 'y'], name='v')",
    "arrow": "import pyarrow as pa\nreturn pa.table({'a': [1, None], 's': ['x', 'y'], 'l': [[1], [2, 3]]})",
}

_FRAME = "import geopandas as gpd\nreturn gpd.GeoDataFrame({'name': ['a', 'b', 'c'], 'n': [1, 2, 3]}, "

GEOMETRIES = {
    **{
        f"geo_{code}": f"{_FRAME}{_POINTS}, crs=4326).to_crs({code})"
        for code in (4326, 3857, 32618, 2154, 5070)
    },
    "geo_without_crs": f"{_FRAME}{_POINTS})",
    "geo_custom_crs": f"{_FRAME}{_POINTS}, crs=4326).to_crs('+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80')",
    "geo_renamed": f"{_FRAME}{_POINTS}, crs=4326).rename_geometry('place')",
    "geo_empty": "import geopandas as gpd\nreturn gpd.GeoDataFrame({'n': []}, geometry=[], crs=3857)",
    "geo_missing": """
        import geopandas as gpd, shapely
        shapes = [shapely.Point(1, 2), None, shapely.Point()]
        return gpd.GeoDataFrame({'n': [1, 2, 3]}, geometry=shapes, crs=4326)
        """,
    "geo_mixed": """
        import geopandas as gpd, shapely
        shapes = [
            shapely.Point(1, 2, 3), shapely.LineString([(0, 0), (1, 1)]), shapely.box(0, 0, 1, 1),
            shapely.MultiPoint([(0, 0), (1, 1)]), shapely.GeometryCollection([shapely.Point(0, 0)]),
        ]
        return gpd.GeoDataFrame({'n': range(5)}, geometry=shapes, crs=4326)
        """,
    "geo_second_column": """
        import geopandas as gpd
        places = gpd.GeoDataFrame({'n': [1]}, geometry=gpd.points_from_xy([1], [2]), crs=4326)
        places['area'] = places.to_crs(3857).buffer(1000)
        return places
        """,
    "geo_indexed": f"{_FRAME}{_POINTS}, crs=4326).set_index('name')",
    "geo_columns": """
        import geopandas as gpd, pandas as pd
        return gpd.GeoDataFrame(
            {
                'when': pd.to_datetime(['2024-01-01', None]).tz_localize('UTC'),
                'tags': [['a'], []],
                'kind': pd.Categorical(['x', 'y']),
                'count': pd.array([1, None], dtype='Int32'),
                'facts': [{'a': 1}, {'a': 2}],
            },
            geometry=gpd.points_from_xy([0, 1], [0, 1]),
            crs=4326,
        )
        """,
    "geoseries": "import geopandas as gpd\nreturn gpd.GeoSeries(gpd.points_from_xy([1, 2], [3, 4]), crs=3857)",
    "geometry_point": "import shapely\nreturn shapely.Point(1, 2)",
    "geometry_polygon": "import shapely\nreturn shapely.box(0, 0, 1, 1)",
    "geo_without_geometry": "import geopandas as gpd\nreturn gpd.GeoDataFrame({'a': [1, 2]})",
}

BUNDLES = {
    "bundle_tables": """
        import geopandas as gpd, pandas as pd
        return {
            'table': pd.DataFrame({'a': [1, 2]}),
            'places': gpd.GeoDataFrame({'n': [1]}, geometry=gpd.points_from_xy([1], [2]), crs=3857),
        }
        """,
    "bundle_rasters": f"""
        import numpy as np
        return {{'plain': np.arange(6).reshape(2, 3), 'placed': (np.ones((4, 5), 'uint8'), {_BOUNDS})}}
        """,
    "bundle_mixed": """
        import numpy as np, pandas as pd
        return {
            'table': pd.DataFrame({'a': [1.5]}), 'array': np.zeros((2, 2), 'float32'), 'text': 'words',
            'number': 3, 'list': [1, 2],
        }
        """,
    "bundle_names": "import pandas as pd\nreturn {'a b/c é': pd.DataFrame({'a': [1]}), 'x.y': 'text'}",
}

DOCUMENTS = {
    "png_bytes": """
        import io
        from PIL import Image
        target = io.BytesIO()
        Image.new('RGBA', (3, 2), (255, 0, 0, 128)).save(target, 'PNG')
        return target.getvalue()
        """,
    "png_stream": """
        import io
        from PIL import Image
        target = io.BytesIO()
        Image.new('L', (3, 2), 7).save(target, 'PNG')
        return target
        """,
    "response_html": """
        class Response:
            status_code = 200
            body = '<h1>é</h1>'.encode()
            media_type = 'text/html'
            headers = {'content-type': 'text/html; charset=utf-8'}
        return Response()
        """,
}

UNSUPPORTED = {
    "object": "return object()",
    "complex": "return 1 + 2j",
    "set_of_objects": "return {object()}",
    "generator": "return (n for n in range(3))",
    "array_of_objects": "import numpy as np\nreturn np.array([object(), None])",
    "dict_of_objects": "return {'a': object()}",
}

RETURNED = {**SIMPLE, **ARRAYS, **WITH_BOUNDS, **XARRAYS, **TABLES, **GEOMETRIES, **BUNDLES, **DOCUMENTS}


def source(body: str, signature: str = "") -> str:
    """The file of a UDF with this body."""
    return f"@fused.udf\ndef udf({signature}):\n{indent(dedent(body).strip(), '    ')}\n"
