"""Sources of UDFs that are fetched: which URLs, from which addresses, how much, and how long they are kept.

Only what ``fetch_allow`` names is fetched, by https, from public addresses, and no redirect leads off the
list. A name is looked up once, and the address that was checked is the one that is connected to. What a
commit names is kept for good; anything else is asked for again after a while.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import os
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from tileserver.errors import NotFound, TileServerError
from tileserver.mirror import assemble, header_files, udf_object
from tileserver.protocol import Foreign

KEEP: Final = 300.0  # seconds, of what a branch or another changing address gave

_MOST_FILES: Final = 50
_LARGEST: Final = 4 * 1024 * 1024
_STEP_LIMIT: Final = 10.0  # seconds without any progress
_WHOLE_LIMIT: Final = 30.0  # seconds for all files of a source
_REDIRECTS: Final = 3
_PORT: Final = 443
_COMMIT: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .-]{0,127}", re.ASCII)
_GITHUB: Final = "github.com"
_GITHUB_FILES: Final = "https://raw.githubusercontent.com"
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[[str], Sequence[str]]


class NotFetched(TileServerError):
    """Why a URL gave nothing."""

    status = 404


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a source's files are: ``folder`` (a URL ending in a slash), the name of the only file that is
    wanted of it (None for a folder's UDF), and whether they can never change."""

    folder: str
    file: str | None
    fixed: bool

    @property
    def name(self) -> str:
        return unquote(self.folder.rstrip("/").rpartition("/")[2])


def public_addresses(host: str) -> list[str]:
    """The addresses of a host, all of them public.

    :raises NotFetched: when there is none, or any is not public.
    """
    try:
        rows = socket.getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotFetched(f"{host} has no address") from None
    found = list(dict.fromkeys(str(row[4][0]) for row in rows))
    if not found or not all(is_public(address) for address in found):
        raise NotFetched(f"{host} is not at a public address")
    return found


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet, also where it wraps another one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None or address in _NAT64:
            return False
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not (address.is_multicast or address.is_reserved)


