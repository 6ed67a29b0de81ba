"""Libraries that read a table whose results are not kept: what they ask for in parts is still of one run.

For ten seconds after a run, HEAD, ranges and conditions of the same address and credential are answered with
its bytes; a plain GET always runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Server, serving
from tests.counting import runs
from tests.test_clients_tables import FILES, PLACES, READERS, ROWS, SUM, url_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("uncached"), FILES) as running:
        yield running


@pytest.mark.parametrize("name", READERS)
def test_a_table_is_read_in_one_run(server: Server, name: str) -> None:
    """Every row, all of one run, with an age of zero in the address."""
    extension, read = READERS[name]
    url, before = url_of(server, extension, "&cache_max_age=0"), runs(server.url)

    assert read(url) == (SUM, ROWS, 1)
    assert runs(server.url) == before + 1


# It asks whether the file exists by plain GETs, each of which is a run.
PROBES = "geopandas.read_parquet"


@pytest.mark.parametrize("name", sorted(PLACES.keys() - {PROBES}))
def test_a_table_of_places_is_read_in_one_run(server: Server, name: str) -> None:
    """The same, of tables with geometry."""
    extension, read = PLACES[name]
    url, before = url_of(server, extension, "&points=500&cache_max_age=0"), runs(server.url)
    frame = read(url)

    assert (len(frame), frame["run"].nunique()) == (500, 1)
    assert runs(server.url) == before + 1


def test_a_table_that_is_probed_for_is_of_one_run(server: Server) -> None:
    """However often it is made, what is read of it belongs together."""
    extension, read = PLACES[PROBES]
    frame = read(url_of(server, extension, "&points=100000&cache_max_age=0"))

    assert (len(frame), frame["run"].nunique()) == (100_000, 1)


def test_reading_again_runs_again(server: Server) -> None:
    """The rows of a second read are of a second run."""
    _, read = READERS["pandas.read_csv"]
    url, before = url_of(server, "csv", "&cache_max_age=0"), runs(server.url)

    assert read(url) == read(url)
    assert runs(server.url) == before + 2
