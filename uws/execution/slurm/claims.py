"""Who has a submission: the script that runs its program, or the server, which then knows that none will.

The record of a submission is named after the version of the event that decided the start, and numbered, as
those of supervisors are. The server's is empty.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import msgspec

from uws.files import JobDirectory

_LONGEST = 4096
_TIME = re.compile(r"(\d+)m(\d+\.\d+)s")


class Claim(msgspec.Struct, frozen=True):
    """What the script has on record of its program: Slurm's id, the node, and times in ns since 1970, UTC.

    ``ended`` is 0 as long as it runs; ``status`` and ``used`` are as the shell tells them; ``told`` is
    whether Slurm has told it to end.
    """

    job: str = ""
    host: str = ""
    began: int = 0
    ended: int = 0
    status: int = 0
    told: bool = False
    used: str = ""

    @property
    def code(self) -> int:
        """How the program ended: its exit status, or minus the signal that ended it."""
        return 128 - self.status if 128 < self.status <= 128 + 64 else self.status

    @property
    def by_itself(self) -> bool:
        """Whether the program has ended without being told to, whatever Slurm makes of that."""
        return self.ended > 0 and not self.told

    @property
    def cpu(self) -> float:
        """Seconds of processor time."""
        return round(sum(60 * int(m) + float(s) for m, s in _TIME.findall(self.used)), 3)


_decoder = msgspec.json.Decoder(Claim)


def attempt(directory: JobDirectory, start: int) -> tuple[int, Path]:
    """Return the number and the record of the first submission that the server has not given up."""
    for number in count(1):
        path = directory.starts / f"{start}-{number}"
        try:
            if path.lstat().st_size:
                return number, path
        except OSError:
            return number, path
    raise AssertionError("not reached")


def read(directory: JobDirectory, path: Path) -> Claim | None:
    """Return what stands in a record, None where there is none. A program may have put anything there."""
    try:
        # While it is being made, it has another name.
        file = directory.open(path, sole=False)
    except OSError:
        return None
    if file is None:
        return Claim() if os.path.lexists(path) else None
    with file:
        text = file.read(_LONGEST)
    with suppress(msgspec.MsgspecError):
        return _decoder.decode(text)
    return Claim()


def give_up(path: Path) -> bool:
    """Claim a submission for the server: its program will not be run. False when it was, or is.

    Raises `FileNotFoundError` where the job's directory is not here: then nobody can tell.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        return path.lstat().st_size == 0
    return True


def moment(nanoseconds: int) -> datetime | None:
    """Return a time as it stands in a record, None for none."""
    with suppress(OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC) if nanoseconds else None
    return None