class Fetcher:
    """Fetches what ``allow`` names (beginnings of https URLs) and keeps it in ``folder``. Blocking."""

    def __init__(
        self,
        allow: Sequence[str],
        folder: Path,
        *,
        resolve: Resolve = public_addresses,
        port: int = _PORT,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._allow = tuple(prefix.rstrip("/") for prefix in allow)
        self._folder = folder
        self._resolve = resolve
        self._port = port
        self._tls = tls
        self._clock = clock

    def allows(self, url: str) -> bool:
        """Whether a URL is on the list. It is compared segment by segment: ``…/udfs`` is not ``…/udfs2``."""
        return _is_plain(url) and any(url == p or url.startswith(f"{p}/") for p in self._allow)

    def load(self, url: str) -> Foreign:
        """The source of a URL, as it is kept or as it is there now.

        :raises NotFound: saying why there is none.
        """
        plain = url.partition("?")[0].partition("#")[0].rstrip("/")
        if not self.allows(plain):
            raise NotFound(f"{url} is not among the addresses that may be fetched (fetch_allow)")
        place = _place(plain)
        kept = self._folder / f"{hashlib.sha256(plain.encode()).hexdigest()}.json"
        known, age = self._kept(kept)
        if known is not None and (place.fixed or 0 <= age < KEEP):
            return known
        try:
            found = self._fetched(place, plain)
        except NotFetched as error:
            if known is not None:
                return known  # better than nothing, until it can be asked again
            raise NotFound(f"{url} could not be fetched: {error.message}") from None
        self._keep(kept, found)
        return found

    # -- what is kept

    def _kept(self, path: Path) -> tuple[Foreign | None, float]:
        try:
            found = json.loads(path.read_bytes())
            return Foreign.from_json(found["source"]), self._clock() - float(found["at"])
        except (OSError, ValueError, TypeError, KeyError):
            return None, 0.0

    def _keep(self, path: Path, found: Foreign) -> None:
        text = json.dumps({"at": self._clock(), "source": found.to_json()})
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_name(f".{secrets.token_hex(8)}")
            draft.write_text(text, "utf-8")
            os.replace(draft, path)
        except OSError:
            return  # a full disk costs another fetch, nothing else

    # -- what is fetched

    def _fetched(self, place: _Place, url: str) -> Foreign:
        deadline = time.monotonic() + _WHOLE_LIMIT
        if place.file is not None:
            text = self._text(place.folder + quote(place.file), deadline)
            return Foreign.of(place.file.removesuffix(".py"), place.file, {place.file: text})
        meta = self._optional(f"{place.folder}meta.json", deadline) or b""
        udf = udf_object(meta)
        wanted = [udf.get("source") or f"{place.name}.py", *header_files(udf).values()]
        if not meta:
            wanted.append("utils.py")
        texts = {}
        for name in wanted[:_MOST_FILES]:
            if not isinstance(name, str) or not _FILE.fullmatch(name):
                raise NotFetched("its meta.json names a file outside of its folder")
            body = self._optional(place.folder + quote(name), deadline)
            if body is not None:
                texts[name] = _decoded(body)
        found = assemble(place.name, texts, meta)
        if found is None:
            raise NotFetched(f"there is no {wanted[0]}")
        return found

    def _text(self, url: str, deadline: float) -> str:
        body = self._optional(url, deadline)
        if body is None:
            raise NotFetched("there is no such file")
        return _decoded(body)

    def _optional(self, url: str, deadline: float) -> bytes | None:
        """The body of a URL; None where there is nothing."""
        for _ in range(_REDIRECTS + 1):
            status, location, body = self._get(url, deadline)
            if status == 200:
                return body
            if status in {404, 410}:
                return None
            if status not in {301, 302, 303, 307, 308} or not location:
                raise NotFetched(f"it answered with status {status}")
            url = urljoin(url, location)
            if not self.allows(url):
                raise NotFetched("it redirects to an address that is not on the list (fetch_allow)")
        raise NotFetched("it redirects too often")

    def _get(self, url: str, deadline: float) -> tuple[int, str | None, bytes]:
        parts = urlsplit(url)
        connection = _Connection(str(parts.hostname), self._resolve, self._port, self._tls)
        # A head that comes byte by byte is progress, too, and would hold this thread for hours.
        end = threading.Timer(max(0.0, deadline - time.monotonic()), connection.cut)
        end.daemon = True
        end.start()
        try:
            headers = {"User-Agent": "tileserver", "Accept-Encoding": "identity"}
            connection.request("GET", parts.path or "/", headers=headers)
            response = connection.getresponse()
            body = b"" if response.status != 200 else _read(response, deadline)
            return response.status, response.headers.get("location"), body
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= deadline:
                raise NotFetched(f"it took longer than {_WHOLE_LIMIT:g} s") from None
            raise NotFetched(getattr(error, "strerror", None) or type(error).__name__) from None
        finally:
            end.cancel()
            connection.close()


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    body = bytearray()
    while chunk := response.read1(65536):
        body += chunk
        if len(body) > _LARGEST:
            raise NotFetched(f"it is larger than {_LARGEST} bytes")
    if time.monotonic() >= deadline:  # what was cut off may look complete
        raise NotFetched(f"it took longer than {_WHOLE_LIMIT:g} s")
    if response.length:
        raise NotFetched("it ended before its end")
    return bytes(body)


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotFetched("it is no UTF-8 text") from None


class _Connection(http.client.HTTPSConnection):
    """Connects to an address of the host that ``resolve`` has checked, and to no other."""

    def __init__(self, host: str, resolve: Resolve, port: int, tls: ssl.SSLContext | None) -> None:
        self._tls = tls or ssl.create_default_context()
        super().__init__(host, port, timeout=_STEP_LIMIT, context=self._tls)
        self._resolve = resolve
        self._wire: ssl.SSLSocket | None = None  # ``sock`` forgets it while the answer is still being read
        self._is_cut = False

    def cut(self) -> None:
        """End it, whatever it is waiting for; from any thread."""
        self._is_cut = True
        if self._wire is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._wire, socket.SHUT_RDWR)

    def connect(self) -> None:
        address = self._resolve(self.host)[0]
        plain = socket.create_connection((address, self.port), _STEP_LIMIT)
        try:
            self.sock = self._wire = self._tls.wrap_socket(
                plain, server_hostname=self.host, do_handshake_on_connect=False
            )
            self._wire.settimeout(0.001 if self._is_cut else _STEP_LIMIT)
            self._wire.do_handshake()
        except BaseException:
            plain.close()
            raise


def _is_plain(url: str) -> bool:
    """An https URL that says what it seems to say: no user, no port, no way up, nothing to decode twice."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme != "https" or not parts.hostname or parts.netloc != parts.hostname or port is not None:
        return False
    segments = parts.path.split("/")[1:]
    return (
        not (parts.query or parts.fragment)
        and url.isascii()
        and url.isprintable()
        and not any(segment in {".", ".."} for segment in map(unquote, segments))
        and not any(c in unquote(parts.path) for c in "\\?#%\x00")
        and "//" not in parts.path
        and "%2f" not in url.lower()
        and " " not in url
    )


def _place(url: str) -> _Place:
    """Where the files of a URL are. A tree or blob of GitHub is read from GitHub's address of files."""
    parts = urlsplit(url)
    segments = parts.path.strip("/").split("/")
    fixed = False
    if parts.hostname == _GITHUB:
        if len(segments) < 4 or segments[2] not in {"tree", "blob"}:
            raise NotFound(f"{url} is no tree or blob of a GitHub repository")
        owner, repository, _, reference, *rest = segments
        fixed = _COMMIT.fullmatch(reference) is not None
        url = "/".join([_GITHUB_FILES, owner, repository, reference, *rest])
    if url.endswith(".py"):
        folder, _, file = url.rpartition("/")
        return _Place(f"{folder}/", unquote(file), fixed)
    return _Place(f"{url}/", None, fixed)
