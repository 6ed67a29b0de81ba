"""Stories of running UDFs: each public function is one, and its docstring says what holds."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import fused
import numpy as np
import pandas as pd
import requests
from compare import assert_same
from telling import DOUBLE, holding, raises, shown

# -- running


def run_by_joined_token(at: Any) -> None:
    """The older form joins the canvas's token and the UDF's name."""
    assert fused.run(f"{at.city}-greeting", name="Ada") == {"hello": "Ada"}


def run_by_token_of_one_udf(at: Any) -> None:
    """A token of one UDF needs no name, for a single run and for a tile."""
    assert fused.run(at.one, name="Ada") == {"hello": "Ada"}
    assert fused.run(at.one_tile, x=1, y=2, z=3).shape == (1, 4, 4)


def run_by_polling_takes_longer_than_a_request(at: Any) -> None:
    """A run that takes longer than one request waits is asked for until it is there."""
    udf = fused.load("@fused.udf\ndef udf():\n    import time\n    time.sleep(2.5)\n    return 'slept'\n")

    assert fused.run(udf) == "slept"


def run_without_polling(at: Any) -> None:
    """One request gives the same result."""
    udf = fused.load(DOUBLE)

    assert_same(fused.run(udf, n=4, _use_polling=False), fused.run(udf, n=4, engine="local"))


def run_by_calling(at: Any) -> None:
    """A UDF of the client is called as a function; positional arguments are named."""
    udf = fused.load(DOUBLE)

    assert udf(5)["twice"].tolist() == [10]
    assert udf(n=6)["twice"].tolist() == [12]


def run_decorated_function(at: Any) -> None:
    """The decorator takes the function's source from its file, with its name and its line numbers."""
    from decorated import divided

    assert divided(by=2) == [0.0, 0.5, 1.0]
    local = fused.run(divided, by=0, engine="local", _return_response=True)
    with raises(fused.types.UdfRuntimeError, f"in line {local.error_lineno}:\nZeroDivisionError"):
        divided(by=0)


def run_with_modules(at: Any) -> None:
    """Modules sent along with a UDF can be imported by it."""
    folder = Path(tempfile.mkdtemp())
    (folder / "helpers.py").write_text("def thrice(n):\n    return 3 * n\n")
    code = "@fused.udf\ndef udf(n: int):\n    from helpers import thrice\n    return thrice(n)\n"
    udf = fused.load(code)
    udf.headers = [fused.models.udf.header.Header.from_code("helpers", str(folder / "helpers.py"))]

    assert fused.run(udf, n=4) == 12


def run_with_several_functions(at: Any) -> None:
    """Of several decorated functions the one called udf runs, and may call the others."""
    code = (
        "@fused.udf\ndef part(n: int):\n    return n + 1\n\n"
        "@fused.udf\ndef udf(n: int):\n    return [n, fused.run(part, n=n)]\n"
    )

    assert fused.run(fused.load(code, import_globals=False), n=1) == [1, 2]


def run_asynchronously(at: Any) -> None:
    """The asynchronous client gets the same tables."""
    udf = fused.load(DOUBLE)

    assert_same(asyncio.run(fused.run_async(udf, n=3)), fused.run(udf, n=3, engine="local"))


def run_a_tile_by_object(at: Any) -> None:
    """Arrays of a tile come as they were returned."""
    code = "@fused.udf\ndef udf(bounds: fused.types.Bounds):\n    import numpy as np\n    return np.array([bounds])\n"
    udf = fused.load(code)

    for polling in (True, False):
        sent = fused.run(udf, x=5, y=6, z=7, _use_polling=polling)
        assert_same(sent, fused.run(udf, x=5, y=6, z=7, engine="local"))


def formats_of_a_call(at: Any) -> None:
    """A format of the caller's choice, and the legacy pair, are answered in that format."""
    chosen = fused.run(f"{at.city}/places", _format="json", _return_response=True)
    legacy = fused.run(
        f"{at.city}/tile", dtype_out_vector="json", dtype_out_raster="tiff", _return_response=True
    )

    assert chosen.data["type"] == "FeatureCollection"
    assert chosen.original_headers["content-type"] == "application/json"
    assert legacy.original_headers["content-type"] == "image/tiff"


