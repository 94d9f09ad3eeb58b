"""What supervisors put on record of the programs they start, and what that tells of a program nobody saw.

A job's directory has a record for each try to start its program, named after the version of the event that
decided it, and numbered. Whoever makes it first decides: a supervisor, which then starts the program, or a
server that found none, and no program will be started under it.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack, suppress
from errno import EINVAL
from pathlib import Path
from typing import BinaryIO

import msgspec

from eventstore.processes import boot_id
from uws.files import JobDirectory


class Supervisor(msgspec.Struct, frozen=True):
    """Who supervises a program: the process, and when it started, in clock ticks since the start ``boot``.

    ``file`` is the record's inode: a copy of the record speaks of another server's program. The program
    ``began`` in microseconds since 1970, UTC.
    """

    pid: int
    start: int
    boot: str
    file: int
    began: int


class End(msgspec.Struct, frozen=True):
    """How a program ended, in microseconds since 1970, UTC; ``status`` is minus the signal that ended it.

    One that could not be started has the system's reason, ``errno``, and ``what`` it was that failed.
    ``exceeded`` is the limit it did not keep. The rest is as in `uws.model.events.JobCompleted`.
    """

    ended: int
    status: int = 0
    cpu: float = 0.0
    memory: int = 0
    exceeded: str | None = None
    errno: int | None = None
    what: str = ""


_LONGEST = 8192
"""Bytes of a record; there may be more, of a program's making."""
_supervisor = msgspec.json.Decoder(Supervisor)
_end = msgspec.json.Decoder(End)


class Record:
    """The record of one start."""

    def __init__(self, path: Path, supervisor: Supervisor | None = None) -> None:
        """``supervisor`` is known already, whatever the program has done to its record."""
        self.path = path
        self.supervisor = supervisor
        self.end: End | None = None
        self._is_own = supervisor is not None
        if supervisor is None:
            self.read()

    def read(self, opened: BinaryIO | None = None) -> End | None:
        """Return how the program ended, if that stands there now; what cannot be read is as nothing.

        It is read from what was ``opened`` before, too: the file may have been moved with its directory.
        """
        if opened:
            self._read(opened)
        if self.end is None:
            with suppress(OSError), self.open() as file:
                self._read(file)
        return self.end

    def open(self) -> BinaryIO:
        """Open the file. Raises `OSError`, also for what a program may have put there that is none."""
        # While it is being made, it may have another name.
        file = JobDirectory(self.path.parents[1]).open(self.path, sole=False)
        if file is None:
            raise OSError(EINVAL, os.strerror(EINVAL), str(self.path))
        return file

    def _read(self, file: BinaryIO) -> None:
        with suppress(OSError, msgspec.MsgspecError):
            file.seek(0)
            first, _, second = file.read(_LONGEST).partition(b"\n")
            supervisor = _supervisor.decode(first)
            self._is_own = os.fstat(file.fileno()).st_ino == supervisor.file
            self.supervisor = supervisor
            if second := second.strip():
                self.end = _end.decode(second)

    @property
    def seconds(self) -> float:
        """How long the program ran; 0 when that is not known."""
        return (self.end.ended - self.supervisor.began) / 1e6 if self.end and self.supervisor else 0.0

    def watch(self) -> int | None:
        """Return a descriptor of the supervisor's process (pidfd_open(2)), None when it has ended.

        Raises `OSError` when there is no descriptor to be had.
        """
        who = self.supervisor
        if who is None or not self._is_own or who.boot != boot_id():
            return None
        try:
            descriptor = os.pidfd_open(who.pid)
        except ProcessLookupError:
            return None
        with ExitStack() as opened:
            opened.callback(os.close, descriptor)
            # Asked after opening, it is the process that was opened.
            if started(who.pid) != who.start:
                return None
            opened.pop_all()
        return descriptor


def next_record(directory: JobDirectory, start: int) -> Path:
    """Return where the next try to start a program goes on record, after the event of version ``start``."""
    return directory.starts / f"{start}-{max(_tries(directory, start), default=0) + 1}"


def has_starts(directory: JobDirectory) -> bool:
    """Whether there is a record of any try to start a program here."""
    try:
        return bool(os.listdir(directory.starts))
    except FileNotFoundError:
        return False


def has_supervisor(directory: JobDirectory, start: int) -> bool:
    """Whether a program of this start, wherever it was decided, has a supervisor on this machine."""
    for number in _tries(directory, start):
        descriptor = Record(directory.starts / f"{start}-{number}").watch()
        if descriptor is not None:
            os.close(descriptor)
            return True
    return False


def last_record(directory: JobDirectory, start: int) -> Record | None:
    """Return the record of a program that was started after the event of version ``start``.

    Where there is none, none will be made: a launcher that an earlier server asked comes too late. Raises
    `FileNotFoundError` when nothing tells, since what stood there was deleted, and `OSError`.
    """
    while True:
        tries = _tries(directory, start)
        if tries:
            record = Record(directory.starts / f"{start}-{max(tries)}")
            if record.supervisor and not (record.end and record.end.errno):
                return record
        with suppress(FileExistsError):
            next_record(directory, start).open("x").close()
            return None


def has_restarted(mark: Path) -> bool:
    """Whether the machine has since `leave_mark`: the last that was written before may not be on the disk."""
    try:
        return mark.read_text() != boot_id()
    except FileNotFoundError:
        return True


def leave_mark(mark: Path) -> None:
    """Note in which run of the machine this is. Raises `OSError`."""
    draft = mark.with_name(f"{mark.name}.new")
    draft.unlink(missing_ok=True)
    with open(draft, "x", opener=_for_us_alone) as file:
        file.write(boot_id())
        file.flush()
        os.fsync(file)
    draft.replace(mark)


def _for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the machine did; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def signal_name(number: int) -> str:
    """Return what a signal is called."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _tries(directory: JobDirectory, start: int) -> list[int]:
    try:
        names = os.listdir(directory.starts)
    except FileNotFoundError:
        return []
    return [int(match[1]) for name in names if (match := re.fullmatch(rf"{start}-(\d{{1,9}})", name))]
