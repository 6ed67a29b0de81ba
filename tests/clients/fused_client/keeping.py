"""Stories of loading, saving and sharing UDFs: each public function is one, and its docstring says what holds."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import fused
import requests
from fused._global_api import get_api
from telling import holding, named, raises

# -- loading


def load_by_token(at: Any) -> None:
    """A token that lets its holders read the code loads the source as it is."""
    udf = fused.load(f"{at.city}/greeting")

    assert udf.code == at.files["city/greeting.py"]
    assert (udf.name, udf.collection_name, udf.entrypoint) == ("greeting", "city", "udf")
    assert udf.GREETING == "Hello"
    assert fused.run(udf, name="Ada", engine="local") == fused.run(udf, name="Ada") == {"hello": "Ada"}


def load_without_the_right_to(at: Any) -> None:
    """Without that right the client says to run it instead; it runs. Administrators have it."""
    with holding(at.runner):
        with raises(ValueError, "You may want to call `run` instead of `load`"):
            fused.load(f"{at.closed}/secretive")
        assert fused.run(f"{at.closed}/secretive") == "ran"
    assert fused.load(f"{at.closed}/secretive").name == "secretive"


def load_by_name(at: Any) -> None:
    """A name is looked for in the canvas called default, and in one that the caller names."""
    assert fused.load("greeting", collection_name="city").code == at.files["city/greeting.py"]
    for owner in ("me@example.com", "team", "me"):
        assert fused.load(f"{owner}/greeting").code == at.files["city/greeting.py"]
    with raises(requests.HTTPError, "nowhere"):
        fused.load("nowhere")


def load_by_id(at: Any) -> None:
    """The id of a loaded UDF loads it again."""
    udf = fused.load("greeting", collection_name="city")

    assert fused.load(udf.metadata["fused:id"]).code == udf.code


def load_with_modules(at: Any) -> None:
    """The modules of a UDF come with it, and its old attribute for them."""
    udf = fused.load(f"{at.city}/with_utils")

    assert udf.utils.seven() == 7
    assert fused.run(udf) == fused.run(udf, engine="local") == 7


def load_asynchronously(at: Any) -> None:
    """The asynchronous client loads the same."""
    assert asyncio.run(fused.load_async("me@example.com/greeting")).code == at.files["city/greeting.py"]


# -- saving


def save_and_load(at: Any) -> None:
    """A saved UDF is loaded and run by its name, under the function's new name."""
    code = "@fused.udf\ndef area(side: float = 2):\n    return side**2\n"
    udf = named(code, "saved_area")

    udf.to_fused()

    again = fused.load("saved_area")
    assert again.entrypoint == "udf" and again.metadata["fused:id"] == udf.metadata["fused:id"]
    assert fused.run("saved_area", side=3) == 9.0
    assert fused.run("saved_area", side=3, engine="local") == 9.0


def save_again(at: Any) -> None:
    """Saving over a UDF needs to be asked for, unless it is the very same one."""
    first = named("@fused.udf\ndef udf():\n    return 1\n", "saved_twice").to_fused()
    other = named("@fused.udf\ndef udf():\n    return 2\n", "saved_twice")

    with raises(ValueError, "Use overwrite=True"):
        other.to_fused()
    assert fused.run("saved_twice") == 1

    other.to_fused(overwrite=True)
    assert fused.run("saved_twice") == 2
    first.code = first.code.replace("1", "3")
    first.to_fused()
    assert fused.run("saved_twice") == 3


def save_into_a_canvas(at: Any) -> None:
    """A canvas that isn't there is made when that is asked for."""
    udf = named("@fused.udf\ndef udf():\n    return 'here'\n", "placed")

    with raises(ValueError, "not found"):
        udf.to_fused(collection_name="new_canvas")
    udf.to_fused(collection_name="new_canvas", create_collection=True)

    assert udf.collection_name == "new_canvas"
    assert fused.load("placed", collection_name="new_canvas").code == udf.code