def unknown_arguments_are_the_clients_to_refuse(at: Any) -> None:
    """A token's caller may pass more than the UDF takes."""
    assert fused.run(f"{at.city}/greeting", name="Ada", more=1) == {"hello": "Ada"}


# -- what runs tell


def prints_areshown(at: Any) -> None:
    """What a UDF prints appears where the caller asks for it."""
    udf = fused.load("@fused.udf\ndef udf():\n    print('said é')\n    return 1\n")

    assert "said é\n" in shown(lambda: fused.run(udf, verbose=True))
    assert shown(lambda: fused.run(udf, verbose=False)) == ""
    assert fused.run(f"{at.city}/talks", _return_response=True).stdout == "talks\n"


def long_prints_are_cut(at: Any) -> None:
    """A long output is cut in its middle, and the result comes all the same."""
    udf = fused.load("@fused.udf\ndef udf():\n    print('a' + 'x' * 100_000 + 'z')\n    return 1\n")

    result = fused.run(udf, _return_response=True)

    assert result.data == 1
    assert result.stdout.startswith("a") and result.stdout.endswith("z\n") and len(result.stdout) < 12_000


def cached_results_say_so(at: Any) -> None:
    """The second call is answered from the cache, with the output of the first; an age of 0 runs again."""
    number = uuid.uuid4().int % 10**9

    first = fused.run(f"{at.city}/counted", n=number, _return_response=True)
    second = fused.run(f"{at.city}/counted", n=number, _return_response=True)
    fresh = fused.run(f"{at.city}/counted", n=number, cache=False, _return_response=True)

    assert (first.is_cached, second.is_cached, fresh.is_cached) == (False, True, False)
    assert second.data == first.data and second.stdout == first.stdout != fresh.stdout
    assert "returned cached result" in shown(lambda: fused.run(f"{at.city}/counted", n=number, verbose=True))


def cached_objects_say_so(at: Any) -> None:
    """Posted runs are cached by code and arguments, for the age that the decorator or the call names."""
    number = uuid.uuid4().int % 10**9
    code = "@fused.udf({})\ndef udf(n: int):\n    import uuid\n    return [n, str(uuid.uuid4())]\n"
    kept, never = fused.load(code.format("")), fused.load(code.format("cache_max_age='0s'"))

    assert fused.run(kept, n=number) == fused.run(kept, n=number)
    assert fused.run(kept, n=number) != fused.run(kept, n=number, cache_max_age="0s")
    assert fused.run(never, n=number) != fused.run(never, n=number)


def time_limit_is_its_own_error(at: Any) -> None:
    """A run over its time limit raises the client's timeout error."""
    with raises(fused.types.UdfTimeoutError, "longer than its limit of 1 s"):
        fused.run(f"{at.city}/endless", x=0, y=0, z=0)


def syntax_error_names_its_line(at: Any) -> None:
    """Source that can't be parsed fails as the engine's would, with the line."""
    with raises(fused.types.UdfRuntimeError, "in line 3:\nSyntaxError"):
        fused.run(f"{at.city}/unparsed")


def unknown_tokens_and_names_are_not_found(at: Any) -> None:
    """A token or a name that there isn't is an HTTP error, not the UDF's; its text says what is wrong."""
    for wrong in ("fc_nothing/greeting", f"{at.city}/nothing", "fsh_nothing", "UDF_Nothing"):
        try:
            fused.run(wrong)
        except requests.HTTPError as error:
            assert error.response.status_code == 404 and str(error)
        else:
            raise AssertionError(wrong)


def wrong_access_token_is_refused(at: Any) -> None:
    """An access token that isn't known runs nothing, and doesn't get in the way of a share token."""
    with holding("nobody"):
        with raises(requests.HTTPError, "access token"):
            fused.run(fused.load(DOUBLE))
        assert fused.run(f"{at.city}/greeting", name="Ada") == {"hello": "Ada"}


