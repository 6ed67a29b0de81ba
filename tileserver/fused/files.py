"""``fused.file_path`` and ``fused.download``: files that the UDFs of one owner share.

They lie in a folder of the owner's, beside the results of ``fused.cache``, and may be deleted like those. No
name leads out of it, by no link either.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

from tileserver.fused import caching

_TIMEOUT: Final = 60.0  # seconds without progress
_WAIT: Final = 600.0  # for another run that downloads the same
_POLL: Final = 0.05
_BLOCK: Final = 1024 * 1024


def folder() -> Path:
    """The owner's folder."""
    path = caching.folder() / "files"
    path.mkdir(mode=0o770, parents=True, exist_ok=True)
    return path


def inside(name: str | os.PathLike[str]) -> Path:
    """A path in the owner's folder. One that begins with a slash begins there, too.

    :raises ValueError: when it leads out of it.
    """
    root = folder()
    text = os.fspath(name)
    path = Path(text) if Path(text).is_relative_to(root) else root / text.lstrip("/")
    if "\x00" in text or ".." in path.parts or not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{text!r} leads out of the folder of files")
    return path


def file_path(file_path: str | os.PathLike[str], mkdir: bool = True, storage: str = "auto") -> str:
    """The path of a shared file or folder; the folders that it needs are made. A name with a full stop in
    its last part is a file's.

    :raises ValueError: when it leads out of the owner's folder.
    """
    path = inside(file_path)
    if mkdir:
        (path.parent if path.suffix else path).mkdir(mode=0o770, parents=True, exist_ok=True)
    return str(path)


create_path = file_path


def download(url: str, file_path: str | os.PathLike[str], storage: str = "auto") -> Path:
    """A file of the net as a shared file: it is downloaded once, also when many runs ask at the same time.

    :raises ValueError: when the path leads out of the owner's folder, or for a kind of address that can't be
        read.
    :raises OSError: when the download fails; the next call tries again.
    """
    path = inside(file_path)
    if path == folder():
        raise ValueError("a download needs a file's name")
    if path.is_file():
        return path
    path.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
    lock = caching.Lock(path.with_name(f".{path.name}.lock"), _WAIT)
    try:
        while not lock.take():
            time.sleep(_POLL)
        if not path.is_file():  # another run may have it since
            _save(url, path)
    finally:
        lock.release()
    return path


def write(path: Path, content: IO[bytes]) -> None:
    """Write a file as a whole: nobody sees a part of it."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    os.fchmod(descriptor, 0o660)  # the owner's other workers may be other users of its group
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, _BLOCK)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _save(url: str, path: Path) -> None:
    scheme = urlsplit(url).scheme
    if scheme in {"http", "https"}:
        request = urllib.request.Request(url, headers={"User-Agent": "tileserver"})  # noqa: S310 - http only
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310 - likewise
                write(path, response)
        except urllib.error.HTTPError as error:
            error.close()
            raise OSError(f"{url} answered with status {error.code}") from None
        return
    with filesystem(url).open(url, "rb") as content:
        write(path, content)


def filesystem(url: str) -> Any:
    """The fsspec file system of an address such as ``s3://bucket/key``.

    :raises ValueError: for an address without one, or whose library is not installed.
    """
    scheme = urlsplit(url).scheme
    if not scheme or scheme in {"file", "local", "memory"}:
        raise ValueError(f"{url!r} is no address that can be read here")
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise ValueError(f"addresses of the kind {scheme}:// can't be read here: {error}") from None
