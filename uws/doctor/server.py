"""The server: whether it runs, whether it is the one of the data directory, and how it is reached."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from errno import ECONNREFUSED
from functools import partial
from pathlib import Path

import aiohttp
from lxml import etree

from uws.admin.wire import address, credentials
from uws.config import ServerSettings, Settings, url_of

from .finding import PATIENCE, Finding, patiently
from .machine import all_stylesheets

_LONGEST_ANSWER = 1 << 20
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""What is raised where nothing that speaks HTTP answers; `ValueError` for a host that is no name."""
_LISTENS = "0A"
"""A socket that listens, in the tables of proc(5)."""
_FREE_IT = "stop what has this port, or pick another"


async def server(settings: Settings) -> AsyncIterator[Finding]:
    """Ask the server whether it does its work, where it listens and where clients are to reach it."""
    declared = settings.server
    if not declared.port:
        yield Finding("server", "well", "port = 0: any port that is free, so nobody knows where to ask")
        return
    if unknown := await _unknown_host(declared):
        yield unknown
        return
    near = url_of(declared.host, declared.port)
    pid, listens = await patiently(partial(_holder, settings))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        try:
            told = await _availability(session, near)
        except _NO_ANSWER as error:
            if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == ECONNREFUSED:
                yield _elsewhere(settings, near, pid) if pid else await _may_listen(declared, near)
            else:
                yield _no_answer(settings, near, pid if listens else None, error)
            return
        is_another = told is not None and listens is False
        found = _another(settings, near, pid) if is_another else _said("server", near, told, _FREE_IT)
        yield found
        if declared.base_url is None or found.state == "fault":
            return
        async for finding in _far(session, declared.base_url.rstrip("/")):
            yield finding


async def _far(session: aiohttp.ClientSession, far: str) -> AsyncIterator[Finding]:
    """Ask where clients are to reach it."""
    advice = "look after the proxy and the name: docs/deploying.md has a configuration of nginx"
    try:
        found = _said("base_url", far, await _availability(session, far), advice)
        yield found
        if found.state != "fault" and (stylesheets := all_stylesheets()):
            url = f"{far}/static/xsl/{stylesheets[0].name}"
            if await _fetched(session, url) != stylesheets[0].read_bytes():
                yield Finding(
                    "base_url", "fault", f"{url} is not our stylesheet: browsers show no pages", advice
                )
    except _NO_ANSWER as error:
        said = f"{far} is not reached from here: {str(error) or 'no answer'}"
        yield Finding("base_url", "fault", said, advice)


async def _unknown_host(declared: ServerSettings) -> Finding | None:
    """Return what is wrong with the name of where it listens."""
    try:
        await patiently(partial(socket.getaddrinfo, declared.host, declared.port))
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error) or "no answer"
        return Finding(
            "server", "fault", f"host = {declared.host!r} leads nowhere: {said}",
            "name an address of this machine as `host` of [server], or have the name known (DNS, /etc/hosts)",
        )  # fmt: skip
    return None


def _holder(settings: Settings) -> tuple[int | None, bool | None]:
    """Return which process takes admin commands of the data directory, and whether it has the server's port.

    None stands for no process, and for what this user may not see. It need not answer. Blocks.
    """
    try:
        with address(settings.data) as where, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(where)
            pid, _ = credentials(connection)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return None, False
    except OSError:
        return None, None
    return pid, _listens(pid, settings.server.port)


def _listens(pid: int, port: int) -> bool | None:
    """Whether a process listens at a TCP port; None where this user may not see that (proc(5))."""
    process = Path(f"/proc/{pid}")
    try:
        rows = [
            line.split()
            for table in ("tcp", "tcp6")
            if (path := process / "net" / table).exists()
            for line in path.read_text().splitlines()[1:]
        ]
        inodes = {row[9] for row in rows if row[3] == _LISTENS and int(row[1].rpartition(":")[2], 16) == port}
        held = set()
        for file in (process / "fd").iterdir():
            with suppress(FileNotFoundError):
                held.add(str(file.readlink()))
    except OSError:
        return None
    return not held.isdisjoint(f"socket:[{inode}]" for inode in inodes)


def _another(settings: Settings, near: str, pid: int | None) -> Finding:
    holder = f"{settings.data} is in use by process {pid}" if pid else f"none runs on {settings.data}"
    return Finding("server", "fault", f"another server answers at {near}: {holder}", _FREE_IT)


def _elsewhere(settings: Settings, near: str, pid: int) -> Finding:
    found = f"process {pid} has {settings.data}, and does not listen at {near}"
    return Finding(
        "server", "doubt", found, "wait until it has started, or see with which --host, --port it was"
    )


def _no_answer(settings: Settings, near: str, pid: int | None, error: Exception) -> Finding:
    said = str(error) or f"nothing for {PATIENCE:.0f} s"
    if pid is None:
        return Finding("server", "fault", f"{near} does not answer as a server of ours: {said}", _FREE_IT)
    found = f"process {pid}, which has {settings.data}, does not answer at {near}: {said}"
    return Finding("server", "fault", found, f"see its log; where it was stopped: kill -CONT {pid}")


async def _may_listen(declared: ServerSettings, near: str) -> Finding:
    """Say whether a server that does not run could listen where it is to."""
    loop = asyncio.get_running_loop()
    try:
        listening = await loop.create_server(asyncio.Protocol, declared.host, declared.port)
    except OSError as error:
        return Finding("server", "fault", f"cannot listen at {near}: {error}", "name another host, or port")
    listening.close()
    await listening.wait_closed()
    return Finding("server", "well", f"none answers at {near} now")


async def _availability(session: aiohttp.ClientSession, url: str) -> etree._Element | None:
    """Return what is said at a server's URL (VOSI 1.1, section 3), None where something else answers.

    Raises one of `_NO_ANSWER`.
    """
    said = await _fetched(session, f"{url}/availability")
    try:
        told = etree.fromstring(said, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError:
        return None
    return told if etree.QName(told).localname == "availability" else None


def _said(subject: str, url: str, told: etree._Element | None, advice: str) -> Finding:
    """Return what is to be found in what was said at a URL."""
    if told is None:
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
