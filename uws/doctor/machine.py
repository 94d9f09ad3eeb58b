"""What a server rests on that is the same for all: packages, SQLite, the clock, stylesheets, open files."""

from __future__ import annotations

import ctypes
import platform
import sqlite3
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from lxml import etree

from uws.clock import SystemClock
from uws.config import Settings
from uws.environment import raise_open_files
from uws.model.units import format_time
from uws.version import VERSION
from uws.web.connections import room_for_connections
from uws.web.pages import STATIC

from .finding import Finding

_PACKAGES = ("aiohttp", "aiosqlite", "lxml", "msgspec", "uvloop")
_TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that nothing keeps right."""
_WAL_RESET = ((3, 44, 6), (3, 45)), ((3, 50, 7), (3, 51)), ((3, 51, 3), (4,))
"""From where to where SQLite is without the fault of https://sqlite.org/wal.html#walresetbug."""


def versions() -> Iterator[Finding]:
    """Tell what runs."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    yield Finding("versions", "well", f"uwsd {VERSION}, Python {platform.python_version()}, {packages}")


def sqlite() -> Iterator[Finding]:
    """Look for faults of SQLite's that matter here: each connection writes, or reads beside one that does."""
    found = sqlite3.sqlite_version
    if any(first <= sqlite3.sqlite_version_info < last for first, last in _WAL_RESET):
        yield Finding("SQLite", "well", f"{found}, no fault of it is known that matters here")
        return
    yield Finding(
        "SQLite", "doubt",
        f"{found}: a file may be damaged, very rarely, when two connections write it and empty its WAL in "
        "the same instant (sqlite.org/wal.html#walresetbug)",
        "use a Python with SQLite 3.51.3 or later when there is one; until then `uwsd audit verify` tells "
        "whether the log is whole, and `uwsd projections rebuild` makes read models anew",
    )  # fmt: skip


def clock() -> Iterator[Finding]:
    """Ask the system whether something keeps its clock right (adjtimex(2))."""
    room = ctypes.create_string_buffer(1024)  # zeroed: nothing is to be set
    try:
        status = ctypes.CDLL(None).adjtimex(room)
    except (AttributeError, OSError):
        status = -1
    now = format_time(SystemClock().now())
    if status == _TIME_ERROR:
        yield Finding(
            "clock", "doubt", f"{now}; nothing keeps it right",
            "run chrony or systemd-timesyncd: destruction times, limits and tokens go by it",
        )  # fmt: skip
    elif status < 0:
        yield Finding("clock", "well", f"{now}; the system does not tell whether it is kept right")
    else:
        yield Finding("clock", "well", f"{now}, kept right")


def stylesheets() -> Iterator[Finding]:
    """Read the stylesheets, as each browser does."""
    found = all_stylesheets()
    for stylesheet in found:
        try:
            etree.XSLT(etree.parse(stylesheet))
        except (etree.LxmlError, OSError) as error:
            yield Finding("stylesheets", "fault", f"{stylesheet}: {error}", "install uwsd anew")
            return
    if found:
        yield Finding("stylesheets", "well", f"{len(found)} in {STATIC / 'xsl'}")
    else:
        yield Finding("stylesheets", "fault", f"there are none in {STATIC / 'xsl'}", "install uwsd anew")


def all_stylesheets() -> list[Path]:
    """Return the stylesheets that browsers are sent."""
    return sorted((STATIC / "xsl").glob("*.xsl"))


def open_files(settings: Settings) -> Iterator[Finding]:
    """Count the connections for which there is room."""
    raise_open_files()  # as the server does
    wanted, room = settings.limits.connections, room_for_connections(settings.limits.connections)
    if room == wanted:
        yield Finding("open files", "well", f"there is room for {room:,} connections")
        return
    yield Finding(
        "open files", "doubt",
        f"there is room for {room:,} connections, not for {wanted:,}, where the server is started from here",
        "raise the limit of open files where it is started: ulimit -n, or LimitNOFILE= of its unit; "
        "or lower limits.connections",
    )  # fmt: skip
