"""One process at a time: an advisory lock on a file that names its holder."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Self

from ._errors import StoreLocked

_TRIES, _BETWEEN_TRIES = 200, 0.01


class FileLock:
    """Held from `take` to `release`, or until the process ends however it ends."""

    def __init__(self, file: int) -> None:
        self._file = file

    @classmethod
    async def take(cls, path: Path) -> Self:
        """Take the lock, of which ``path`` is the file; it is made when there is none.

        A holder that was killed while it started a program has left the lock to that child for as long as
        that is no program yet: it is waited for, at most two seconds. Raises `StoreLocked` with the pid of
        the holder, `OSError` when there can be no such file.
        """
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for tries_left in reversed(range(_TRIES)):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    named = os.pread(file, 32, 0).decode(errors="replace").strip()
                    holder = int(named) if named.isdigit() else None
                    if holder is None or _is_there(holder) or not tries_left:
                        raise StoreLocked(str(path.parent), holder) from None
                await asyncio.sleep(_BETWEEN_TRIES)
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(file)
            raise
        return cls(file)

    def release(self) -> None:
        os.close(self._file)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
