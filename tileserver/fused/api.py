"""``fused.api``: files, in the owner's folder or in an object store, and who owns the running code.

A path is one in the owner's folder (``fd://`` may begin it), or an address of an object store that fsspec
knows. What else Fused's own service has, this server has not.
"""

from __future__ import annotations

import builtins
import datetime as dt
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, NoReturn

import pandas as pd

from tileserver.fused import context, files, neighbours, state

__all__ = [
    "delete",
    "download",
    "get",
    "get_udfs",
    "list",
    "resolve",
    "sign_url",
    "sign_url_prefix",
    "team_info",
    "upload",
    "whoami",
]

_OWN: Final = "fd://"
_SIGNED_FOR: Final = 3600  # seconds


@dataclass(frozen=True, slots=True)
class ListDetails:
    """A file or folder, by the names that the client of Fused has."""

    url: str
    file_name: str
    is_directory: bool = False
    size: int | None = None
    last_modified: dt.datetime | None = None


def resolve(path: str) -> str:
    """The full path or address that a path stands for."""
    return path if _is_remote(path) else str(_own(path))


def get(path: str) -> bytes:
    """The content of a file."""
    if _is_remote(path):
        with _open(path) as file:
            return file.read()
    return _own(path).read_bytes()


def download(path: str, local_path: str | os.PathLike[str]) -> None:
    """Copy a file to a local one, in the owner's folder."""
    target = files.inside(local_path)
    target.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
    if _is_remote(path):
        with _open(path) as file:
            files.write(target, file)
        return
    with _own(path).open("rb") as file:
        files.write(target, file)


def upload(local_path: Any, remote_path: str, timeout: float | None = None) -> None:
    """Store a local file (text and paths), bytes, an open file, or a frame (as Parquet)."""
    content = _content(local_path)
    try:
        if remote_path.endswith("/") and isinstance(local_path, str | os.PathLike):
            remote_path += Path(local_path).name
        if _is_remote(remote_path):
            with files.filesystem(remote_path).open(remote_path, "wb") as file:
                shutil.copyfileobj(content, file)
            return
        target = _own(remote_path)
        target.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
        files.write(target, content)
    finally:
        content.close()


def delete(path: str, max_deletion_depth: int | Literal["unlimited"] = 3) -> bool:
    """Delete a file, or a folder that is no deeper than ``max_deletion_depth``.

    :raises ValueError: for a deeper one, or the whole folder of the owner.
    :raises FileNotFoundError: when there is none.
    """
    if _is_remote(path):
        files.filesystem(path).rm(path, recursive=True)
        return True
    target = _own(path)
    if target == files.folder():
        raise ValueError("the folder of files itself is not deleted")
    if not target.is_dir() or target.is_symlink():
        target.unlink()
        return True
    if max_deletion_depth != "unlimited":
        depths = (len(Path(root).relative_to(target).parts) + 1 for root, _, _ in os.walk(target))
        if max(depths) > max_deletion_depth:
            raise ValueError(f"{path!r} is deeper than max_deletion_depth={max_deletion_depth}")
    shutil.rmtree(target)
    return True


def list(path: str = "", *, details: bool = False) -> builtins.list[Any]:  # noqa: A001 - the client's name
    """The files and folders of a folder, by their full paths; with ``details``, what is known of each."""
    found = _remote_entries(path) if _is_remote(path) else _own_entries(_own(path))
    return found if details else [entry.url for entry in found]


def sign_url(path: str) -> str:
    """An address that gives a file to whoever reads it from here, without a key."""
    if not _is_remote(path):
        return _own(path).as_uri()
    if path.startswith(("http://", "https://")):
        return path
    signed: str = files.filesystem(path).sign(path, expiration=_SIGNED_FOR)
    return signed


def sign_url_prefix(path: str) -> dict[str, str]:
    """The same for each file of a folder, by its path."""
    return {entry.url: sign_url(entry.url) for entry in list(path, details=True) if not entry.is_directory}


def whoami() -> dict[str, Any]:
    """Who owns the running code: a canvas, or an access token by its id. It says nothing of the caller."""
    owner = state.current().bundle.owner
    return {
        "id": owner,
        "handle": owner,
        "name": owner,
        "email": f"{owner.lstrip('@')}@localhost",
        "execution_environment_id": context.PLACE,
    }


def team_info() -> dict[str, Any]:
    """The one place where UDFs run."""
    return {"id": context.PLACE, "name": context.PLACE}


def get_udfs(*_: Any, **__: Any) -> dict[str, Any]:
    """The UDFs of the canvas by name."""
    return {name: neighbours.load(name) for name in sorted(state.current().bundle.udfs)}


def _is_remote(path: str) -> bool:
    return "://" in path and not path.startswith((_OWN, "file://"))


def _own(path: str) -> Path:
    return files.inside(path.removeprefix("file://").removeprefix(_OWN))


def _open(path: str) -> IO[bytes]:
    if path.startswith(("http://", "https://")):
        raise ValueError("fused.api takes paths and addresses of object stores; fused.download takes others")
    opened: IO[bytes] = files.filesystem(path).open(path, "rb")
    return opened


def _content(given: Any) -> IO[bytes]:
    if isinstance(given, str | os.PathLike):
        return Path(given).open("rb")
    if isinstance(given, bytes | bytearray | memoryview):
        return io.BytesIO(given)
    if isinstance(given, pd.DataFrame):
        page = io.BytesIO()
        given.to_parquet(page)
        return io.BytesIO(page.getvalue())
    if hasattr(given, "read"):
        return io.BytesIO(given.read())
    raise TypeError(
        f"a {type(given).__qualname__} can't be uploaded: it takes a path, bytes, a file or a frame"
    )


def _own_entries(folder: Path) -> builtins.list[ListDetails]:
    if folder.is_file():
        return [_own_entry(folder)]
    return [_own_entry(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")]


def _own_entry(path: Path) -> ListDetails:
    facts = path.stat()
    changed = dt.datetime.fromtimestamp(facts.st_mtime, dt.UTC)
    if path.is_dir():
        return ListDetails(f"{path}/", path.name, is_directory=True, last_modified=changed)
    return ListDetails(str(path), path.name, size=facts.st_size, last_modified=changed)


def _remote_entries(path: str) -> builtins.list[ListDetails]:
    scheme = path.partition("://")[0]
    found = []
    for row in files.filesystem(path).ls(path, detail=True):
        is_folder = row["type"] == "directory"
        name = str(row["name"]).rstrip("/")
        url = f"{scheme}://{name}/" if is_folder else f"{scheme}://{name}"
        size = None if is_folder else row.get("size")
        changed = row.get("LastModified") or row.get("mtime")
        found.append(ListDetails(url, name.rpartition("/")[2], is_folder, size, changed))
    return found


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(f"fused.api.{name} is not provided by tileserver; provided: {', '.join(__all__)}")
