"""``fused.secrets`` and ``fused.options``: two small mappings with attributes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tileserver.fused import files, state


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


secrets = Secrets()
options = Options()


def secret(name: str) -> str:
    """The secret of this name.

    :raises KeyError: when the canvas has none.
    """
    return secrets[name]
