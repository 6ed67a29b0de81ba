"""Everything that can go wrong, as one tree; each class carries its HTTP status.

    TileServerError                    500
    ├─ ConfigurationError              500   a setting, a workspace or a database that can't be used
    ├─ Unauthorized · Forbidden        401 · 403
    ├─ NotFound                        404
    │  └─ UnknownToken · UnknownUdf · InvalidTile
    ├─ MethodNotAllowed                405
    ├─ BadRequest                      422   the request's fault: nothing has run
    │  └─ UnknownFormat
    ├─ UdfError                        422   the function's fault: message, line in its code, its output
    │  └─ CoercionError · UnsupportedOutput · UdfTimeout · UdfKilled
    └─ Overloaded                      503   with Retry-After

Messages are written for the caller: they name what was wrong and what would be accepted.
"""

from __future__ import annotations

from typing import Literal

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
    status = 401


class Forbidden(TileServerError):
    status = 403


class NotFound(TileServerError):
    status = 404


class UnknownToken(NotFound):
    """Unknown, disabled, expired and rotated tokens look the same from outside."""

    def __init__(self) -> None:
        super().__init__("unknown token")


class UnknownUdf(NotFound):
    pass


class InvalidTile(NotFound):
    pass


class MethodNotAllowed(TileServerError):
    status = 405


class BadRequest(TileServerError):
    status = 422


class UnknownFormat(BadRequest):
    pass


class UdfError(TileServerError):
    """The function failed. ``message`` has the form ``ValueError: boom``.

    ``lineno`` counts lines of the function's own source from 1. ``traceback`` begins at its first
    frame; only callers who may read the code get to see it.
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
    ) -> None:
        super().__init__(message)
        self.exception_class = exception_class or type(self).__name__
        self.lineno = lineno
        self.traceback = traceback
        self.stdout = stdout
        self.stderr = stderr


class CoercionError(UdfError):
    """A parameter's text doesn't fit its annotation."""


class UnsupportedOutput(UdfError):
    """The returned value can't be written in the format asked for."""

    error_type = "serialization_error"


class UdfTimeout(UdfError):
    error_type = "timeout_error"


class UdfKilled(UdfError):
    """The worker process ended in the middle of the run."""


class Overloaded(TileServerError):
    status = 503

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
