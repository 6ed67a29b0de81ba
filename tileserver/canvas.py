"""One canvas on disk: its UDFs in both layouts, its modules, settings and problems, and its revisions.

Sources are read and parsed, never executed. What can't be served is listed with its reason and line; it
never keeps the rest of the canvas from being served.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tileserver import formats, styles
from tileserver.errors import BadRequest, NotFound, UdfError, UnknownUdf
from tileserver.own_styles import read_styles
from tileserver.protocol import Bundle, Json, Source
from tileserver.signature import BrokenSource, NotAUdf, Signature, neighbours, read
from tileserver.stamps import FOLDER, Stamp, globbed, stamp_of, stamps_of
from tileserver.styles import StyleFault, Styles
from tileserver.udf import Mode, Udf, UdfSettings

DEFAULT_CANVAS: Final = "default"  # where clients of Fused look when no canvas is named
CANVAS_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
MAX_SOURCE: Final = 4 * 1024 * 1024

# Fused's names of how a UDF is meant; "vector_single" is called with what a map shows, so it has tiles too.
_HINTS: Final[Mapping[str, Mode]] = {"vector_tile": "tile", "raster": "tile", "vector_single_none": "single"}
_STORED: Final = "secret:"  # what a variable of [env] begins with that takes a stored secret
# What the metadata of an exported canvas calls parts of it that run nothing.
_DECORATIONS: Final = ("isNodeTemplate", "nodeTemplateType", "frameType", "isTextEditor")


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that can't be served, and why."""

    path: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Secrets:
    """Stored secrets of a canvas by their names. ``digest`` stands for them where they must not be seen: it
    changes when they do, and says nothing of them."""

    digest: str = ""
    values: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Canvas:
    """One canvas as it was at one moment. ``broken`` maps names of UDFs to what is wrong with them;
    ``public_name`` says that its name may stand in the place of a token; ``modules`` are those that all of
    its UDFs may import, by name; ``revision`` covers everything in it."""

    name: str
    folder: Path
    title: str
    description: str
    udfs: Mapping[str, Udf]
    broken: Mapping[str, Problem]
    problems: tuple[Problem, ...]
    bundle: Bundle
    public_name: bool
    modules: Mapping[str, str]
    revision: str
    _secrets: str = field(repr=False)
    _stamps: Mapping[str, Stamp] = field(repr=False)
    _globs: frozenset[str]

    def stem(self, name: str) -> str | None:
        """The UDF that a URL's name means, without the extension that it may have; None if there is none."""
        for candidate in (name, name.rpartition(".")[0]):
            if candidate in self.udfs or candidate in self.broken:
                return candidate
        return None

    def find(self, name: str) -> tuple[Udf, str | None]:
        """The UDF of a URL's name, and the extension where the name had one. An exact name beats a name
        with an extension.

        :raises UnknownUdf: when there is no such UDF.
        :raises UnknownFormat: when there is, but not such an extension.
        :raises UdfError: when its source is broken.
        """
        stem, _, extension = name.rpartition(".")
        if name not in self.udfs and name not in self.broken and stem:
            self._refuse_sidecar(name)
            if stem in self.udfs or stem in self.broken:
                return self._working(stem), formats.named(extension).name
            raise UnknownUdf(f"no UDF called {stem!r} here")
        return self._working(name), None

    def _working(self, name: str) -> Udf:
        if name in self.broken:
            problem = self.broken[name]
            kind = problem.reason.partition(":")[0]
            error_class = kind if kind.isidentifier() and kind.endswith("Error") else ""
            raise UdfError(problem.reason, exception_class=error_class, lineno=problem.line)
        if name not in self.udfs:
            raise UnknownUdf(f"no UDF called {name!r} here")
        return self.udfs[name]

    def _refuse_sidecar(self, name: str) -> None:
        if extension := formats.sidecar(name):
            raise NotFound(f"there is no .{extension} beside a UDF")

    def unchanged(self, asked: str) -> bool:
        """Whether the folder and the file behind a URL's name are still what was read."""
        name = asked if asked in self.udfs or asked in self.broken else asked.rpartition(".")[0]
        source = self.bundle.udfs.get(name)
        path = source.path if source is not None else f"{name}.py"
        return all(self._stamps.get(p) == stamp_of(f"{self.bundle.folder}/{p}") for p in (FOLDER, path))


