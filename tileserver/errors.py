"""Everything that can go wrong, as one tree; each class carries its HTTP status.

    TileServerError                    500
    ├─ ConfigurationError              500   a setting, a workspace or a database that can't be used
    ├─ Unauthorized · Forbidden        401 · 403
    ├─ NotFound                        404
    │  └─ UnknownToken · UnknownUdf · InvalidTile
    ├─ MethodNotAllowed                405
    ├─ Conflict                        409
    ├─ PreconditionFailed              412   the caller has another version than the present one
    ├─ ClientGone                      499   nobody is left to answer
    ├─ BadRequest                      422   the request's fault: nothing has run
    │  └─ UnknownFormat · InvalidBody
    ├─ UdfError                        422   the function's fault: message, line in its code, its output
    │  └─ CoercionError · UnsupportedOutput · UdfTimeout · UdfKilled
    ├─ TooManyRequests                 429   with Retry-After
    └─ Overloaded                      503   with Retry-After

Messages are written for the caller: they name what was wrong and what would be accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

ErrorType = Literal["serialization_error", "timeout_error"]


class TileServerError(Exception):
    """The root; raised itself only for faults of the server, whose details reach nobody."""

    status = 500

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigurationError(TileServerError):
    """A setting, a workspace or a database that can't be used as it is."""


class Unauthorized(TileServerError):
    """``scheme`` is that of the ``Authorization`` header which is missing or wrong."""

    status = 401
    scheme = "Bearer"

    def __init__(self, message: str, *, scheme: str = "Bearer") -> None:
        super().__init__(message)
        self.scheme = scheme


class Forbidden(TileServerError):
    status = 403


class NotFound(TileServerError):
    status = 404


class UnknownToken(NotFound):
    """Unknown, disabled, expired and rotated tokens look the same from outside."""

    def __init__(self) -> None:
        super().__init__("unknown token: it is mistyped, disabled, expired or replaced by another")


class UnknownUdf(NotFound):
    pass


class InvalidTile(NotFound):
    pass


class MethodNotAllowed(TileServerError):
    """The address is there, for other methods: ``allow`` lists them, as the header of that name does."""

    status = 405
    allow = ""

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"{method} is not allowed here, only {allow}")
        self.allow = allow


class ClientGone(TileServerError):
    """Whoever asked has left; nobody gets this answer."""

    status = 499


class Conflict(TileServerError):
    """Something of that name is there already."""

    status = 409


class PreconditionFailed(TileServerError):
    """What the caller has seen is not what there is now; ``If-Match`` asked for that."""

    status = 412


class BadRequest(TileServerError):
    status = 422


class UnknownFormat(BadRequest):
    pass


class InvalidBody(BadRequest):
    """A field of a posted body is wrong: ``where`` is the path to it, ``kind`` a short name of the reason."""

    def __init__(self, where: tuple[str | int, ...], reason: str, kind: str) -> None:
        super().__init__(f"{'.'.join(map(str, where))}: {reason}")
        self.details = [{"loc": list(where), "msg": reason, "type": kind}]


class UdfError(TileServerError):
    """The function failed. ``message`` has the form ``ValueError: boom``.

    ``lineno`` counts lines of the function's own source from 1. ``traceback`` begins at its first
    frame; only callers who may read the code get to see it. ``read_caller`` says that the run had looked
    at who asked: another caller's may end otherwise.
    """

    status = 422
    error_type: ErrorType | None = None

    def __init__(
        self,
        message: str,
        *,
        exception_class: str = "",
        lineno: int | None = None,
        traceback: str = "",
        stdout: str = "",
        stderr: str = "",
        read_caller: bool = False,
    ) -> None:
        super().__init__(message)
        self.exception_class = exception_class or type(self).__name__
        self.lineno = lineno
        self.traceback = traceback
        self.stdout = stdout
        self.stderr = stderr
        self.read_caller = read_caller


class CoercionError(UdfError):
    """A parameter's text doesn't fit its annotation."""


class UnsupportedOutput(UdfError):
    """The returned value can't be written in the format asked for."""

    error_type = "serialization_error"


class UdfTimeout(UdfError):
    error_type = "timeout_error"


class UdfKilled(UdfError):
    """The worker process ended in the middle of the run."""


class TooManyRequests(TileServerError):
    """One caller has tried too often; ``retry_after`` is in seconds."""

    status = 429
    retry_after = 60

    def __init__(self, message: str, *, retry_after: int = 60) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(TileServerError):
    status = 503
    retry_after = 1

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def describe(error: TileServerError) -> dict[str, Any]:
    """An error as JSON, for the other end of a worker's channel."""
    facts: dict[str, Any] = {"class": type(error).__name__, "message": error.message}
    if isinstance(error, UdfError):
        facts |= {name: getattr(error, name) for name in _UDF_FACTS}
    return facts


def restore(facts: Mapping[str, Any]) -> TileServerError:
    """The error that was described; of a class that isn't known, a ``UdfError``. Nothing in ``facts`` is
    trusted to be what it should be."""
    message = str(facts.get("message"))
    kind = globals().get(str(facts.get("class")))
    if not (isinstance(kind, type) and issubclass(kind, TileServerError)):
        kind = UdfError
    if issubclass(kind, UdfError):
        lineno = facts.get("lineno")
        texts = {name: str(facts.get(name) or "") for name in _UDF_FACTS[:4]}
        return kind(
            message,
            lineno=lineno if isinstance(lineno, int) else None,
            read_caller=bool(facts.get("read_caller")),
            **texts,
        )
    error = kind.__new__(kind)
    TileServerError.__init__(error, message)
    return error


def without_traceback(error: UdfError) -> TileServerError:
    """The same error for somebody who may not read the code."""
    return restore({**describe(error), "traceback": ""})


def without_output(error: UdfError) -> TileServerError:
    """The same error without what the run had printed."""
    return restore({**describe(error), "stdout": "", "stderr": ""})


_UDF_FACTS = ("exception_class", "traceback", "stdout", "stderr", "lineno", "read_caller")
