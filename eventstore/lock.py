"""One process at a time: an advisory lock on a file that names its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ._errors import StoreLocked


class FileLock:
    """Held from construction to `release`, or until the process ends however it ends.

    Raises `StoreLocked` with the pid of the holder, `OSError` when there can be no such file.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 32).decode(errors="replace").strip()
            os.close(self._file)
            raise StoreLocked(str(path.parent), int(holder) if holder.isdigit() else None) from None
        try:
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except OSError:
            os.close(self._file)
            raise

    def release(self) -> None:
        os.close(self._file)