def delete_a_saved_udf(at: Any) -> None:
    """A deleted UDF is gone."""
    udf = named("@fused.udf\ndef udf():\n    return 1\n", "short_lived").to_fused()

    udf.delete_saved()

    with raises(requests.HTTPError, "short_lived"):
        fused.load("short_lived")


def list_saved_udfs(at: Any) -> None:
    """The list of UDFs ends, whatever the size of its pages."""
    assert {"city/greeting", "city/places", "values/int"} <= fused.api.get_udfs().keys()
    assert fused.api.get_udfs(whose="public") == {}


# -- sharing


def share_one_udf(at: Any) -> None:
    """A token of a saved UDF runs it, until it is switched off or deleted."""
    udf = named("@fused.udf\ndef udf(n: int = 1):\n    return n + 1\n", "shared_one").to_fused()

    token = udf.create_access_token()

    assert token.token.startswith("fsh_") and token.udf_slug == "shared_one"
    assert fused.run(token, n=2) == fused.run(token.token, n=2) == 3
    assert requests.get(token.get_file_url(format="json"), params={"n": 4}, timeout=10).json() == 5
    assert [one.token for one in udf.get_access_tokens()] == [token.token]
    assert requests.get(udf.shared_url(format="json"), timeout=10).json() == 2
    assert token.update(enabled=False).enabled is False
    with raises(requests.HTTPError, ""):
        fused.run(token, n=2)
    assert token.update(enabled=True).enabled and fused.run(token, n=2) == 3
    token.delete()
    with raises(requests.HTTPError, ""):
        fused.run(token, n=2)
    assert udf.get_access_token() is None


def tile_urls_of_a_token(at: Any) -> None:
    """The addresses that the client makes of a token are answered."""
    token = get_api().get_udf_access_token(at.one_tile)

    address = token.get_tile_url(x=1, y=2, z=3, format="png")

    assert requests.get(address, timeout=10).headers["content-type"] == "image/png"


def share_a_canvas(at: Any) -> None:
    """A canvas is made, listed, shared, opened to the public, given a new token, and unshared."""
    api = get_api()
    made = api.create_collection("made_here")
    named("@fused.udf\ndef udf():\n    return 'public'\n", "inside").to_fused(collection_name="made_here")

    assert made.name in {one["name"] for one in api.list_collections()}
    assert made.name in {one["name"] for one in api.list_collections(whose="team", lite=False, per_request=1)}
    assert api.get_collection_by_id(made.id).name == api.get_collection_by_name("made_here")["name"]
    shared = api.share_collection(made.id)
    assert shared.access_scope == "team" and fused.run(f"{shared.share_token}/inside") == "public"
    address = f"{at.url}/{shared.share_token}/inside.json"
    assert requests.get(address, timeout=10).status_code == 401

    api.update_collection(made.id, name="made_here", access_scope="public")
    assert requests.get(address, timeout=10).json() == "public"
    udf = fused.load("inside", collection_name="made_here")
    assert udf.get_canvas_share_token() == shared.share_token

    renewed = api.share_collection(made.id, new_token=True)
    assert renewed.share_token != shared.share_token
    assert requests.get(address, timeout=10).status_code == 404

    api.unshare_collection(made.id)
    with raises(requests.HTTPError, ""):
        fused.run(f"{renewed.share_token}/inside")


def invalidate_results(at: Any) -> None:
    """A UDF's stored results are forgotten, all of them or those of a tile."""
    udf = fused.load("counted", collection_name="city")
    number = uuid.uuid4().int % 10**9
    first = fused.run(f"{at.city}/counted", n=number)

    udf.invalidate_cache()
    second = fused.run(f"{at.city}/counted", n=number)
    udf.invalidate_cache(z=1, x=0, y=0)
    third = fused.run(f"{at.city}/counted", n=number)

    assert first != second == third


# -- who and where


def who_and_where(at: Any) -> None:
    """The holder of an access token goes by its name; the server is alive and has one place to run."""
    assert fused.api.whoami()["email"] == "me@example.com"
    assert get_api()._health() is True
    assert get_api()._automatic_realtime_client_id()
