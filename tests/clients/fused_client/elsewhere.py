"""Stories of what reaches beyond one UDF: secrets, sessions, sources from elsewhere, runs inside of runs."""

from __future__ import annotations

from typing import Any

import fused
import requests
from fused._global_api import get_api
from fused._secrets import SecretsManager
from telling import raises

_INSIDE = """
@fused.udf
def udf(other: str):
    return fused.run(other, name="inside")
"""


# -- secrets and sessions


def secrets_of_a_canvas(at: Any) -> None:
    """A secret is written, read by the canvas's UDFs, listed, and removed."""
    secrets = SecretsManager("city")

    secrets["API_KEY"] = "first é"
    assert secrets["API_KEY"] == secrets.API_KEY == "first é"
    assert "API_KEY" in list(secrets)
    assert fused.run(f"{at.city}/reads_secret") == "first é"

    secrets["API_KEY"] = "second"
    assert fused.run(f"{at.city}/reads_secret") == "second"

    del secrets["API_KEY"]
    with raises(requests.HTTPError, ""):
        secrets["API_KEY"]
    with raises(fused.types.UdfRuntimeError, "KeyError"):
        fused.run(f"{at.city}/reads_secret")


def session_of_a_team_canvas(at: Any) -> None:
    """A session token opens a team's canvas to whoever has no credential, by an address alone."""
    api = get_api()
    made = api.create_collection("for_sessions")
    udf = fused.load("@fused.udf\ndef udf():\n    return 'for the team'\n")
    udf.name = "inside"
    udf.to_fused(collection_name="for_sessions")
    shared = api.share_collection(made.id)

    session = api._session_token(shared, session_max_age="5m")

    address = f"{at.url}/{shared.share_token}/inside.json"
    assert requests.get(address, timeout=10).status_code == 401
    opened = requests.get(address, params={"fused_session_token": session.session_token}, timeout=10)
    assert opened.json() == "for the team"


def saved_run_of_the_older_client(at: Any) -> None:
    """The older addresses of saved UDFs answer to a credential."""
    address = f"{at.url}/server/v1/realtime/basic-tier/api/v1/run/udf/saved/me@example.com"
    headers = fused.api.FusedAPI()._generate_headers()

    single = requests.get(
        f"{address}/greeting", {"name": "Ada", "dtype_out_vector": "json"}, headers=headers, timeout=10
    )
    tile = requests.get(
        f"{address}/tile/tiles/3/1/2", {"dtype_out_raster": "png"}, headers=headers, timeout=10
    )

    assert single.json() == {"hello": "Ada"}
    assert tile.headers["content-type"] == "image/png"


# -- sources from elsewhere


def load_from_an_address(at: Any) -> None:
    """A folder stands for an address: its UDF and its helpers are loaded by the client."""
    udf = fused.load(f"{at.address}/seven")

    assert udf.utils.seven() == 7
    assert fused.run(udf) == fused.run(udf, engine="local") == 7


def load_helpers_from_an_address(at: Any) -> None:
    """A module of helpers, as published UDFs load it, is an object with their names."""
    assert fused.load(f"{at.address}/common/").doubled(2) == 4
    assert fused.run(f"{at.city}/loads_helpers") == 42


# -- runs inside of runs


def run_of_a_token_inside_a_run(at: Any) -> None:
    """A UDF runs another canvas's by its token, whoever sent it."""
    token = f"{at.city}/greeting"

    assert fused.run(fused.load(_INSIDE), other=token) == {"hello": "inside"}
    assert fused.run(f"{at.city}/runs_token", other=f"{at.closed}/secretive") == "ran"


def submit_inside_a_run(at: Any) -> None:
    """A UDF runs its neighbour over a list, all at once."""
    assert fused.run(f"{at.city}/submits", n=4) == [0, 2, 4, 6]


def recursion_stops(at: Any) -> None:
    """A UDF that runs itself by its own token ends with an error, not with the server."""
    with raises(fused.types.UdfRuntimeError, "RecursionError"):
        fused.run(f"{at.city}/runs_token", other=f"{at.city}/runs_token", again=True)
