"""Whether what a server rests on is as it should be, found out without changing any of it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import re
import shutil
import sqlite3
import stat
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from errno import ECONNREFUSED
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec
from lxml import etree

from eventstore import EventStoreError, from_microseconds, read_log
from eventstore.checkpoint import CheckpointError
from uws.access.users import problem_of
from uws.clock import SystemClock
from uws.config import Settings, url_of
from uws.environment import base_environment, raise_open_files
from uws.execution.sandbox import trial
from uws.execution.slurm.commands import Commands, Unknown
from uws.files import RESERVE
from uws.model import DeclarationError
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
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_LONGEST_ANSWER = 1 << 20
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""What is raised where nothing that speaks HTTP answers; `ValueError` for a host that is no name."""


class Finding(msgspec.Struct, frozen=True):
    """What was found of a ``subject``, and what to do where it is not well."""

    subject: str
    state: State
    found: str
    advice: str = ""


async def examine(settings: Settings, *, is_declared: bool = True) -> AsyncIterator[Finding]:
    """Yield what is found, one after the other; what others have to say is waited for for some seconds.

    Without a declaration, nothing is found of what only that can say. No file is changed, but that SQLite may
    make its own beside the log. May be cancelled.
    """
    looks = {
        "versions": _versions, "SQLite": _sqlite, "data directory": _data, "key": _key, "users file": _users,
        "program": _programs, "clock": _clock,
    }  # fmt: skip
    for subject, look in looks.items():
        try:
            for finding in look(settings):
                yield finding
        except OSError as error:
            yield _not_seen(subject, error)
    for subject, ask in {"log": _log, "sandbox": _sandbox, "Slurm": _slurm}.items():
        try:
            async for finding in ask(settings):
                yield finding
        except OSError as error:
            yield _not_seen(subject, error)
    for finding in _stylesheets():
        yield finding
    if is_declared:
        for problem in _refused(settings):
            yield Finding("declaration", "fault", problem, "see docs/access.md")
        yield _open_files(settings)
        async for finding in _server(settings):
            yield finding


def _refused(settings: Settings) -> list[str]:
    """Return why a server with these settings would not start."""
    try:
        settings.check_access()
    except DeclarationError as error:
        return list(error.problems)
    return []


def _not_seen(subject: str, error: OSError) -> Finding:
    found = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return Finding(subject, "fault", found, "run this as the user that the server has")


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
    """Look at the directories that are written, or at where they will be."""
    yield from _directory("data directory", settings.data.absolute(), settings)
    if settings.store.jobs:
        yield from _directory("jobs", settings.store.jobs.absolute(), settings)


def _directory(subject: str, path: Path, settings: Settings) -> Iterator[Finding]:
    there, status = path, _status(path)
    while status is None:
        there, status = there.parent, _status(there.parent)
    what = str(path) if there == path else f"{path} is not there yet: it is made in {there}"
    user = os.geteuid()
    if not stat.S_ISDIR(status.st_mode):
        yield Finding(
            subject, "fault", f"{there} is no directory", "move it away, or name another in the file"
        )
    elif there == path and status.st_uid not in (0, user):
        yield Finding(
            subject, "fault", f"{there} belongs to user {status.st_uid}, and this is user {user}",
            f"run this, and the server, as that user: sudo -u '#{status.st_uid}' uwsd doctor",
        )  # fmt: skip
    elif there == path and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Finding(subject, "fault", f"{there}: others may write it", f"chmod go-w {there}")
    elif os.statvfs(there).f_flag & os.ST_RDONLY:
        yield Finding(subject, "fault", f"{there} can only be read", "name a directory that can be written")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            subject, "fault", f"{what}, where user {user} may not write",
            "run this, and the server, as a user that may, or make the directory and give it to that one",
        )  # fmt: skip
    else:
        yield Finding(subject, "well", what)
        yield _room(there)
        kind = _file_system(there)
        if kind in _NETWORKED and path == settings.data.absolute() and isinstance(settings.log, Path):
            yield Finding(
                "file system", "doubt", f"{there} is on {kind}, whose locks and syncs SQLite cannot rely on",
                "have `data` on a disk of this machine; or the log in PostgreSQL, with `store`",
            )  # fmt: skip


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _room(there: Path) -> Finding:
    free = shutil.disk_usage(there).free
    state: State = "fault" if free < RESERVE else "doubt" if free < _LITTLE_ROOM else "well"
    advice = "" if state == "well" else "make room, or have less kept: see [retention] and limits.disk"
    return Finding("disk", state, f"{format_size(free)} are free at {there}", advice)


def _key(settings: Settings) -> Iterator[Finding]:
    if not os.path.lexists(settings.key):
        return
    try:
        yield Finding("key", "well", f"{settings.key} signs for {settings.verifier_key().name}")
    except CheckpointError as error:
        advice = "run this as the user that the server has; or chmod 600 it, or bring back a copy"
        yield Finding("key", "fault", str(error), advice)


def _users(settings: Settings) -> Iterator[Finding]:
    if settings.auth.users is None:
        return
    path = settings.data / settings.auth.users
    if not os.path.lexists(path):
        yield Finding("users file", "doubt", f"{path} is not there: nobody can log in", "uwsd user add NAME")
    elif problem := problem_of(path):
        yield Finding("users file", "fault", problem, "see docs/access.md, or bring back a copy")
    else:
        yield Finding("users file", "well", str(path))


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


