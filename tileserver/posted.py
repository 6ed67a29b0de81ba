"""UDFs that arrive with their code: the body of ``POST run/udf``, and the functions that a run passes on.

Pure: a body becomes a ``Posted``, and that a ``Udf`` with a bundle of its own, read like any other source
and never executed here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tileserver.errors import InvalidBody, UdfError
from tileserver.params import QueryItems
from tileserver.protocol import Bundle, Json, Source
from tileserver.signature import BrokenSource, NotAUdf, read
from tileserver.udf import Udf, UdfSettings
from tileserver.units import LONGEST

MAX_CODE: Final = 4 * 1024 * 1024

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_LONGEST_MODULE: Final = 200  # characters of its name, which becomes a file's
Where = tuple[str | int, ...]
# Of the body, as they would stand in a query.
_RESERVED: Final = ("format", "dtype_out_vector", "dtype_out_raster")


@dataclass(frozen=True, slots=True)
class Posted:
    """A UDF as its poster sent it. ``modules`` maps names that the code may import to their text;
    ``query`` holds what the body says that a query could say, too."""

    name: str
    code: str
    entry: str | None
    parameters: Mapping[str, Json]
    modules: Mapping[str, str] = field(default_factory=dict)
    max_age: int | None = None
    collection: str | None = None
    query: QueryItems = ()


def parse(body: bytes) -> Posted:
    """Read the body of a run request.

    :raises InvalidBody: naming the field that is wrong. Unknown fields are ignored.
    """
    document = _object(_json(body, ("body",)), ("body",))
    where: Where = ("body", "step_config")
    step = document.get("step_config")
    if step is None:
        raise InvalidBody(where, "field required", "missing")
    step = _object(_json(step, where) if isinstance(step, str) else step, where)
    where = (*where, "udf")
    if step.get("udf") is None:
        raise InvalidBody(where, "field required", "missing")
    udf = _object(step["udf"], where)
    query = [
        (name, text) for name in _RESERVED if (text := _text(document.get(name), ("body", name)).strip())
    ]
    if _switch(document.get("cache"), ("body", "cache")) is False:
        query.append(("cache", "false"))
    return _udf(udf, step.get("name"), where, query)


def parse_udf(text: str) -> Posted:
    """Read the JSON text of a UDF object, as it is saved and loaded.

    :raises InvalidBody: naming the field that is wrong.
    """
    where: Where = ("body", "udf_body")
    return _udf(_object(_json(text, where), where), None, where, ())


def _udf(udf: Mapping[str, Any], name: Any, where: Where, query: QueryItems) -> Posted:
    return Posted(
        name=_text(udf.get("name") or name, (*where, "name")) or "udf",
        code=_code(udf.get("code"), (*where, "code")),
        entry=_text(udf.get("entrypoint"), (*where, "entrypoint")) or None,
        parameters=_object(udf.get("parameters") or {}, (*where, "parameters")),
        modules=dict(modules_of(udf.get("headers"), (*where, "headers"))),
        max_age=_age(udf.get("cache_max_age"), (*where, "cache_max_age")),
        collection=_text(udf.get("collection_name"), (*where, "collection_name")) or None,
        query=query,
    )


def build(posted: Posted, base: Bundle, shared: Mapping[str, str], revision: str) -> tuple[Udf, Bundle]:
    """The UDF and its bundle: what ``base`` has, with the posted code added to it. ``shared`` maps modules of
    the base that the code may import to their paths, and ``revision`` stands for all that it may read there.

    :raises UdfError: when the code can't be read, or has no function to call.
    """
    path = f"{_UNSAFE.sub('_', posted.name)[:100]}.py"
    if path in base.files:
        path = f"posted/{path}"
    try:
        signature = read(posted.code, posted.entry)
    except BrokenSource as error:
        kind = error.reason.partition(":")[0] if ":" in error.reason else ""
        raise UdfError(error.reason, exception_class=kind, lineno=error.lineno) from None
    except NotAUdf as error:
        raise UdfError(f"ValueError: {error}", exception_class="ValueError") from None
    modules = {name: f"{path}/{name.replace('.', '/')}.py" for name in posted.modules}
    texts = {modules[name]: text for name, text in posted.modules.items()}
    source = Source(path, signature.entry, {**shared, **modules}, {})
    facts = [base.id, revision, posted.name, posted.code, signature.entry, sorted(posted.modules.items())]
    digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()
    bundle = replace(
        base,
        id=f"posted-{digest}",
        files={**base.files, path: posted.code, **texts},
        udfs={**base.udfs, posted.name: source},
    )
    udf = Udf(
        canvas=base.canvas,
        name=posted.name,
        revision=digest,
        signature=signature,
        settings=UdfSettings(cache_max_age=posted.max_age),
        title=posted.name,
        description="",
        defaults=signature.defaults,
    )
    return udf, bundle


def _json(text: str | bytes, where: Where) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidBody(where, "is not JSON", "json_invalid") from None


def _object(value: Any, where: Where) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidBody(where, "is not a JSON object", "dict_type")
    return value


def _text(value: Any, where: Where) -> str:
    if not isinstance(value, str | None):
        raise InvalidBody(where, "is not text", "string_type")
    try:
        (value or "").encode()
    except UnicodeEncodeError:  # JSON can write halves of characters, which nothing here could store
        raise InvalidBody(where, "is not text that UTF-8 can hold", "string_unicode") from None
    return value or ""


def _code(value: Any, where: Where) -> str:
    code = _text(value, where)
    if not code.strip():
        raise InvalidBody(where, "field required", "missing")
    return _short(code, where)


def _short(code: str, where: Where) -> str:
    if len(code) > MAX_CODE:
        raise InvalidBody(where, f"is longer than {MAX_CODE} characters", "too_long")
    return code


def modules_of(value: Any, where: Where) -> Mapping[str, str]:
    """The texts of a UDF object's ``headers`` by the names that import them.

    :raises InvalidBody: naming the field that is wrong.
    """
    if not isinstance(value, list | None):
        raise InvalidBody(where, "is not a list", "list_type")
    found = {}
    for number, item in enumerate(value or []):
        module = _object(item, (*where, number))
        name = _text(module.get("module_name"), (*where, number, "module_name"))
        if not _MODULE.fullmatch(name) or len(name) > _LONGEST_MODULE:
            raise InvalidBody((*where, number, "module_name"), "is no name of a module", "value_error")
        place = (*where, number, "source_code")
        found[name] = _short(_text(module.get("source_code"), place), place)
    return found


def _switch(value: Any, where: Where) -> bool | None:
    if not isinstance(value, bool | None):
        raise InvalidBody(where, "is not true or false", "bool_type")
    return value


def _age(value: Any, where: Where) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LONGEST:
        raise InvalidBody(where, f"is not a whole number of seconds up to {LONGEST}", "int_type")
    return value
