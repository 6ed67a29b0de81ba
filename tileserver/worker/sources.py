"""How sources become running code: compiled once for each text, executed fresh for each run.

A UDF may import its canvas's modules. They come from the bundle's text, never from disk, and stay
imported for as long as none of them changes; UDFs with other modules of the same names don't meet.
"""

from __future__ import annotations

import builtins
import functools
import importlib.abc
import importlib.machinery
import io
import linecache
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, nullcontext
from types import CodeType, ModuleType
from typing import Any, Final

from tileserver.protocol import Bundle, Source
from tileserver.signature import neighbours

_KEPT: Final = 8
# A canvas module never replaces one of these; it does replace an installed package.
_PROTECTED: Final = frozenset(sys.stdlib_module_names | {"tileserver", "fused", "__main__"})


def enter_bundle(bundle: Bundle) -> None:
    """Prepare this process for the runs of a bundle: its environment, its folder, and no module of
    content that it doesn't have."""
    _environment.replace(bundle.environment)
    os.chdir(bundle.folder)
    _finder.keep(_key(bundle, source) for source in (*bundle.udfs.values(), *bundle.foreign.values()))


def file_name(bundle: Bundle, path: str) -> str:
    """The name under which a source's code and its lines are known."""
    return os.path.join(bundle.folder, path)


@contextmanager
def executed(bundle: Bundle, name: str) -> Iterator[ModuleType]:
    """Run the whole source of the UDF or the loaded source ``name`` in a new module, which can be used inside
    the ``with``.

    Its import statements find its own canvas modules, and no others, also when another UDF runs it.
    ``fused`` must be installed.
    """
    source = bundle.source(name)
    module = ModuleType(name)
    module.__file__ = file_name(bundle, source.path)
    modules = _finder.module_set(_key(bundle, source))
    with _finder.active_for_run(modules), _registered(module):
        _run(module, bundle.files[source.path], modules)
        yield module


def imported(bundle: Bundle, name: str, module: str) -> ModuleType:
    """One of the modules that the source ``name`` may import.

    :raises ImportError: when it may not import that.
    """
    modules = _finder.module_set(_key(bundle, bundle.source(name)))
    with _finder.active_for_run(modules):
        found: ModuleType = modules.import_module(module)
    return found


@contextmanager
def _registered(module: ModuleType) -> Iterator[None]:
    # Pickle and dataclasses look for a class's module in sys.modules. A UDF that has the name of
    # something importable stays out, or it would import itself.
    name = module.__name__
    if not _is_free(name):
        yield
        return
    sys.modules[name] = module
    try:
        yield
    finally:
        sys.modules.pop(name, None)


def _is_free(name: str) -> bool:
    return (
        name not in sys.modules
        and name not in _PROTECTED
        and not _finder.serves(name)
        and not _installed(name)
    )


@functools.lru_cache(maxsize=512)
def _installed(name: str) -> bool:
    return not name.isidentifier() or importlib.machinery.PathFinder.find_spec(name) is not None


def _run(module: ModuleType, text: str, modules: _ModuleSet) -> None:
    file = str(module.__file__)
    code = _compile(text, file)
    # After compiling, so that a text that doesn't parse leaves the lines of running code alone.
    linecache.cache[file] = (len(text), None, _lines(text), file)
    module.__dict__["fused"] = sys.modules["fused"]
    module.__dict__["__builtins__"] = modules.builtins
    exec(code, module.__dict__)


@functools.lru_cache(maxsize=256)
def _compile(text: str, file: str) -> CodeType:
    return compile(text, file, "exec", dont_inherit=True)


@functools.lru_cache(maxsize=256)
def _lines(text: str) -> list[str]:
    return io.StringIO(text, newline=None).readlines()  # splitlines() knows more ends of line than Python