def _open_files(settings: Settings) -> Finding:
    raise_open_files()  # as the server does
    wanted, room = settings.limits.connections, room_for_connections(settings.limits.connections)
    if room == wanted:
        return Finding("open files", "well", f"there is room for {room:,} connections")
    return Finding(
        "open files", "doubt",
        f"there is room for {room:,} connections, not for {wanted:,}, where the server is started from here",
        "raise the limit of open files where it is started: ulimit -n, or LimitNOFILE= of its unit; "
        "or lower limits.connections",
    )  # fmt: skip


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


def _stylesheets() -> Iterator[Finding]:
    """Read the stylesheets, as each browser does."""
    stylesheets = _all_stylesheets()
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


def _all_stylesheets() -> list[Path]:
    return sorted((STATIC / "xsl").glob("*.xsl"))


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
    program, *arguments = trial()
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )
    said = b"it does not end"
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        yield Finding(
            "sandbox", "fault", f"{program}: {said.decode(errors='replace').strip()}",
            "let users make namespaces (sysctl kernel.unprivileged_userns_clone, AppArmor) with a bubblewrap "
            "of 0.8 or later, or leave sandbox = true out",
        )  # fmt: skip
    else:
        yield Finding("sandbox", "well", f"{program} works")


async def _slurm(settings: Settings) -> AsyncIterator[Finding]:
    if not any(service.executor == "slurm" for service in settings.services):
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            await Commands().queue()
    except (Unknown, TimeoutError) as error:
        found = str(error) or f"squeue has not answered for {_PATIENCE:.0f} s"
        yield Finding("Slurm", "fault", found, "see docs/slurm.md; jobs wait until it answers")
    else:
        yield Finding("Slurm", "well", "squeue answers")


async def _server(settings: Settings) -> AsyncIterator[Finding]:
    """Ask the server whether it does its work, where it listens and where clients are to reach it."""
    server = settings.server
    near = url_of(server.host, server.port)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE)) as session:
        try:
            found = await _availability(session, "server", near, "stop what has this port, or pick another")
        except aiohttp.ClientConnectorError as error:
            is_refused = error.os_error.errno == ECONNREFUSED
            yield await _may_listen(settings) if is_refused else _no_answer(near, error)
            return
        except _NO_ANSWER as error:
            yield _no_answer(near, error)
            return
        yield found
        if server.base_url is None or found.state == "fault":
            return
        advice = "look after the proxy and the name: docs/deploying.md has a configuration of nginx"
        far = server.base_url.rstrip("/")
        try:
            found = await _availability(session, "base_url", far, advice)
            yield found
            if found.state != "fault" and (stylesheets := _all_stylesheets()):
                url = f"{far}/static/xsl/{stylesheets[0].name}"
                if await _fetched(session, url) != stylesheets[0].read_bytes():
                    yield Finding(
                        "base_url", "fault", f"{url} is not our stylesheet: browsers show no pages", advice
                    )
        except _NO_ANSWER as error:
            said = f"{far} is not reached from here: {str(error) or 'no answer'}"
            yield Finding("base_url", "fault", said, advice)


def _no_answer(url: str, error: Exception) -> Finding:
    found = f"{url} does not answer as a server of ours: {str(error) or f'nothing for {_PATIENCE:.0f} s'}"
    return Finding("server", "fault", found, "stop what has this port, or pick another")


async def _may_listen(settings: Settings) -> Finding:
    """Say whether a server that does not run could listen where it is to."""
    server = settings.server
    where = url_of(server.host, server.port)
    try:
        listening = await asyncio.get_running_loop().create_server(asyncio.Protocol, server.host, server.port)
    except (OSError, UnicodeError) as error:
        return Finding("server", "fault", f"cannot listen at {where}: {error}", "name another host, or port")
    listening.close()
    await listening.wait_closed()
    return Finding("server", "well", f"none answers at {where} now")


async def _availability(session: aiohttp.ClientSession, subject: str, url: str, advice: str) -> Finding:
    """Return what is said at a server's URL (VOSI 1.1, section 3). Raises one of `_NO_ANSWER`."""
    said = await _fetched(session, f"{url}/availability")
    try:
        told = etree.fromstring(said, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError:
        told = None
    if told is None or etree.QName(told).localname != "availability":
        return Finding(subject, "fault", f"{url} is answered by something else", advice)
    notes = "; ".join(note.text or "" for note in told.iterfind("{*}note"))
    if told.findtext("{*}available") != "true":
        return Finding(subject, "fault", f"{url}: {notes}", "see docs/operating.md")
    if notes:
        return Finding(subject, "doubt", f"{url} answers: {notes}", "see docs/operating.md")
    return Finding(subject, "well", f"{url} answers")


async def _fetched(session: aiohttp.ClientSession, url: str) -> bytes:
    """Return the beginning of what is at a URL. Raises one of `_NO_ANSWER`."""
    found = bytearray()
    async with session.get(url, allow_redirects=False) as response:
        async for part in response.content.iter_any():
            found += part
            if len(found) > _LONGEST_ANSWER:
                break
    return bytes(found)


def _file_system(path: Path) -> str:
    """Return what the file system is called that has ``path`` (proc(5), mountinfo)."""
    path, found, longest = path.resolve(), "", -1
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            before, _, after = line.partition(b" - ")
            escaped = before.split()[4]
            mounted = Path(os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), escaped)))
            if path.is_relative_to(mounted) and (length := len(mounted.parts)) >= longest:
                found, longest = after.split()[0].decode(), length
    return found
