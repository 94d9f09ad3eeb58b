"""The server's log on standard error: lines of JSON, or of text for people.

All of it goes through `logging`; structlog adds which request or job a record is about, and renders it.
Whatever is in it, one record is one line, but for the traceback in a text, of which each line is indented.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import IO

from structlog import processors
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.dev import ConsoleRenderer
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, Processor

from uws.config import ServerSettings
from uws.web import ACCESS_LOG

from .common import err

_encode = json.JSONEncoder(default=str).encode  # all that is not ASCII is escaped: a line stays one
_FIELDS = ("status", "seconds", "user", "job_id", "user_agent", "request_id")
"""What is logged as ``extra``."""


def begin_log(settings: ServerSettings) -> None:
    """Log from now on, as an operator wants it."""
    is_json = settings.log == "json" if settings.log else not err.is_terminal
    handler = log_handler(err.file, is_json=is_json, colors=err.is_terminal and not err.no_color)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # What no line tells is not looked up for each ("Optimization" in Python's Logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    if not settings.access_log:
        logging.getLogger(ACCESS_LOG).setLevel(logging.WARNING)


def log_handler(file: IO[str], *, is_json: bool, colors: bool = False) -> logging.Handler:
    """Return what writes log records to ``file``."""
    handler = logging.StreamHandler(file)
    handler.setFormatter(_JsonLines() if is_json else _text(colors))
    return handler


class _JsonLines(logging.Formatter):
    """Each record as an object: there is one for each request, and most of what that costs was this."""

    def format(self, record: logging.LogRecord) -> str:
        about = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **get_contextvars(),
        }
        about |= {name: vars(record)[name] for name in _FIELDS if name in vars(record)}
        if record.exc_info and record.exc_info[0]:
            about["exception"] = self.formatException(record.exc_info)
        return _encode(about)


def _text(colors: bool) -> logging.Formatter:
    # Without a formatter of its own ConsoleRenderer shows the values of variables, which may be secrets.
    common: list[Processor] = [
        merge_contextvars,
        add_log_level,
        add_logger_name,
        ExtraAdder(_FIELDS),
        processors.TimeStamper(fmt="iso", key="time"),
        processors.format_exc_info,
    ]
    shown: list[Processor] = [_escape, ConsoleRenderer(colors=colors, timestamp_key="time")]
    return ProcessorFormatter(
        processors=[ProcessorFormatter.remove_processors_meta, *shown], foreign_pre_chain=common
    )


def _escape(_: object, __: str, about: EventDict) -> EventDict:
    """Escape what could be taken for another line, or would tell the terminal what to do."""
    for key, value in about.items():
        if isinstance(value, str) and not value.isprintable():
            lines = value.split("\n") if key == "exception" else [value]
            shown = ["".join(map(_shown, line)) for line in lines]
            about[key] = "\n".join(f"    {line}" for line in shown) if key == "exception" else shown[0]
    return about


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
