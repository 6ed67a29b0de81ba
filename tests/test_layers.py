"""The layers: what each module may import, and what the web process must never load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tileserver"

CORE = frozenset(
    {"tileserver", "errors", "tiles", "formats", "units", "protocol", "replies", "signature"}
    | {"styles", "subject", "udf", "documents", "wmts", "interest", "kept", "redaction"}
)
CORE_LIBRARIES = frozenset({"mercantile"})
SERVER_LIBRARIES = CORE_LIBRARIES | {"starlette"}
WORKER_LIBRARIES = CORE_LIBRARIES | {
    *(
        "affine",
        "geopandas",
        "isal",
        "lxml",
        "numpy",
        "openpyxl",
        "pandas",
        "PIL",
        "ttf_opensans",
    ),
    *("fsspec", "pyarrow", "pyproj", "rasterio", "rio_tiler", "rioxarray", "shapely", "xarray", "zstandard"),
}
PIPELINE = frozenset(
    {"access", "catalog", "canvas", "params", "paths", "posted", "cache", "executor", "settings"}
    | {"asks", "fetching", "loading", "metadata", "metatiles", "mirror", "pipeline", "reaching", "services"}
    | {"vault", "waits"}
)

# Per module: modules of ours that it may import, by their first name, and libraries. The longest matching
# name counts; within a folder, imports of the folder's own modules are always allowed.
ALLOWED: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    # core: no input or output, importable anywhere
    "errors": (frozenset(), frozenset()),
    "units": (frozenset(), frozenset()),
    **dict.fromkeys(
        ("tiles", "formats", "protocol", "signature", "styles", "subject", "udf"), (CORE, CORE_LIBRARIES)
    ),
    **dict.fromkeys(("replies", "interest", "kept", "redaction"), (frozenset(), frozenset())),
    **dict.fromkeys(("documents", "wmts"), (CORE, CORE_LIBRARIES)),
    # server: the web process
    "settings": (CORE, frozenset()),
    "state": (CORE, frozenset()),
    "access": (CORE | {"state"}, frozenset()),
    "stamps": (frozenset(), frozenset()),
    "canvas": (CORE | {"own_styles", "stamps"}, frozenset()),
    "own_styles": (CORE, frozenset()),
    "catalog": (CORE | {"canvas"}, frozenset()),
    "vault": (CORE | {"canvas", "state"}, frozenset({"cryptography"})),
    "paths": (CORE | {"access", "canvas", "catalog", "params"}, frozenset()),
    "mirror": (CORE, frozenset()),
    "fetching": (CORE | {"mirror"}, frozenset()),
    "loading": (CORE | {"fetching", "mirror"}, frozenset()),
    "waits": (CORE, frozenset()),
    "params": (CORE, CORE_LIBRARIES),
    "posted": (CORE | {"params"}, frozenset()),
    "asks": (CORE | {"params", "posted"}, frozenset()),
    "openapi": (CORE | {"params"}, frozenset()),
    "runs": (CORE, frozenset()),
    "metadata": (CORE, frozenset()),
    "metatiles": (CORE | {"params"}, frozenset()),
    "tidying": (frozenset(), frozenset()),
    "coding": (CORE | {"cache"}, frozenset({"isal", "zstandard"})),
    "cache": (CORE, frozenset({"cryptography"})),
    "sandbox": (frozenset(), frozenset()),
    "executor": (CORE | {"sandbox"}, CORE_LIBRARIES),
    "doctor": (CORE | {"executor", "sandbox"}, frozenset()),
    "requestlog": (frozenset(), frozenset()),
    "telemetry": (CORE | {"requestlog"}, frozenset()),
    "counts": (frozenset(), frozenset()),
    "metrics": (CORE | {"counts", "executor"}, frozenset()),
    "edge": (CORE | {"requestlog"}, SERVER_LIBRARIES),
    "forwarding": (frozenset(), frozenset()),
    "processes": (CORE | {"sandbox"}, frozenset({"starlette"})),
    "requests": (CORE | {"access", "params", "services"}, SERVER_LIBRARIES),
    "layers": (CORE | {"params", "pipeline", "services"}, CORE_LIBRARIES),
    "answers": (CORE | {"access", "cache", "coding", "metadata", "params"}, frozenset()),
    "responses": (
        CORE | {"access", "answers", "metadata", "params", "requests", "services"},
        SERVER_LIBRARIES,
    ),
    "front": (
        CORE | PIPELINE | {"answers", "coding", "edge", "requestlog", "requests", "state"},
        SERVER_LIBRARIES,
    ),
    **dict.fromkeys(("pipeline", "reaching", "services"), (CORE | PIPELINE, CORE_LIBRARIES)),
    "pages": (CORE | {"access", "params", "pipeline", "settings"}, SERVER_LIBRARIES),
    "routes": (
        CORE
        | {"access", "layers", "openapi", "params", "paths", "pipeline", "pages", "requests", "responses"}
        | {"services"},
        SERVER_LIBRARIES,
    ),
    "saving": (CORE | {"canvas", "params", "posted"}, frozenset()),
    "platform": (
        CORE | PIPELINE | {"platform", "requests", "responses", "runs", "saving"},
        SERVER_LIBRARIES,
    ),
    "app": (
        CORE
        | PIPELINE
        | {"coding", "edge", "front", "metrics", "pages", "platform", "processes", "requestlog", "requests"}
        | {"answers", "responses", "routes", "sandbox", "doctor", "telemetry", "tidying"},
        SERVER_LIBRARIES,
    ),
    "wire": (frozenset({"forwarding", "front"}), SERVER_LIBRARIES | {"uvicorn"}),
    "server": (
        CORE | PIPELINE | {"app", "doctor", "forwarding", "front", "processes", "telemetry", "wire"},
        frozenset({"starlette", "uvicorn", "uvloop"}),
    ),
    "demo": (CORE, frozenset()),
    "cli": (
        CORE | PIPELINE | {"state", "app", "server", "demo", "worker", "telemetry", "sandbox", "tidying"},
        frozenset({"click", "mercantile", "uvicorn"}),
    ),
    "__main__": (frozenset({"cli"}), frozenset()),
    # worker: child processes
    "worker": (CORE | {"worker", "render", "fused", "sandbox"}, WORKER_LIBRARIES),
    "raster": (CORE | {"raster"}, WORKER_LIBRARIES),
    "render": (CORE | {"render", "raster"}, WORKER_LIBRARIES),
    "fused": (CORE | {"fused", "worker"}, WORKER_LIBRARIES),
    "tileserver": (frozenset(), frozenset()),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its dotted name under ``tileserver``; the package itself by its own."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[:2] != ("demo", "workspace"):
            name = ".".join(relative.with_suffix("").parts).removesuffix("__init__").strip(".")
            yield name or "tileserver", path


def imports(name: str, path: Path) -> Iterator[str]:
    """The dotted names that a module imports, anywhere in it; ours begin with "tileserver."."""
    inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["tileserver", *inside][: len(inside) + 2 - node.level]
                base = ".".join([*parents, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" if base == "tileserver" else base for alias in node.names)


def own_modules() -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name, _ in modules())


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_module_imports_only_what_its_layer_may(name: str, path: Path) -> None:
    """A module imports the standard library and what the table allows, inside functions too."""
    first = name.partition(".")[0]
    ours, libraries = ALLOWED[first]

    for imported in imports(name, path):
        top, _, rest = imported.partition(".")
        if top == "tileserver":
            target = rest.partition(".")[0]
            # "from tileserver import __version__" names no module.
            target = target if target in own_modules() else "tileserver"
            assert target in ours | {first, "tileserver"}, f"{name} imports {imported}"
        else:
            assert top in libraries | sys.stdlib_module_names, f"{name} imports {imported}"


def test_encoders_do_not_know_each_other() -> None:
    """An output format can be replaced alone: pictures, vector tiles and tables don't import each other."""
    paths = dict(modules())

    for one in ("render.raster", "render.vector_tile", "render.table"):
        others = {"tileserver.render.raster", "tileserver.render.vector_tile", "tileserver.render.table"}
        assert not (others - {f"tileserver.{one}"}) & set(imports(one, paths[one]))


def test_table_has_no_row_for_a_module_that_is_gone() -> None:
    """The table names modules that exist."""
    assert ALLOWED.keys() <= own_modules()


def test_web_process_loads_nothing_heavy() -> None:
    """Importing the application loads no array, table or geometry library, and nothing of the worker."""
    heavy = {"numpy", "pandas", "geopandas", "rasterio", "rio_tiler", "shapely", "pyarrow", "xarray", "PIL"}
    heavy |= {"tileserver.worker.runner", "tileserver.render", "tileserver.raster", "tileserver.fused"}
    code = f"import sys, tileserver.app; print(sorted({heavy!r} & sys.modules.keys()))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_command_line_starts_without_heavy_libraries() -> None:
    """``tileserver --help`` answers before numpy could have been loaded."""
    code = "import sys, tileserver.cli; print(sorted({'numpy', 'pandas', 'rasterio'} & sys.modules.keys()))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