@dataclass(frozen=True, slots=True)
class _File:
    """A source and what it is: a UDF with a ``signature``, broken with a ``problem``, else a module.
    ``neighbours`` and ``computed`` are as in ``Signature``."""

    text: str
    digest: str
    signature: Signature | None = None
    problem: Problem | None = None
    neighbours: frozenset[str] = frozenset()
    computed: bool = False


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A source whose name may be asked for; ``folder`` is set in Fused's layout."""

    name: str
    path: str
    folder: str | None = None


def has_udf(folder: Path) -> bool:
    """Whether a folder looks like a canvas: cheap, so it may be wrong about files that say ``udf``."""
    flat = any(_mentions_udf(path) for path in folder.glob("*.py"))
    return flat or any(path.stem == path.parent.name for path in folder.glob("*/*.py"))


def _mentions_udf(path: Path) -> bool:
    try:
        return path.is_file() and b"udf" in path.read_bytes()
    except OSError:
        return False


def read_canvas(folder: Path, secrets: Secrets, previous: Canvas | None) -> Canvas:
    """Read a canvas; ``previous`` is returned when neither its files nor its secrets have changed."""
    if (
        previous is not None
        and previous._secrets == secrets.digest
        and previous._stamps == stamps_of(folder, previous._globs)
    ):
        return previous
    return _Reader(folder, stamps_of(folder, frozenset()), secrets).canvas()


