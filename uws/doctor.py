"""Whether what a server rests on is as it should be, found out without changing any of it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import shutil
import sqlite3
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec
from lxml import etree

from eventstore import EventStoreError, from_microseconds, read_log
from eventstore.checkpoint import CheckpointError
from uws.access.users import problem_of
from uws.beneath import check_ours
from uws.clock import SystemClock
from uws.config import Settings, url_of
from uws.environment import base_environment, raise_open_files
from uws.execution.sandbox import PROGRAM as BWRAP
from uws.execution.slurm.commands import Commands, Unknown
from uws.files import RESERVE
from uws.model.units import format_size, format_time
from uws.version import VERSION
from uws.web.connections import room_for_connections
from uws.web.pages import STATIC

State = Literal["well", "doubt", "fault"]
PACKAGES = ("aiohttp", "aiosqlite", "lxml", "msgspec", "uvloop")
_PATIENCE = 10.0
"""Seconds for whatever else has to answer."""
_AHEAD = timedelta(seconds=5)
"""By how much a time on record may be later than the clock, which is set now and then."""
_LITTLE_ROOM = 1_000_000_000
_NETWORKED = frozenset({"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs",
                        "lustre", "nfs", "nfs4", "smb3"})  # fmt: skip
"""File systems, as Linux calls them, whose files another machine has."""
_TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that nothing keeps right."""
_WAL_RESET = ((3, 44, 6), (3, 45)), ((3, 50, 7), (3, 51)), ((3, 51, 3), (4,))
"""From where to where SQLite is without the fault of https://sqlite.org/wal.html#walresetbug."""
_ALONE = ["--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--", "true"]


class Finding(msgspec.Struct, frozen=True):
    """What was found of a ``subject``, and what to do where it is not well."""

    subject: str
    state: State
    found: str
    advice: str = ""


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what is found, one after the other: no later than some seconds each, and nothing is changed.

    May be cancelled.
    """
    for look in (_versions, _sqlite, _data, _secrets, _clock, _open_files, _programs, _stylesheets):
        for finding in look(settings):
            yield finding
    for ask in (_log, _sandbox, _slurm, _server):
        async for finding in ask(settings):
            yield finding


def _versions(_: Settings) -> Iterator[Finding]:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    yield Finding("versions", "well", f"uwsd {VERSION}, Python {platform.python_version()}, {packages}")


def _sqlite(_: Settings) -> Iterator[Finding]:
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


def _data(settings: Settings) -> Iterator[Finding]:
    """Look at the data directory, or at where it will be."""
    there = settings.data.absolute()
    exists = there.exists()
    while not there.exists():
        there = there.parent
    what = str(there) if exists else f"{settings.data} is not there yet: it is made in {there}"
    if exists:
        try:
            check_ours(there, there.stat())
        except PermissionError as error:
            found, _, advice = (error.strerror or "").rpartition(": ")
            yield Finding("data directory", "fault", f"{there}: {found}", advice)
            return
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "data directory", "fault", f"{what}, where user {os.geteuid()} may not write",
            "run this as the user that the server has, or give him the directory (chown)",
        )  # fmt: skip
        return
    yield Finding("data directory", "well", what)
    free = shutil.disk_usage(there).free
    state: State = "fault" if free < RESERVE else "doubt" if free < _LITTLE_ROOM else "well"
    advice = "" if state == "well" else "make room, or have less kept: see [retention] and limits.disk"
    yield Finding("disk", state, f"{format_size(free)} are free at {there}", advice)
    kind = _file_system(there)
    if kind in _NETWORKED and isinstance(settings.log, Path):
        yield Finding(
            "file system", "doubt", f"{there} is on {kind}, whose locks and syncs SQLite cannot rely on",
            "put `data` on a disk of this machine; or the log into PostgreSQL, with [store]",
        )  # fmt: skip


def _secrets(settings: Settings) -> Iterator[Finding]:
    """Look at the key that signs, and at the users file, where there are such."""
    if settings.key.exists():
        try:
            key = settings.signing_key()
            yield Finding("key", "well", f"{settings.key} signs for {key.verifier.name}")
        except (CheckpointError, OSError) as error:
            yield Finding("key", "fault", str(error), "see docs/auditing.md")
    if settings.auth.users is not None:
        problem = problem_of(settings.data / settings.auth.users)
        yield Finding(
            "users file", "fault" if problem else "well",
            problem or str(settings.data / settings.auth.users),
            "`uwsd user add NAME` makes it anew; the server goes on with the users that it knows"
            if problem
            else "",
        )  # fmt: skip


def _clock(_: Settings) -> Iterator[Finding]:
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


def _open_files(settings: Settings) -> Iterator[Finding]:
    raise_open_files()  # as the server does
    wanted, room = settings.limits.connections, room_for_connections(settings.limits.connections)
    if room < wanted:
        yield Finding(
            "open files", "doubt", f"there is room for {room:,} connections, not for {wanted:,}",
            "raise the limit of open files (LimitNOFILE= of systemd), or lower limits.connections",
        )  # fmt: skip
    else:
        yield Finding("open files", "well", f"there is room for {room:,} connections")


def _programs(settings: Settings) -> Iterator[Finding]:
    """Look for the programs of services; those in Slurm are another machine's."""
    for service in settings.services:
        if service.function or service.executor == "slurm":
            continue
        name = str(service.command[0])
        path = base_environment(service.environment)["PATH"]
        found = shutil.which(name, path=path)
        place = f"services.{service.name}.command"
        if "{" in name or (not name.startswith("/") and "/" in name):  # found, or not, for each job
            yield Finding("program", "well", f"{place}: {name} is looked for when a job starts")
        elif found:
            yield Finding("program", "well", f"{place}: {found}")
        else:
            yield Finding(
                "program", "fault", f"{place}: {name} is not a program, or not in PATH: {path}",
                "install it, name its whole path, or set PATH in `environment`",
            )  # fmt: skip


