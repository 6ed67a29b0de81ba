"""The form of the log: one line for each event, as text for a terminal or as JSON for a collector."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from tileserver.requestlog import Line

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_REQUESTS: Final = logging.getLogger("tileserver.access")


def configure_logging(log_format: str) -> None:
    """Send the log to standard error, as ``text`` or ``json``: ours, and warnings of the libraries."""
    handler = _Handler(_JsonLines() if log_format == "json" else _TextLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("tileserver").setLevel(logging.INFO)


def write_requests(lines: Sequence[Line], dropped: int) -> None:
    """Write the lines of requests where the log goes; nowhere unless it was configured."""
    if dropped:
        _REQUESTS.warning("%d lines of requests are missing here: the log is read too slowly", dropped)
    if _REQUESTS.isEnabledFor(logging.INFO):
        for handler in logging.getLogger().handlers:
            if isinstance(handler, _Handler):
                handler.write_requests(lines)


class _Form(Protocol):
    """One of the two forms: of any record, and of a request."""

    def format(self, record: logging.LogRecord) -> str: ...

    def request(self, line: Line) -> str: ...


class _Handler(logging.StreamHandler[Any]):
    """Standard error; requests in one write for many."""

    def __init__(self, form: _JsonLines | _TextLines) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(form)
        self._form: _Form = form

    def write_requests(self, lines: Sequence[Line]) -> None:
        text = "".join([f"{self._form.request(line)}\n" for line in lines])
        with self.lock:  # type: ignore[union-attr]  # None only where logging itself is taken apart
            self.stream.write(text)
            self.flush()


class _Clock:
    """Times as text, made once for each second."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._made = (0, "")

    def __call__(self, seconds: float) -> str:
        whole = int(seconds)
        if self._made[0] != whole:
            self._made = (whole, time.strftime(self._form, time.localtime(whole)))
        return self._made[1]


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", {})
    return fields if isinstance(fields, dict) else {}


class _TextLines(logging.Formatter):
    _time = _Clock("%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        line = self._line(record.created, record.levelname.lower(), record.getMessage(), _fields(record))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    def request(self, line: Line) -> str:
        about = line.about
        if not about.text:
            about.text = _one_line(_words(about.fields))
        cache = f" cache={line.cache}" if line.cache else ""
        rest = f"status={line.status}{cache} ms={line.ms:.2f} id={line.id}"
        return f"{self._time(line.time)} info request {about.text} {rest}"

    def _line(self, at: float, level: str, event: str, fields: Mapping[str, object]) -> str:
        return _one_line(f"{self._time(at)} {level} {event} {_words(fields)}".rstrip())


class _JsonLines(logging.Formatter):
    _time = _Clock("%Y-%m-%dT%H:%M:%S%z")
    _json = json.JSONEncoder(default=str)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return self._json.encode(line)

    def request(self, line: Line) -> str:
        about = line.about
        if not about.text:
            about.text = self._json.encode({"level": "info", "event": "request", **about.fields})[1:-1]
        cache = f'"cache": "{line.cache}", ' if line.cache else ""
        rest = f'"status": {line.status}, {cache}"ms": {line.ms:.2f}, "id": "{line.id}"'
        return f'{{"time": "{self._time(line.time)}", {about.text}, {rest}}}'


def _words(fields: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_word(value)}" for name, value in fields.items())


def _word(value: object) -> str:
    """A value that ends where it seems to end: names are other people's, and may hold spaces."""
    text = str(value)
    return text if text.isprintable() and not {" ", "=", '"'} & set(text) else json.dumps(text)


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
