"""Slurm's commands as asyncio subprocesses: sbatch, squeue, scancel, and sacct where there is one."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from errno import ENOENT

import msgspec

_AT_ONCE = 8
"""Commands at one time; more make slurmctld slower, not faster."""
_LONGEST_ANSWER = 60.0
"""Seconds until a command is given up; without slurmctld, each ends by itself after nine."""
_SEPARATOR = "\x1f"
_FIELDS = ("JobID", "State", "exit_code", "StartTime", "EndTime", "RestartCnt", "NodeList", "Reason", "Name")
_FORMAT = ",".join(f"{field}:{_SEPARATOR}" for field in _FIELDS)  # without a width, nothing is cut off
_ACCOUNTED = ("JobIDRaw", "State", "ExitCode", "Start", "End", "NodeList", "JobName")
_NAMES_AT_ONCE = 500
"""Names that sacct is asked for at one time: a command line has an end."""
_PASSED = ("PATH", "HOME", "SLURM_CONF")
_SUSPENDED = frozenset({"SUSPENDED", "STOPPED"})
_PENDING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"}) | _SUSPENDED
_SAID = re.compile(r"Batch job submission failed: *(.*)")
_UNCLEAR = re.compile(r"contact|connect|communicat|timed out|timeout|socket|bytes|message|protocol", re.I)
"""What sbatch says when it does not know whether slurmctld has taken a job."""
_NEVER = re.compile(
    r"invalid (partition|account|qos|feature|generic resource|wckey|gres)|not available$|cannot be satisfied|"
    r"can not be satisfied|time limit is invalid|not permitted to use|permission denied|access denied|"
    r"more processors requested|memory specification|node count specification",
    re.I,
)
"""What slurmctld says of a job that it will not take later, either."""


class Unknown(Exception):
    """Slurm could not be asked, or did not answer. This says nothing about any job."""


class NotTaken(Exception):
    """Slurm did not take a job; it may later."""


class Refused(Exception):
    """Slurm did not take a job, and never will."""


class Row(msgspec.Struct, frozen=True):
    """What Slurm says of one job; ``status`` is as of `os.waitstatus_to_exitcode`, once it has ended.

    ``restarts`` counts how often Slurm has started it again.
    """

    id: str
    state: str
    status: int
    started: datetime | None
    ended: datetime | None
    restarts: int
    nodes: str
    reason: str

    @property
    def waits(self) -> bool:
        return self.state in _PENDING

    @property
    def is_suspended(self) -> bool:
        return self.state in _SUSPENDED

    @property
    def has_ended(self) -> bool:
        return self.state not in _PENDING | _RUNNING


Answer = dict[str, list[Row]]
"""What is told of jobs, by their names."""


class Commands:
    """Slurm's commands, as they are found in the server's ``PATH``. All raise `Unknown`."""

    def __init__(self) -> None:
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._found: dict[str, str] = {}
        kept = {name: os.environ[name] for name in _PASSED if name in os.environ}
        self._environment = {**kept, "SLURM_TIME_FORMAT": "%s", "TZ": "UTC0", "LC_ALL": "C.UTF-8"}

    async def submit(self, command: Sequence[str], options: Sequence[str], env: Mapping[str, str]) -> str:
        """Hand a job to Slurm, which sees ``env`` and nothing else of the server's; return Slurm's id.

        Raises `NotTaken`, `Refused`; after `Unknown` there may be such a job or not.
        """
        conf = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
        try:
            status, out, err = await self._run(
                ["sbatch", "--parsable", "--no-requeue", *options, *command], {**env, **conf}
            )
        except OSError as error:
            raise NotTaken(f"sbatch cannot be run: {error.strerror}") from error
        if status == 0:
            return out.strip().partition(";")[0]
        said = _SAID.search(err)
        reason = said[1].strip() if said else _last_line(err)
        if status < 0 or _UNCLEAR.search(reason):
            raise Unknown(f"sbatch: {reason or f'ended by signal {-status}'}")
        # What it does not understand itself, it says without asking slurmctld.
        is_final = _NEVER.search(reason) and (said or reason.startswith("Invalid"))
        raise (Refused if is_final else NotTaken)(reason or f"sbatch ended with {status}")

    async def queue(self) -> Answer:
        """Return what Slurm knows of all jobs of this user, by their names; ended ones for some minutes."""
        return _parsed(
            await self._ask("squeue", "--noheader", "--me", "--states=all", "-O", _FORMAT), _FIELDS, _queued
        )

    async def accounted(self, names: Collection[str], since: datetime) -> Answer:
        """Return what Slurm's accounting has of jobs of these names that were there after ``since``.

        That is nothing where there is no accounting, as in most places, or it is away, as it may be for days.
        """
        asked, found = [*names], dict[str, list[Row]]()
        with suppress(Unknown):
            for first in range(0, len(asked), _NAMES_AT_ONCE):
                out = await self._ask(
                    "sacct", "--allocations", "--noheader", "--parsable2", f"--delimiter={_SEPARATOR}",
                    f"--name={','.join(asked[first : first + _NAMES_AT_ONCE])}",
                    f"--starttime={since:%Y-%m-%dT%H:%M:%S}", f"--format={','.join(_ACCOUNTED)}",
                )  # fmt: skip
                found |= _parsed(out, _ACCOUNTED, _from_accounting)
        return found

    async def cancel(self, name: str, number: str) -> None:
        """Ask Slurm to end a job, by its id if that is known. It has ended when Slurm says so."""
        await self._ask("scancel", "--me", f"--name={name}", *filter(None, [number]))

    async def _ask(self, *command: str) -> str:
        try:
            status, out, err = await self._run(command, self._environment)
        except OSError as error:
            raise Unknown(f"{command[0]} cannot be run: {error.strerror}") from error
        if status:
            raise Unknown(f"{command[0]}: {_last_line(err) or f'ended with {status}'}")
        return out

    async def _run(self, command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str, str]:
        """Run a command to its end, which comes soon in any case. Raises `OSError`, `Unknown`."""
        name, *arguments = command
        path = self._path(name)
        async with self._gate:
            process = await asyncio.create_subprocess_exec(
                path, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=env
            )
            try:
                async with asyncio.timeout(_LONGEST_ANSWER):
                    out, err = await process.communicate()
            except TimeoutError:
                raise Unknown(f"{name} does not answer") from None
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        assert process.returncode is not None
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def _path(self, name: str) -> str:
        """Return where a command is; the ``PATH`` of a job has no say in this. Raises `OSError`."""
        if name not in self._found:
            if (path := shutil.which(name)) is None:
                raise FileNotFoundError(ENOENT, "it is not in PATH")
            self._found[name] = path
        return self._found[name]


def _parsed(out: str, fields: Sequence[str], row: Callable[[dict[str, str]], Row]) -> Answer:
    """Return what is told of jobs, by their names. A line that makes no sense is none."""
    found = defaultdict[str, list[Row]](list)
    for line in out.splitlines():
        with suppress(ValueError, OverflowError, OSError):
            texts = map(str.strip, line.removesuffix(_SEPARATOR).split(_SEPARATOR))
            told = dict(zip(fields, texts, strict=True))
            sense = row(told)
            found[told[fields[-1]]].append(sense)
    return dict(found)


def _queued(told: dict[str, str]) -> Row:
    return Row(
        id=told["JobID"],
        state=told["State"],
        status=os.waitstatus_to_exitcode(int(told["exit_code"])),
        started=_time(told["StartTime"]),
        ended=_time(told["EndTime"]),
        restarts=int(told["RestartCnt"]),
        nodes="" if told["NodeList"] == "(null)" else told["NodeList"],
        reason="" if told["Reason"] == "None" else told["Reason"],
    )


def _from_accounting(told: dict[str, str]) -> Row:
    status, _, signal = told["ExitCode"].partition(":")
    return Row(
        id=told["JobIDRaw"],
        state=told["State"].split(maxsplit=1)[0],  # CANCELLED by 0
        status=-int(signal) if int(signal) else int(status),
        started=_time(told["Start"]),
        ended=_time(told["End"]),
        restarts=0,
        nodes="" if told["NodeList"] == "None assigned" else told["NodeList"],
        reason="",
    )


def _time(text: str) -> datetime | None:
    return datetime.fromtimestamp(int(text), UTC) if text.isdigit() and text != "0" else None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return re.sub(r"^\w+: (error|fatal): ", "", lines[-1].strip()) if lines else ""