def _stylesheets(_: Settings) -> Iterator[Finding]:
    """Read the stylesheets, as each browser does."""
    stylesheets = sorted((STATIC / "xsl").glob("*.xsl")) if STATIC.is_dir() else []
    for stylesheet in stylesheets:
        try:
            etree.XSLT(etree.parse(stylesheet))
        except (etree.LxmlError, OSError) as error:
            yield Finding("stylesheets", "fault", f"{stylesheet}: {error}", "install uwsd anew")
            return
    if stylesheets:
        yield Finding("stylesheets", "well", f"{len(stylesheets)} in {STATIC / 'xsl'}")
    else:
        yield Finding("stylesheets", "fault", f"there are none in {STATIC / 'xsl'}", "install uwsd anew")


async def _log(settings: Settings) -> AsyncIterator[Finding]:
    if isinstance(settings.log, Path) and not settings.log.exists():
        yield Finding("log", "well", f"{settings.log} is not there yet: it is made at the first start")
        return
    place = settings.log if isinstance(settings.log, Path) else "the database of store"
    try:
        async with asyncio.timeout(_PATIENCE):
            log = await read_log(settings.log)
            try:
                head = await log.head()
                last = await log.read_all(after=head.position - 1)
            finally:
                await log.close()
    except TimeoutError:
        yield Finding("log", "fault", f"{place} does not answer", "look after the database, or the disk")
        return
    except (EventStoreError, OSError) as error:
        yield Finding("log", "fault", str(error), "see docs/operating.md")
        return
    yield Finding("log", "well", f"{place}, {head.position:,} events")
    now = SystemClock().now()
    if last and (recorded := from_microseconds(last[-1].time)) > now + _AHEAD:
        yield Finding(
            "clock", "fault",
            f"the last event is of {format_time(recorded)}, and now it is {format_time(now)}",
            "set the clock right before the server starts",
        )  # fmt: skip


async def _sandbox(settings: Settings) -> AsyncIterator[Finding]:
    if not any(service.sandbox for service in settings.services):
        return
    process = await asyncio.create_subprocess_exec(BWRAP, *_ALONE, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    _, said = await process.communicate()
    if process.returncode:
        yield Finding(
            "sandbox", "fault", f"{BWRAP}: {said.decode(errors='replace').strip()}",
            "let users make namespaces (sysctl kernel.unprivileged_userns_clone, AppArmor), "
            "or leave sandbox = true out",
        )  # fmt: skip
    else:
        yield Finding("sandbox", "well", f"{BWRAP} works")


async def _slurm(settings: Settings) -> AsyncIterator[Finding]:
    if not any(service.executor == "slurm" for service in settings.services):
        return
    try:
        await Commands().queue()
    except Unknown as error:
        yield Finding("Slurm", "fault", str(error), "see docs/slurm.md; jobs wait until it answers")
    else:
        yield Finding("Slurm", "well", "squeue answers")


async def _server(settings: Settings) -> AsyncIterator[Finding]:
    """Ask the server whether it does its work, where it listens and where clients are to reach it."""
    server = settings.server
    timeout = aiohttp.ClientTimeout(total=_PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        near = url_of(server.host, server.port)
        try:
            yield await _availability(session, near)
        except (aiohttp.ClientError, TimeoutError, OSError):
            yield Finding("server", "well", f"none answers at {near} now")
            return
        if server.base_url is None:
            return
        advice = "look after the proxy and the name: docs/deploying.md has a configuration of nginx"
        stylesheet = sorted((STATIC / "xsl").glob("*.xsl"))[0]
        try:
            yield await _availability(session, server.base_url)
            async with session.get(f"{server.base_url}/static/xsl/{stylesheet.name}") as response:
                if await response.read() != stylesheet.read_bytes():
                    found = f"{response.url} is not our stylesheet: browsers show no pages"
                    yield Finding("base_url", "fault", found, advice)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            found = f"{server.base_url} is not reached from here: {str(error) or 'no answer'}"
            yield Finding("base_url", "fault", found, advice)


async def _availability(session: aiohttp.ClientSession, url: str) -> Finding:
    """Return what is said at a server's URL (VOSI 1.1, section 3). Raises what aiohttp does."""
    async with session.get(f"{url}/availability") as response:
        said = await response.read()
    advice = "see docs/operating.md"
    try:
        told = etree.fromstring(said, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError:
        told = None
    if told is None or etree.QName(told).localname != "availability":
        return Finding("server", "fault", f"{url} is answered by something else", "pick another port")
    notes = "; ".join(note.text or "" for note in told.iterfind("{*}note"))
    if told.findtext("{*}available") != "true":
        return Finding("server", "fault", f"{url}: {notes}", advice)
    if notes:
        return Finding("server", "doubt", f"{url} answers: {notes}", advice)
    return Finding("server", "well", f"{url} answers")


def _file_system(path: Path) -> str:
    """Return what the file system is called that has ``path`` (proc(5), mountinfo)."""
    path, found, longest = path.resolve(), "", -1
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            mounted = Path(before.split()[4].encode().decode("unicode_escape"))
            if path.is_relative_to(mounted) and (length := len(mounted.parts)) >= longest:
                found, longest = after.split()[0], length
    return found