class _Environment:
    """What a bundle has put into the environment, and what was there before."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}

    def replace(self, variables: Mapping[str, str]) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)


# The name, file and text of each module.
_Content = tuple[tuple[str, str, str], ...]
# What must be the same for modules to stay imported: their content, and the bundle where it counts.
_Key = tuple[_Content, str]


def _key(bundle: Bundle, source: Source) -> _Key:
    content = tuple(
        (name, file_name(bundle, path), bundle.files[path])
        for name, path in sorted(source.modules.items())
        if path in bundle.files and name.partition(".")[0] not in _PROTECTED
    )
    # A module may hold on to what it has loaded of a neighbour, whose text isn't among these.
    loads = any(_loads_neighbours(text) for _, _, text in content)
    return content, bundle.id if loads else ""


@functools.lru_cache(maxsize=256)
def _loads_neighbours(text: str) -> bool:
    try:
        names, computed = neighbours(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # it can't be imported either
    return computed or bool(names)


class _ModuleSet(importlib.abc.Loader):
    """One set of canvas modules: their texts, and what has been imported of them."""

    def __init__(self, content: _Content) -> None:
        self.texts = {name: (file, text) for name, file, text in content}
        # A folder without __init__.py is a package too.
        self.packages = {parent for name in self.texts for parent in _parents(name)}
        self.names = self.texts.keys() | self.packages
        self.imported: dict[str, ModuleType] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}

    def _import(
        self,
        name: str,
        globals: Any = None,  # noqa: A002 - named as those of the builtin, which callers may use
        locals: Any = None,  # noqa: A002 - likewise
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        """``__import__`` of the code that belongs to this set, whichever set is active."""
        with _finder.active_for_import(self, name, level):
            return builtins.__import__(name, globals, locals, fromlist, level)

    def import_module(self, name: str) -> Any:
        if name not in self.names:
            raise ImportError(f"no module of this source is called {name!r}", name=name)
        return self._import(name, fromlist=("__name__",))

    def spec(self, name: str) -> importlib.machinery.ModuleSpec | None:
        if name not in self.names:
            return None
        file, _ = self.texts.get(name, (None, ""))
        is_package = name in self.packages or (file or "").endswith("/__init__.py")
        spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=is_package)
        spec.has_location = file is not None
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in self.texts:
            _run(module, self.texts[module.__name__][1], self)


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of the active set, before anything on disk.

    The set of the UDF that was asked for is active for the whole run, so that whoever looks into
    ``sys.modules`` finds its modules. That of a neighbour is active only while its code imports, for
    neighbours may run side by side in threads.
    """

    def __init__(self) -> None:
        self._sets: OrderedDict[_Key, _ModuleSet] = OrderedDict()
        self._active: _ModuleSet | None = None
        self._turn = threading.RLock()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return self._active.spec(fullname) if self._active is not None else None

    def serves(self, name: str) -> bool:
        return self._active is not None and name in self._active.names

    def module_set(self, key: _Key) -> _ModuleSet:
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = _ModuleSet(key[0])
        self._sets.move_to_end(key)
        if len(self._sets) > _KEPT:
            self._sets.popitem(last=False)
        return found

    def keep(self, keys: Iterable[_Key]) -> None:
        """Forget every set but these."""
        for key in self._sets.keys() - set(keys):
            del self._sets[key]

    @contextmanager
    def active_for_run(self, wanted: _ModuleSet) -> Iterator[None]:
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        with nullcontext() if self._active is not None else self._activated(wanted):
            yield

    @contextmanager
    def active_for_import(self, wanted: _ModuleSet, name: str, level: int) -> Iterator[None]:
        top = name.partition(".")[0]
        if not level and top not in wanted.names and not self.serves(top):
            yield
            return
        with self._turn, nullcontext() if self._active is wanted else self._activated(wanted):
            yield

    @contextmanager
    def _activated(self, wanted: _ModuleSet) -> Iterator[None]:
        before = self._active
        names = wanted.names | (before.names if before is not None else set())
        displaced = _exchange(names, wanted.imported)
        self._active = wanted
        try:
            yield
        finally:
            held = _exchange(names, displaced)
            wanted.imported = {name: module for name, module in held.items() if name in wanted.names}
            self._active = before


def _exchange(names: AbstractSet[str], modules: Mapping[str, ModuleType]) -> dict[str, ModuleType]:
    """Put modules into ``sys.modules`` under some of the names; returns what all the names held."""
    held = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.modules.update(modules)
    return held


_environment = _Environment()
_finder = _Finder()
