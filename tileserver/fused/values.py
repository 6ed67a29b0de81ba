"""``fused.secrets``, ``fused.options`` and ``fused.utils``: small mappings with attributes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tileserver.fused import files, neighbours, state


class Secrets(Mapping[str, str]):
    """The secrets of the running UDF's canvas: ``secrets["NAME"]`` or ``secrets.NAME``."""

    def __getitem__(self, name: str) -> str:
        values = state.current().secrets
        if name not in values:
            raise KeyError(f"no secret called {name!r}")
        return values[name]

    def __getattr__(self, name: str) -> str:
        try:
            return self[name]
        except (KeyError, RuntimeError):
            raise AttributeError(f"no secret called {name!r}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(state.current().secrets)

    def __len__(self) -> int:
        return len(state.current().secrets)

    def __dir__(self) -> list[str]:
        return sorted(self)

    def __repr__(self) -> str:
        return "<fused.secrets>"  # the values must not reach a log by accident


class Options:
    """Settings of Fused's client. They may be read and set, and change nothing here; unset ones are None, but
    for folders and groups of settings."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in {"auth", "show"}:
            group = Options()
            object.__setattr__(self, name, group)
            return group
        if name in {"data_directory", "cache_directory"}:
            return files.folder()
        return Path(tempfile.gettempdir()) if name == "temp_directory" else None

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


class Utils:
    """The older way to helpers, before ``fused.load``: ``utils.NAME`` or ``utils["NAME"]`` is the module
    ``utils`` of a UDF of that name in the canvas, else of a public one; the UDF itself where it has none."""

    def __getitem__(self, name: str) -> Any:
        udf = neighbours.load(name if neighbours.own_name(name) else f"UDF_{name}")
        state.current().uncounted = True  # the revision counts what is loaded by fused.load
        try:
            return udf.utils
        except AttributeError:
            return udf

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except LookupError as error:
            raise AttributeError(f"fused.utils has no {name!r}: {error}") from None


secrets = Secrets()
options = Options()
utils = Utils()


def secret(name: str) -> str:
    """The secret of this name.

    :raises KeyError: when the canvas has none.
    """
    return secrets[name]
