"""``fastapi`` for UDFs where it is not installed: published UDFs import its responses, Starlette's own."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final

# What stands in for a module: names, and the modules of Starlette that they come from.
_NAMES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "fastapi": {
        "starlette.responses": ("Response",),
        "starlette.requests": ("Request",),
        "starlette.exceptions": ("HTTPException",),
        "starlette": ("status",),
    },
    "fastapi.responses": {
        "starlette.responses": (
            *("FileResponse", "HTMLResponse", "JSONResponse", "PlainTextResponse", "RedirectResponse"),
            *("Response", "StreamingResponse"),
        ),
    },
    "fastapi.exceptions": {"starlette.exceptions": ("HTTPException",)},
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _NAMES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=fullname == "fastapi")

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        for source, names in _NAMES[module.__name__].items():
            for name in names:
                try:
                    value = getattr(importlib.import_module(source), name)
                except AttributeError:
                    value = importlib.import_module(f"{source}.{name}")
                setattr(module, name, value)


_finder = _Finder()


def install() -> None:
    """Offer the stand-ins after everything that is installed. For worker processes."""
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
