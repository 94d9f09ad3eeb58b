"""The directories that a server writes, and the disks that they are on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from uws.beneath import named, run_as
from uws.config import Settings
from uws.files import RESERVE
from uws.model.units import format_size

from .finding import Finding, State

_LITTLE_ROOM = 1_000_000_000
_NETWORKED = frozenset({"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs",
                        "lustre", "nfs", "nfs4", "smb3"})  # fmt: skip
"""File systems, as Linux calls them, whose files another machine has."""
_ESCAPED = re.compile(rb"\\([0-7]{3})")
DATA = "data directory"


def directories(settings: Settings) -> Iterator[Finding]:
    """Look at the directories that are written, or at where they will be."""
    yield from _directory(DATA, settings.data.absolute(), settings)
    if settings.store.jobs:
        yield from _directory("jobs", settings.store.jobs.absolute(), settings)


def _directory(subject: str, path: Path, settings: Settings) -> Iterator[Finding]:
    there, status = path, _status(path)
    while status is None:
        there, status = there.parent, _status(there.parent)
    if fault := _fault(subject, path, there, status):
        yield fault
        return
    what = str(path) if there == path else f"{path} is not there yet: it is made in {there}"
    yield Finding(subject, "well", what)
    yield _room(there)
    kind = _file_system(there)
    if kind in _NETWORKED and path == settings.data.absolute() and isinstance(settings.log, Path):
        yield Finding(
            "file system", "doubt", f"{there} is on {kind}, whose locks and syncs SQLite cannot rely on",
            "have `data` on a disk of this machine; or the log in PostgreSQL, with `store`",
        )  # fmt: skip


def _fault(subject: str, path: Path, there: Path, status: os.stat_result) -> Finding | None:
    """Return why a directory cannot be used, or made ``there``, which is what there is of its path."""
    found = advice = ""
    user, disk = os.geteuid(), os.statvfs(there)
    what = str(path) if there == path else f"{path} is not there, and cannot be made in {there}"
    if not stat.S_ISDIR(status.st_mode):
        found, advice = f"{there} is no directory", "move it away, or name another in the file"
    elif there == path and status.st_uid not in (0, user):
        found = f"{there} belongs to {named(status.st_uid)}, and this is {named(user)}"
        advice = f"run this, and the server, as that user: {run_as(status.st_uid)} uwsd doctor"
    elif there == path and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        found, advice = f"{there}: others may write it", f"chmod go-w {there}"
    elif disk.f_flag & os.ST_RDONLY:
        found, advice = f"{what}: the disk can only be read", "name a directory that can be written"
    elif not disk.f_blocks:  # proc(5), sysfs(5) and the like, whoever asks
        found = f"{what}: {_file_system(there)} has no room for files"
        advice = "name a directory on a disk"
    elif not os.access(there, os.W_OK | os.X_OK):
        found = f"{what}: it belongs to {named(status.st_uid)}, and {named(user)} may not write there"
        advice = f"run this, and the server, as one who may: {run_as(status.st_uid)} uwsd doctor"
        if there != path:
            make = f"sudo install -d -m 700 -o {user} {shlex.quote(str(path))}"
            advice += f"; or have it made for this one: {make}"
    return Finding(subject, "fault", found, advice) if found else None


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
