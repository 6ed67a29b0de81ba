"""What a failed run tells: message, line in the UDF's own source, and a traceback of user code only.

Whatever user code raises is its own failure, an exit or a broken ``__str__`` included. Paths are cut to
what the author knows: relative to the canvas, to the libraries, to the standard library.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final

from tileserver.errors import CoercionError, UdfError
from tileserver.protocol import Bundle
from tileserver.redaction import Redaction
from tileserver.signature import BrokenSource
from tileserver.worker.sources import file_name

_OURS: Final = str(Path(__file__).parent.parent) + "/"
_LONGEST_MESSAGE: Final = 10_000
# For authors, who otherwise wonder why a file that is there can't be opened.
_REACH: Final = (
    "A UDF reads its canvas and the folders of data_dirs, and writes into tempfile's folder and below"
    " fused.file_path.\n"
)
_LONGEST_TRACEBACK: Final = 100_000


def describe(error: BaseException, bundle: Bundle, udf: str, lineno: int | None) -> UdfError:
    """The error of a run for its caller.

    ``lineno`` is used where no line of the UDF's own source took part, as in a call with an argument
    missing.
    """
    if isinstance(error, MemoryError):
        traceback.clear_frames(error.__traceback__)  # or there is no memory left to say so
    file = file_name(bundle, bundle.udfs[udf].path)
    start = next((tb for tb in _walk(error.__traceback__) if _file(tb) == file), None)
    redact = _redaction(bundle.folder)
    message = _cut(redact(message_of(error)), _LONGEST_MESSAGE)
    text = _formatted(error, start, message)
    if isinstance(error, PermissionError) and error.filename is not None:
        text += _REACH
    kind = CoercionError if isinstance(error, CoercionError) and start is None else UdfError
    return kind(
        message,
        exception_class=_class(error),
        lineno=(_own_line(error, file) or lineno) if start is None else start.tb_lineno,
        traceback=_cut(redact(text), _LONGEST_TRACEBACK),
    )


def message_of(error: BaseException) -> str:
    """``ValueError: boom``, whatever the exception's own ``__str__`` does."""
    if isinstance(error, UdfError):
        return error.message
    if isinstance(error, BrokenSource):
        return error.reason
    text = error.msg if isinstance(error, SyntaxError) else _text(error)
    return f"{_class(error)}: {text}" if text else _class(error)


@lru_cache(maxsize=16)
def _redaction(folder: str) -> Redaction:
    return Redaction([folder])


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as other:  # user code once more, and this is the last place to stop it
        return f"<its __str__ raised {type(other).__name__}>"


def _class(error: BaseException) -> str:
    return error.exception_class if isinstance(error, UdfError) else type(error).__name__


def _own_line(error: BaseException, file: str) -> int | None:
    if isinstance(error, BrokenSource) or (isinstance(error, SyntaxError) and error.filename == file):
        return error.lineno
    return None


def _walk(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _file(tb: TracebackType) -> str:
    return tb.tb_frame.f_code.co_filename


def _formatted(error: BaseException, start: TracebackType | None, message: str) -> str:
    if start is None and not isinstance(error, SyntaxError):
        return f"{message}\n"
    whole = traceback.TracebackException(type(error), error, start)
    _drop_our_frames(whole)
    return "".join(whole.format())


def _drop_our_frames(part: traceback.TracebackException | None) -> None:
    if part is None:
        return
    part.stack[:] = [frame for frame in part.stack if not frame.filename.startswith(_OURS)]
    for other in (part.__cause__, part.__context__, *(part.exceptions or ())):
        _drop_our_frames(other)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - limit} characters left out ...\n{text[-half:]}"
