"""The server's log on standard error: lines of JSON, or of text for people.

All of it goes through `logging`; structlog adds which request or job a record is about, and renders it.
Whatever is in it, one record is one line, but for the traceback in a text, of which each line is indented.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO

import msgspec
from structlog import processors
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.dev import ConsoleRenderer
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, Processor

from uws.config import ServerSettings
from uws.web import ACCESS_LOG, SOON

from .output import err

_encode, _escaping = msgspec.json.Encoder(enc_hook=str).encode, json.JSONEncoder(default=str).encode
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
    handler = _Gathering(file)
    handler.setFormatter(_JsonLines() if is_json else _text(colors))
    return handler


class _Gathering(logging.StreamHandler[IO[str]]):
    """Writes each record at once, but for those that may wait until the loop has done what is due."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__(file)
        self._gathered: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, SOON, False):
            self.flush()
            super().emit(record)
            return
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self.flush)
        self._gathered.append(self.format(record) + self.terminator)

    def flush(self) -> None:
        """Write what was gathered, at the end of the process at the latest."""
        self.acquire()
        try:
            gathered, self._gathered = self._gathered, []
            self.stream.write("".join(gathered))
            super().flush()
        finally:
            self.release()


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
        with suppress(UnicodeEncodeError):
            if (line := _encode(about)).isascii():
                return line.decode()
        return _escaping(about)  # which costs more, and leaves nothing that could be taken for another line


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