def recursion_is_told(at: Any) -> None:
    """The client's own depth reaches the server, which counts on."""
    result = fused.run(f"{at.city}/deep", _return_response=True)

    assert result.exception_class == "RecursionError"


# -- one UDF runs another


def nested_runs_by_token(at: Any) -> None:
    """A UDF of a canvas runs and loads its neighbours."""
    assert fused.run(f"{at.city}/nested", name="Ada") == [{"hello": "Ada"}, "Hello"]


def nested_runs_by_object(at: Any) -> None:
    """A UDF loaded from a canvas runs in it, beside its neighbours."""
    udf = fused.load(f"{at.city}/nested", import_globals=False)

    assert fused.run(udf, name="Ada") == [{"hello": "Ada"}, "Hello"]


# -- many runs


def submit_collects_a_table(at: Any) -> None:
    """A run for each argument, and one table of all."""
    udf = fused.load(DOUBLE)
    remote = fused.submit(udf, [1, 2, 3], cache=False)
    local = fused.submit(udf, [1, 2, 3], engine="local", cache=False)

    pd.testing.assert_frame_equal(remote, local)


def submit_by_token(at: Any) -> None:
    """A token can be submitted, too."""
    pool = fused.submit(f"{at.city}/greeting", [{"name": "a"}, {"name": "b"}], collect=False, cache=False)

    assert pool.results() == [{"hello": "a"}, {"hello": "b"}]


def submit_tells_errors(at: Any) -> None:
    """One failure is that one's alone."""
    code = (
        "@fused.udf\ndef udf(n: int):\n    import pandas as pd\n    return pd.DataFrame({'n': [10 // n]})\n"
    )

    pool = fused.submit(fused.load(code), [5, 0, 2], collect=False, cache=False, max_retry=0)
    pool.wait()

    assert list(pool.errors()) == [1]
    assert "in line 4:\nZeroDivisionError" in str(pool.first_error())


def map_runs_asynchronously(at: Any) -> None:
    """``udf.map`` gives a pool whose table is the same as the engine's."""
    udf = fused.load(DOUBLE)

    remote, local = udf.map([1, 2, 3], cache=False), udf.map([1, 2, 3], engine="local", cache=False)

    pd.testing.assert_frame_equal(remote.df(), local.df())


# -- large and many


def custom_deployment_url(at: Any) -> None:
    """One address of the deployment is all that the client needs: both of its bases follow from it."""
    kept = fused.options.base_url, fused.options.shared_udf_base_url
    try:
        fused._env(at.url)
        assert fused.options.shared_udf_base_url == f"{at.url}/server/v1/realtime-shared"
        assert fused.run(f"{at.city}/greeting", name="Ada") == {"hello": "Ada"}
        assert fused.run(fused.load(DOUBLE), n=1)["twice"].tolist() == [2]
        assert fused.run(f"{at.city}/tile", x=1, y=2, z=3).shape == (1, 4, 4)
    finally:
        fused.options.base_url, fused.options.shared_udf_base_url = kept


def large_arguments(at: Any) -> None:
    """Arguments of 50 kB pass in a query, those of a posted UDF may be larger."""
    text = "ü" * 10_000

    assert fused.run(f"{at.city}/greeting", name=text) == {"hello": text}
    udf = fused.load("@fused.udf\ndef udf(t: str):\n    return len(t)\n")
    assert fused.run(udf, t="x" * 2_000_000) == 2_000_000


def large_results(at: Any) -> None:
    """Results of tens of megabytes come whole."""
    udf = fused.load("@fused.udf\ndef udf():\n    import numpy as np\n    return np.arange(4_000_000)\n")

    assert_same(fused.run(udf), np.arange(4_000_000))


def runs_at_the_same_time(at: Any) -> None:
    """Runs that wait do so side by side."""
    code = "@fused.udf\ndef udf(n: int):\n    import time\n    time.sleep(0.5)\n    return n\n"
    start = time.monotonic()

    pool = fused.submit(fused.load(code), [1, 2, 3], collect=False, cache=False)

    assert pool.results() == [1, 2, 3]
    assert time.monotonic() - start < 1.4
