"""Files and directories where programs write, reached so that no link leads elsewhere. Linux only.

A program may put anything in any place, and something else there while that is looked at. So each step of a
path is taken from the open directory before it, and through no link (openat(2), O_NOFOLLOW); and what a file
is, is asked of what is held already, before it is opened to be read: no pipe makes wait, no device notices.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import (
    EACCES,
    EINVAL,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    ENXIO,
    EPERM,
)
from io import BufferedReader
from pathlib import Path, PurePath

PRIVATE = 0o700
"""The mode of directories that only the server's user may look into."""
_NO_LINK = os.O_PATH | os.O_NOFOLLOW
_ABSENT = frozenset({EACCES, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EPERM})
"""What the system says of paths that lead to no file that could be read; all else may pass."""
_TRIES = 100


def open_file(base: Path, path: PurePath, *, sole: bool) -> BufferedReader | None:
    """Open the regular file at ``path`` below ``base`` to be read; None when there is none, but a link, say.

    A file that has other names, and so may be somebody else's, is not opened where this is to be the ``sole``
    one. Raises `OSError` for what is not due to the path.
    """
    try:
        with (
            directory(base, path.parent) as parent,
            _opened(path.name, parent) as found,
        ):
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode) or (sole and status.st_nlink != 1):
                return None
            return path_of(found).open("rb")
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    except ValueError:  # a path that the system cannot be told
        return None


def path_of(descriptor: int) -> Path:
    """Return a path that leads to what a process holds, whatever lies where it was found (proc(5))."""
    return Path(f"/proc/self/fd/{descriptor}")


@contextmanager
def directory(base: Path, path: PurePath) -> Iterator[int]:
    """Give the directory at ``path`` below ``base``, as a ``dir_fd``. Raises `OSError`."""
    if path.is_absolute() or ".." in path.parts:
        raise OSError(EINVAL, os.strerror(EINVAL), str(path))
    descriptor = os.open(base, os.O_PATH | os.O_DIRECTORY)
    try:
        for name in path.parts:
            inner = os.open(name, _NO_LINK | os.O_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def make_private(path: Path) -> None:
    """Make a directory, or make one that is there ours alone. Raises `OSError`, also for a link to one."""
    with suppress(FileExistsError):
        path.mkdir(mode=PRIVATE)
        if stat.S_IMODE(path.lstat().st_mode) == PRIVATE:  # so it is, but for an odd umask
            return
    with directory(path.parent, PurePath(path.name)) as descriptor:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777 != PRIVATE:
            path_of(descriptor).chmod(PRIVATE)


def check_ours(path: Path, status: os.stat_result) -> None:
    """Raise `PermissionError`, which says what to do, for what somebody else could change.

    ``status`` is that of what is at ``path``. Root could, whatever its owner and its mode.
    """
    if status.st_uid not in (0, user := os.geteuid()):
        reason = (
            f"it belongs to {named(status.st_uid)}, and the server is {named(user)}: "
            f"run it as that one, {run_as(status.st_uid)} uwsd …, or chown {user} this"
        )
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = "others may write it: chmod go-w this"
    else:
        return
    raise PermissionError(EPERM, reason, str(path))


def named(user: int) -> str:
    """Return the words for a user of the system, by his number."""
    try:
        return f"user {user} ({pwd.getpwuid(user).pw_name})"
    except KeyError:
        return f"user {user}"


def run_as(user: int) -> str:
    """Return what is typed before a command that another user of the system is to run."""
    try:
        return f"sudo -u {shlex.quote(pwd.getpwuid(user).pw_name)}"
    except KeyError:
        return f"sudo -u '#{user}'"


def whose(error: BaseException | None) -> str:
    """Return whose that is which this user may not use, and what to do; nothing for all other errors."""
    if not isinstance(error, PermissionError) or error.errno != EACCES or error.filename is None:
        return ""
    path = Path(os.fsdecode(error.filename)).absolute()
    for there in (path, *path.parents):
        with suppress(OSError):  # it is not there, or in what may not be looked into
            owner, user = there.stat().st_uid, os.geteuid()
            if owner == user:
                return ""
            return f": {there} belongs to {named(owner)}, and this is {named(user)}: {run_as(owner)} uwsd …"
    return ""


def remove(root: Path) -> None:
    """Delete a directory and all in it, however deep it lies; a link in its place goes alone.

    Another process may be deleting it, too. Raises `OSError`.
    """
    for left in reversed(range(_TRIES)):
        if not os.path.lexists(root):
            break
        try:
            with directory(root.parent, PurePath()) as parent:
                if stat.S_ISDIR(os.stat(root.name, dir_fd=parent, follow_symlinks=False).st_mode):
                    _remove(root.name, parent)
                else:
                    os.unlink(root.name, dir_fd=parent)
        except OSError as error:
            # What another process has deleted, brought up, or put in its place, is no failure.
            if error.errno not in (ENOENT, ENOTEMPTY, ENOTDIR, ELOOP) or not left:
                raise


def _remove(root: str, parent: int) -> None:
    """Empty a directory and delete it. What lies deeper is brought up first: its depth has no bound."""
    with _scanned(root, parent) as top:
        ahead = _clear(top, top)
        while ahead:
            name = ahead.pop()
            with _scanned(name, top) as inner:
                ahead += _clear(inner, top)
            os.rmdir(name, dir_fd=top)
    os.rmdir(root, dir_fd=parent)


def _clear(inner: int, top: int) -> list[str]:
    """Delete what is in a directory, but bring directories up to ``top``; returns their names there."""
    brought = []
    with os.scandir(inner) as entries:
        for entry in entries:
            name = entry.name
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(name, dir_fd=inner)
                continue
            if inner != top:
                name = secrets.token_hex(16)
                with _opened(entry.name, inner, os.O_DIRECTORY) as found:
                    path_of(found).chmod(PRIVATE)  # without, it could not be moved
                os.rename(entry.name, name, src_dir_fd=inner, dst_dir_fd=top)
            brought.append(name)
    return brought


@contextmanager
def _scanned(name: str, parent: int) -> Iterator[int]:
    """Give a directory so that it can be listed, whatever its mode was. Raises `OSError`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        with _opened(name, parent, os.O_DIRECTORY) as found:
            path_of(found).chmod(PRIVATE)
        descriptor = os.open(name, flags, dir_fd=parent)
    try:
        os.fchmod(descriptor, PRIVATE)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened(name: str, parent: int, flags: int = 0) -> Iterator[int]:
    """Hold what has a name, a link as itself; it cannot be read so (O_PATH)."""
    descriptor = os.open(name, _NO_LINK | flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