class _Reader:
    """Reads one canvas once."""

    def __init__(self, folder: Path, stamps: dict[str, Stamp], secrets: Secrets) -> None:
        self.folder = folder
        self.stamps = stamps
        self.secrets = secrets
        self.problems: list[Problem] = []
        self.settings = self._settings()
        self.files: dict[str, _File] = {}
        self.globbed: dict[str, dict[str, Stamp]] = {}
        self.metas: dict[str, dict[str, Any]] = {}
        self.styles = self._styles()

    def canvas(self) -> Canvas:
        table = self.settings
        public_name = self._public_name()
        candidates = self._read_files()
        modules = {
            _module_name(path): path
            for path, file in self.files.items()
            if file.signature is None and file.problem is None and _is_module(path, candidates)
        }
        sources = {c.name: self._source(c, modules) for c in candidates.values() if self._is_udf(c)}
        bundle = self._bundle(sources)
        broken = {
            c.name: problem
            for c in candidates.values()
            if (problem := self.files[c.path].problem) is not None
        }
        udfs = {name: self._udf(name, sources, bundle) for name in sources}
        for name in _table(table.get("udf")).keys() - udfs.keys() - broken.keys():
            self.problems.append(Problem("canvas.toml", f"[udf.{name}] is of no UDF in this canvas"))
        globs = frozenset(pattern for udf in udfs.values() for pattern in udf.settings.data)
        return Canvas(
            name=self.folder.name,
            folder=self.folder,
            title=_text(table.get("title")) or self.folder.name,
            description=_text(table.get("description")),
            udfs=udfs,
            broken=broken,
            problems=(*self.problems, *broken.values()),
            bundle=bundle,
            public_name=public_name,
            modules=modules,
            revision=_digest([bundle.id, self._data(UdfSettings())]),
            _secrets=self.secrets.digest,
            _stamps=self.stamps | self._named(globs),
            _globs=globs,
        )

    # -- files

    def _read_files(self) -> dict[str, _Candidate]:
        candidates: dict[str, _Candidate] = {}
        for path in self.stamps:
            if not path.endswith(".py"):
                continue
            if (shown := path.encode("utf-8", "replace").decode()) != path:
                self.problems.append(Problem(shown, "has a name that is no UTF-8, which no address can say"))
                continue
            parts = path.split("/")
            in_folder = len(parts) == 2 and parts[1] == f"{parts[0]}.py"
            entry = None
            if in_folder:
                self.metas[parts[0]] = self._meta(parts[0])
                entry = _text(_udf_object(self.metas[parts[0]]).get("entrypoint")) or None
            self.files[path] = self._read(path, entry)
            if in_folder or (len(parts) == 1 and self._not_module(path)):
                candidate = _Candidate(path[:-3].rpartition("/")[2], path, parts[0] if in_folder else None)
                self._add(candidates, candidate)
        return candidates

    def _not_module(self, path: str) -> bool:
        file = self.files[path]
        return file.signature is not None or file.problem is not None

    def _add(self, candidates: dict[str, _Candidate], candidate: _Candidate) -> None:
        other = candidates.get(candidate.name)
        if other is not None:
            first, second = sorted((other, candidate), key=lambda c: c.folder is not None)
            self.problems.append(Problem(second.path, f"{first.path} has the same name and is served"))
            candidate = first
        candidates[candidate.name] = candidate

    def _read(self, path: str, entry: str | None) -> _File:
        try:
            raw = (self.folder / path).read_bytes()
            text = raw.decode("utf-8-sig")
        except (OSError, ValueError) as error:
            return _File("", "", problem=Problem(path, f"can't be read: {error}"))
        if len(raw) > MAX_SOURCE:
            return _File("", "", problem=Problem(path, f"is larger than {MAX_SOURCE} bytes"))
        digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
        try:
            signature = read(text, entry)
        except NotAUdf:
            return _File(text, digest, None, None, *neighbours(text))
        except BrokenSource as broken:
            return _File(text, digest, problem=Problem(path, broken.reason, broken.lineno))
        return _File(text, digest, signature, None, signature.neighbours, signature.computed)

    def _meta(self, folder: str) -> dict[str, Any]:
        path = f"{folder}/meta.json"
        if path not in self.stamps:
            return {}
        try:
            meta = json.loads((self.folder / path).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            self.problems.append(Problem(path, f"is not JSON: {error}"))
            return {}
        return meta if isinstance(meta, dict) else {}

    def _settings(self) -> dict[str, Any]:
        if "canvas.toml" not in self.stamps:
            return {}
        try:
            table = tomllib.loads((self.folder / "canvas.toml").read_text("utf-8"))
        except (OSError, ValueError) as error:
            self.problems.append(Problem("canvas.toml", f"can't be read: {error}"))
            return {}
        for key in table.keys() - {"title", "description", "env", "udf", "public_name"}:
            self.problems.append(Problem("canvas.toml", f"unknown key {key!r}"))
        return table

    def _styles(self) -> Styles:
        found = read_styles(self.folder, self.stamps)
        for name, style in found.items():
            if isinstance(style, StyleFault):
                self.problems.append(Problem(f"styles/{name}.json", style.message))
        return found

    # -- what they make

    def _is_udf(self, candidate: _Candidate) -> bool:
        return self.files[candidate.path].signature is not None

    def _source(self, candidate: _Candidate, modules: Mapping[str, str]) -> Source:
        signature = self.files[candidate.path].signature
        assert signature is not None
        own = dict(modules)
        udf_object: dict[str, Any] = {}
        if candidate.folder is not None:
            prefix = f"{candidate.folder}/"
            for path in self.files:
                if path.startswith(prefix) and path != candidate.path:
                    own[_module_name(path.removeprefix(prefix))] = path
            udf_object = _udf_object(self.metas.get(candidate.folder, {}))
            for header in _list(udf_object.get("headers")):
                file = f"{prefix}{_text(header.get('source_file'))}"
                if file in self.files and _text(header.get("module_name")):
                    own[header["module_name"]] = file
        stored = udf_object.get("parameters")
        defaults = {**signature.defaults, **(stored if isinstance(stored, dict) else {})}
        return Source(path=candidate.path, entry=signature.entry, modules=own, defaults=defaults)

    def _bundle(self, sources: Mapping[str, Source]) -> Bundle:
        files = {path: file.text for path, file in self.files.items() if file.digest}
        written = self._written_environment()
        facts = [
            *({path: file.digest for path, file in self.files.items()}, written, self.secrets.digest),
            {name: [s.path, s.entry, dict(s.modules), dict(s.defaults)] for name, s in sources.items()},
        ]
        return Bundle(
            id=_digest(facts),
            owner=self.folder.name,
            canvas=self.folder.name,
            folder=str(self.folder),
            files=files,
            udfs=dict(sources),
            environment=self._environment(written),
            secrets=self.secrets.values,
        )

    def _public_name(self) -> bool:
        value = self.settings.get("public_name", False)
        if not isinstance(value, bool):
            self.problems.append(Problem("canvas.toml", "public_name takes true or false"))
        return value is True

    def _written_environment(self) -> dict[str, str]:
        """``[env]`` as it is written, where secrets have only names."""
        return {
            str(name): str(value)
            for name, value in _table(self.settings.get("env")).items()
            if isinstance(value, str | int | float)
        }

    def _environment(self, written: Mapping[str, str]) -> dict[str, str]:
        """``[env]`` with the secrets that it names."""
        environment = {}
        for name, value in written.items():
            if not value.startswith(_STORED):
                environment[name] = value
            elif (secret := value.removeprefix(_STORED)) in self.secrets.values:
                environment[name] = self.secrets.values[secret]
            else:
                self.problems.append(Problem("canvas.toml", f"[env] {name}: no secret called {secret!r}"))
        return environment

    def _udf(self, name: str, sources: Mapping[str, Source], bundle: Bundle) -> Udf:
        signature = self.files[sources[name].path].signature
        assert signature is not None
        settings, style_fault = self._udf_settings(name)
        first, _, rest = signature.doc.partition("\n")
        in_folder = "/" in sources[name].path
        stored = _table(_udf_object(self.metas[name]).get("metadata")) if in_folder else {}
        return Udf(
            canvas=self.folder.name,
            name=name,
            revision=_digest(
                [
                    *(self._code(name, sources), self._data(settings), repr(settings)),
                    *(self._written_environment(), self.secrets.digest),
                ]
            ),
            signature=signature,
            settings=settings,
            title=first.strip().rstrip(".") or name,
            description=rest.strip(),
            defaults=sources[name].defaults,
            hint=_HINTS.get(_text(stored.get("fused:udfType")), "auto"),
            about=_text(stored.get("fused:description")).strip(),
            listed=stored.get("fused:isVisible") is not False and not any(map(stored.get, _DECORATIONS)),
            styles=self.styles,
            style_fault=style_fault,
        )

    def _udf_settings(self, name: str) -> tuple[UdfSettings, str]:
        """What is set, and what is wrong with its style, which is left out then."""
        table = _table(_table(self.settings.get("udf")).get(name))
        try:
            settings = UdfSettings.from_table(table)
        except ValueError as error:
            self.problems.append(Problem("canvas.toml", f"[udf.{name}] {error}"))
            return UdfSettings(), ""
        try:
            styles.find(settings.style or styles.DEFAULT, self.styles)
        except BadRequest as error:
            self.problems.append(Problem("canvas.toml", f"[udf.{name}] style: {error.message}"))
            return replace(settings, style=""), error.message
        return settings, ""

    def _code(self, name: str, sources: Mapping[str, Source]) -> list[Json]:
        """Digests of the UDF's source, its modules, and the neighbours it names, theirs included."""
        seen: set[str] = set()
        pending = [name]
        own_prefix = f"{self.folder.name}/"
        paths: set[str] = set()
        while pending:
            source = sources.get(pending.pop())
            if source is None or source.path in seen:
                continue
            seen.add(source.path)
            used = {source.path, *source.modules.values()}
            paths |= used
            for path in used:
                named = (name.removeprefix(own_prefix) for name in self.files[path].neighbours)
                pending.extend(sources if self.files[path].computed else named)
        own = sources[name]
        return [own.entry, dict(own.defaults), [[path, self.files[path].digest] for path in sorted(paths)]]

    def _data(self, settings: UdfSettings) -> list[Json]:
        """Size and time of everything in the canvas that isn't source, and of the files ``data`` names."""
        data = {
            p: s for p, s in self.stamps.items() if not p.endswith((".py", "canvas.toml")) and p != FOLDER
        }
        found = data | self._named(settings.data)
        return [[path, stamp[0], stamp[2]] for path, stamp in sorted(found.items())]

    def _named(self, globs: Iterable[str]) -> dict[str, Stamp]:
        """Stamps of the files that globs find, each looked at once: no later change is taken for known."""
        found: dict[str, Stamp] = {}
        for pattern in globs:
            if pattern not in self.globbed:
                self.globbed[pattern] = globbed(self.folder, pattern)
            found |= self.globbed[pattern]
        return found


def _is_module(path: str, candidates: Mapping[str, _Candidate]) -> bool:
    """Whether a source is importable by every UDF of the canvas: at the top, or in a package."""
    folder = path.partition("/")[0] if "/" in path else ""
    return not folder or candidates.get(folder) is None or candidates[folder].folder is None


def _module_name(path: str) -> str:
    name = path.removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def _udf_object(meta: Mapping[str, Any]) -> dict[str, Any]:
    """``job_config.steps[0].udf`` of a ``meta.json``."""
    steps = _list(_table(meta.get("job_config")).get("steps"))
    return _table(steps[0].get("udf")) if steps else {}


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _digest(facts: object) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
